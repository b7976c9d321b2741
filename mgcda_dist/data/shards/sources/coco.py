"""COCO instances → cutouts to paste as anomalies: one RGBA PNG per object, cropped to it.

Categories that Cityscapes knows would teach the network that known things are anomalies; they are left out. A split is
a set of photos (`train2017`, `val2017`), so no photo gives objects to two splits.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from os.path import isfile
from pathlib import Path

import cv2
import numpy as np

from mgcda_dist.choices import CLASS_SPACES, Exif
from mgcda_dist.data.decode import decode_image
from mgcda_dist.data.header import read_header
from mgcda_dist.data.ledger import Ledger
from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.sources.coco_json import Annotations, Photo, Polygon, read_annotations
from mgcda_dist.data.shards.sources.source import Source, SourceSet, safe_key
from mgcda_dist.errors import ShardError

__all__ = ["COCO", "KNOWN_TO_CITYSCAPES", "STREET_FURNITURE"]

KNOWN_TO_CITYSCAPES = frozenset(
    ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck", "traffic light", "stop sign")
)
_OTHER_NAMES = ("pedestrian", "people", "cyclist", "bike", "motorbike", "van")
"""Of what Cityscapes knows, in other data sets in this format."""
STREET_FURNITURE = frozenset(("fire hydrant", "parking meter", "bench"))
_LAYOUT = "SPLIT2017/*.jpg and annotations/instances_SPLIT2017.json"


@dataclass(frozen=True)
class _Object:
    """One annotation: the photo, its size as listed, polygons, what it is; terms, where photos are chosen by them."""

    key: str
    path: Path
    photo: Photo
    polygons: tuple[Polygon, ...]
    category: str
    terms: Mapping[str, str] = field(default_factory=dict)


def _open(
    folder: Path,
    split: str,
    *,
    min_area_px: int = 1024,
    drop_cut: bool = False,
    drop_street_furniture: bool = False,
    licence: Sequence[str] = (),
    exif: Exif | None = None,
) -> SourceSet:
    """Objects in the order of photo and annotation.

    Args:
        split: `train` or `val` (or the full `train2017`).
        min_area_px: smaller objects are left out; the default is COCO's own bound of "small".
        drop_cut: leave out objects that touch the border of the photo.
        drop_street_furniture: leave out fire hydrants, parking meters and benches, too.
        licence: ids of the file's `licenses`; photos under others, or of none, give no object. Each object then carries
            the name of its photo's licence and the photo's origin, for the attribution. Empty: all photos.
        exif: use of the photos' orientation marks, as `EncodeOptions.exif`.
    """
    name = split if split.endswith("2017") else f"{split}2017"
    content = read_annotations(folder / "annotations" / f"instances_{name}.json", _LAYOUT)
    left_out = _names(KNOWN_TO_CITYSCAPES, _OTHER_NAMES, CLASS_SPACES["cityscapes19"])
    furniture = _names(STREET_FURNITURE) if drop_street_furniture else set[str]()
    categories = {category.id: category.name for category in content.categories}
    photos = {photo.id: photo for photo in content.images}
    allowed = _allowed(content, licence, folder)
    objects: list[_Object] = []
    ledger = Ledger()
    for note in sorted(content.annotations, key=lambda note: (_order(note.image_id), _order(note.id))):
        photo, category, polygons = photos[note.image_id], categories[note.category_id], note.polygons()
        reason = (
            "of a category that Cityscapes knows" if _plain(category) in left_out
            else "street furniture" if _plain(category) in furniture
            else "of a photo under another licence, or of none" if allowed and str(photo.license) not in allowed
            else "crowds" if note.iscrowd
            else "run-length coded" if isinstance(note.segmentation, dict)
            else "without an outline" if not polygons
            else f"under {min_area_px} px" if sum(map(_area, polygons)) < min_area_px
            else "cut by the border" if drop_cut and _is_cut(polygons, photo)
            else ""
        )  # fmt: skip
        if reason:
            ledger.add(reason, f"{photo.file_name}: annotation {note.id}")
            continue
        key = safe_key(f"{Path(photo.file_name).stem}_{note.id}")
        terms = {"licence": allowed[str(photo.license)], "origin": str(photo.flickr_url or "")} if allowed else {}
        objects.append(_Object(key, folder / name / photo.file_name, photo, tuple(polygons), category, terms))
    samples = LazySamples(objects, partial(_cut_out, exif=exif), _check_photos)
    return SourceSet(samples, "binary", passed_over=ledger)


def _check_photos(objects: Sequence[_Object]) -> None:
    missing = {item.path for item in objects if not isfile(item.path)}
    if missing:
        problem = f"no such photo ({len(missing)} are missing)"
        raise ShardError(str(min(missing)), problem, f"expected {_LAYOUT}")


def _allowed(content: Annotations, licences: Sequence[str], folder: Path) -> dict[str, str]:
    """The chosen licences: id → name; empty: nothing was chosen."""
    listed = content.licences()
    for chosen in licences:
        if chosen not in listed:
            known = ", ".join(f"{each} ({name})" for each, name in listed.items())
            remedy = f"listed are {known}" if known else "it lists no licences: leave the choice out"
            raise ShardError(str(folder), f"licence {chosen!r} is none of the annotation file", remedy)
    return {chosen: listed[chosen] for chosen in licences}


def _names(*groups: Collection[str]) -> set[str]:
    return {_plain(name) for names in groups for name in names}


def _plain(name: str) -> str:
    """A name as it is compared: `Traffic_Light` is a traffic light, LVIS's `car_(automobile)` a car."""
    return re.sub(r"[\W_]+", " ", re.sub(r"\(.*?\)", "", name)).strip().casefold()


