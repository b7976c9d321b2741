"""COCO instances → cutouts to paste as anomalies: one RGBA PNG per object, cropped to it.

Categories that Cityscapes knows would teach the network that known things are anomalies; they are left out. A split is
a set of photos (`train2017`, `val2017`), so no photo gives objects to two splits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.sources.source import Source, SourceSet
from mgcda_dist.errors import ShardError

__all__ = ["COCO", "KNOWN_TO_CITYSCAPES", "STREET_FURNITURE"]

KNOWN_TO_CITYSCAPES = frozenset(
    ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck", "traffic light", "stop sign")
)
STREET_FURNITURE = frozenset(("fire hydrant", "parking meter", "bench"))
_LAYOUT = "SPLIT2017/*.jpg and annotations/instances_SPLIT2017.json"


@dataclass(frozen=True)
class _Object:
    """One annotation: the photo, the polygons (each a flat list x, y, x, y … in pixels) and what it is."""

    key: str
    photo: Path
    polygons: tuple[tuple[float, ...], ...]
    category: str


def _open(
    folder: Path, split: str, *, min_area_px: int = 1024, drop_cut: bool = False, drop_street_furniture: bool = False
) -> SourceSet:
    """Objects in the order of photo and annotation.

    Args:
        split: `train` or `val` (or the full `train2017`).
        min_area_px: smaller objects are left out; the default is COCO's own bound of "small".
        drop_cut: leave out objects that touch the border of the photo.
        drop_street_furniture: leave out fire hydrants, parking meters and benches, too.
    """
    name = split if split.endswith("2017") else f"{split}2017"
    file = folder / "annotations" / f"instances_{name}.json"
    content = _load(file)
    left_out = KNOWN_TO_CITYSCAPES | (STREET_FURNITURE if drop_street_furniture else frozenset())
    categories = {c["id"]: c["name"] for c in content["categories"] if c["name"] not in left_out}
    photos = {photo["id"]: photo for photo in content["images"]}
    objects: list[_Object] = []
    for note in sorted(content["annotations"], key=lambda note: (note["image_id"], note["id"])):
        # A crowd has no outline of one object; its segmentation is run-length coded.
        if note["category_id"] not in categories or note.get("iscrowd") or not isinstance(note["segmentation"], list):
            continue
        photo = photos.get(note["image_id"])
        if photo is None:
            problem = f"annotation {note['id']} is of photo {note['image_id']}, which is not listed"
            raise ShardError(str(file), problem, "download the annotations again")
        if note["area"] < min_area_px or (drop_cut and _is_cut(note["bbox"], photo)):
            continue
        polygons = tuple(tuple(polygon) for polygon in note["segmentation"] if len(polygon) >= 6)
        if polygons:
            path = folder / name / photo["file_name"]
            objects.append(_Object(f"{path.stem}_{note['id']}", path, polygons, categories[note["category_id"]]))
    missing = {item.photo for item in objects if not item.photo.is_file()}
    if missing:
        problem = f"no such photo ({len(missing)} are missing)"
        raise ShardError(str(min(missing)), problem, f"expected {_LAYOUT}")
    return SourceSet(LazySamples(objects, _cut_out), "binary")


def _load(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ShardError(str(file), "no such file", f"expected {_LAYOUT}") from None
    except ValueError as error:
        raise ShardError(str(file), f"not readable ({error})", "download the annotations again") from error


def _is_cut(box: list[float], photo: dict[str, Any]) -> bool:
    x, y, width, height = box
    return x < 1 or y < 1 or x + width > photo["width"] - 1 or y + height > photo["height"] - 1


def _cut_out(item: _Object) -> SourceSample:
    """The object's pixels with its mask as alpha, cropped to the mask."""
    photo = _photo(item.photo)
    mask = np.zeros(photo.shape[:2], np.uint8)
    for polygon in item.polygons:
        # One by one: polygons given together would cut holes where they overlap.
        cv2.fillPoly(mask, [np.rint(np.array(polygon).reshape(-1, 2)).astype(np.int32)], (255,))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ShardError(f"{item.photo}", f"object {item.key} lies outside of the photo", "check photo and annotations")
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    cutout = np.dstack([photo[box], mask[box]])
    return SourceSample(item.key, png_bytes(cutout), "png", meta={"category": item.category, "photo": item.photo.name})


@lru_cache(maxsize=8)
def _photo(path: Path) -> np.ndarray:
    """BGR; the next object is mostly from the same photo."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ShardError(str(path), "the photo cannot be decoded", "download it again")
    return image


COCO = Source(
    "coco",
    _open,
    url="https://cocodataset.org",
    licence="annotations CC BY 4.0; photos: terms of Flickr",
    kind="objects",
    options=("min_area_px", "drop_cut", "drop_street_furniture"),
)
