"""Fishyscapes: labels for frames of Lost and Found, and objects laid over frames of Cityscapes (Static).

Its archives hold no photos; they come from the base dataset, whose `leftImg8bit/` must lie (or be linked) beside them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import isfile
from pathlib import Path

import numpy as np

from mgcda_dist.data.decode import decode_image
from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.sources.source import (
    FramePair,
    Root,
    Source,
    SourceSet,
    frame_set,
    images_in,
    passed_over,
    safe_key,
)
from mgcda_dist.errors import ShardError

__all__ = ["FISHYSCAPES_LOST_AND_FOUND", "FISHYSCAPES_STATIC"]

_LOST_AND_FOUND = "fishyscapes_lostandfound/*_labels.png and Lost and Found's leftImg8bit/{train,test}/DRIVE/"
_STATIC = "fs_val_v{1,2,3}/NNNN_*_labels.png and NNNN_*rgb.npz, and Cityscapes' leftImg8bit/val/CITY/"
_VERSION = re.compile(r"(?:fs_val_v|fishyscapes-)([123])(?:\.0\.0)?")
_NAME = re.compile(r"([0-9]+)_(.+)_labels")


@dataclass(frozen=True)
class _Overlaid:
    """A frame of Static: its key, the frame of Cityscapes, what is added to it, and its label."""

    key: str
    base: Path
    overlay: Path | None
    label: Path


def _open_lost_and_found(folder: Path, split: str) -> SourceSet:
    _only_val(folder, split)
    top = folder / "fishyscapes_lostandfound"
    labels = _labels_in(top, _LOST_AND_FOUND)
    pairs = [FramePair(safe_key(f"{n}_{name}"), _base(folder, name), path) for n, name, path in labels]

    def check(chosen: Sequence[FramePair]) -> None:
        _check_bases([pair.image for pair in chosen], _LOST_AND_FOUND)

    # There has been one release of these labels.
    return replace(frame_set(pairs, [Root(top, below=True)], "binary", check=check), metadata={"version": "1.0.0"})


def _open_static(folder: Path, split: str) -> SourceSet:
    """The frames of the one version that is there."""
    _only_val(folder, split)
    found = {m[1]: path for path in sorted(folder.iterdir()) if path.is_dir() and (m := _VERSION.fullmatch(path.name))}
    if len(found) != 1:
        problem = f"{len(found)} versions of the overlays are here: {', '.join(found) or 'none'}"
        raise ShardError(str(folder), problem, f"expected {_STATIC}, one version, in a folder named as its archive")
    ((version, top),) = found.items()
    frames = [
        _Overlaid(safe_key(f"{number}_{name}"), _base(folder, name), _overlay(label, number), label)
        for number, name, label in _labels_in(top, _STATIC)
    ]
    used = (path for frame in frames for path in (frame.overlay, frame.label) if path is not None)
    ledger = passed_over([Root(top, below=True)], used)
    return SourceSet(LazySamples(frames, _lay_over, _check_static), "binary", {"version": f"{version}.0.0"}, ledger)


def _only_val(folder: Path, split: str) -> None:
    if split != "val":
        raise ShardError(str(folder), f"no split {split!r} is public", "expected val")


def _labels_in(folder: Path, layout: str) -> list[tuple[str, str, Path]]:
    """Number, name of the base frame and file of each label."""
    labels = [(m[1], m[2], p) for p in images_in(folder, layout, below=True) if (m := _NAME.fullmatch(p.stem))]
    if not labels:
        raise ShardError(str(folder), "no label named NNNN_*_labels.png here", f"expected {layout}")
    return labels


def _base(folder: Path, name: str) -> Path:
    """The photo of that name, in whichever split of the base dataset it lies; without one, the place in the first."""
    place = name.rsplit("_", 2)[0]
    file = f"{place}/{name}_leftImg8bit.png"
    candidates = [folder / "leftImg8bit" / split / file for split in ("val", "test", "train")]
    return next(filter(isfile, candidates), candidates[0])


def _check_bases(photos: Sequence[Path], layout: str) -> None:
    for path in photos:
        if not isfile(path):
            raise ShardError(str(path), "no such photo of the base dataset", f"expected {layout}")


def _overlay(label: Path, number: str) -> Path | None:
    found = sorted(label.parent.glob(f"{number}_*rgb.npz")) or sorted(label.parent.glob(f"{number}_*rgb.png"))
    return found[0] if found else None


def _check_static(frames: Sequence[_Overlaid]) -> None:
    _check_bases([frame.base for frame in frames], _STATIC)
    for frame in frames:
        if frame.overlay is None:
            problem = f"no overlay {frame.label.name.partition('_')[0]}_*rgb.npz beside it"
            raise ShardError(str(frame.label), problem, f"expected {_STATIC}")


def _lay_over(frame: _Overlaid) -> SourceSample:
    """The frame with its object, lossless; an overlay that is a PNG is the whole picture and passes unchanged."""
    label = frame.label.read_bytes()
    assert frame.overlay is not None
    if frame.overlay.suffix == ".png":
        return SourceSample(
            frame.key, frame.overlay.read_bytes(), "png", label, image_file=frame.overlay, label_file=frame.label
        )
    photo = decode_image(frame.base.read_bytes(), str(frame.base))
    try:
        with np.load(frame.overlay) as content:
            difference = content["rgb"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ShardError(
            str(frame.overlay), f"not a readable overlay ({error})", "download the archive again"
        ) from error
    if difference.shape != photo.shape:
        problem = f"the overlay is {difference.shape}, the photo {photo.shape}"
        raise ShardError(str(frame.overlay), problem, "check that both are of the original size")
    # The release holds finished minus original picture.
    picture = np.clip(photo.astype(np.int32) + difference.astype(np.int32), 0, 255).astype(np.uint8)
    return SourceSample(frame.key, png_bytes(picture[..., ::-1]), "png", label, label_file=frame.label)


FISHYSCAPES_LOST_AND_FOUND = Source(
    "fishyscapes_lost_and_found",
    _open_lost_and_found,
    url="https://fishyscapes.com/dataset",
    licence="labels CC BY 4.0; photos: Lost and Found, research only",
    options=(),
    counts={"val": 100},
)

FISHYSCAPES_STATIC = Source(
    "fishyscapes_static",
    _open_static,
    url="https://fishyscapes.com/dataset",
    licence="objects of Pascal VOC; photos: Cityscapes licence, non-commercial",
    options=(),
    counts={"val": 30},
)