def _order(identifier: int | str) -> tuple[bool, int | str]:
    return isinstance(identifier, str), identifier


def _area(polygon: Polygon) -> float:
    """Square pixels, by the shoelace formula."""
    x, y = np.reshape(polygon, (-1, 2)).T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _is_cut(polygons: Sequence[Polygon], photo: Photo) -> bool:
    points = np.concatenate(polygons).reshape(-1, 2)
    return bool((points < 1).any() or (points > (photo.width - 1, photo.height - 1)).any())


def _cut_out(item: _Object, exif: Exif | None) -> SourceSample:
    """The object's pixels with its mask as alpha, cropped to the mask."""
    listed = item.photo
    photo = _photo(item.path, (listed.height, listed.width), exif)
    if photo.shape[:2] != (listed.height, listed.width):
        raise ShardError(
            str(item.path),
            f"the photo is {photo.shape[1]}×{photo.shape[0]} px, the annotations are of {listed.width}×{listed.height}",
            "take the photos that were annotated, at their own size and turned as they were (`exif`)",
        )
    mask = np.zeros(photo.shape[:2], np.uint8)
    for polygon in item.polygons:
        # One by one: polygons given together would cut holes where they overlap.
        cv2.fillPoly(mask, [np.rint(np.array(polygon).reshape(-1, 2)).astype(np.int32)], (255,))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ShardError(f"{item.path}", f"object {item.key} lies outside of the photo", "check photo and annotations")
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    cutout = np.dstack([photo[box], mask[box]])
    meta: dict[str, str | int | float] = {"category": item.category, "photo": item.path.name, **item.terms}
    return SourceSample(item.key, png_bytes(cutout), "png", meta=meta)


@lru_cache(maxsize=8)
def _photo(path: Path, listed_px: tuple[int, int], exif: Exif | None) -> np.ndarray:
    """BGR; the next object is mostly from the same photo."""
    data = path.read_bytes()
    read_header(data, str(path)).refuse_unchosen(exif, listed_px, str(path))
    return decode_image(data, str(path), exif)[..., ::-1]


COCO = Source(
    "coco",
    _open,
    url="https://cocodataset.org",
    licence="annotations CC BY 4.0; photos: terms of Flickr",
    kind="objects",
    options=("min_area_px", "drop_cut", "drop_street_furniture", "licence", "exif"),
)
