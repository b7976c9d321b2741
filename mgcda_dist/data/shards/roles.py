"""Roles of a sample's members: which is the image, which the label, and which neither."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgcda_dist.data.decode import decode_ids
from mgcda_dist.data.labels import known_ids
from mgcda_dist.data.listing import IMAGE_SUFFIXES
from mgcda_dist.errors import ShardError

__all__ = ["OWN", "Extensions"]

_EITHER = ("png", "bmp", "tif", "tiff")
"""Extensions that images and labels have alike; their pixels say which it is."""
_IMAGE = ("jpg", "jpeg", "webp", "image.jpg", "image.png", "rgb.jpg", "rgb.png", *_EITHER)
_LABEL = ("label.png", "labels.png", "mask.png", "seg.png", "labelids.png", *_EITHER)


@dataclass(frozen=True)
class Extensions:
    """Names of the members of a sample.

    Attributes:
        image, label: suffixes after the first dot of the members' names; of several present the first counts.
        safe_keys: keys are made by `safe_key`; False: older versions took the names as they are.
    """

    image: tuple[str, ...] = _IMAGE
    label: tuple[str, ...] = _LABEL
    safe_keys: bool = True

    @classmethod
    def stored(cls, options: Mapping[str, Any]) -> Extensions:
        """Those that a manifest recorded."""
        parts = {what: tuple(options[what]) for what in ("image", "label") if what in options}
        return cls(**parts, safe_keys=bool(options.get("safe_keys", False)))

    def reads(self, extension: str) -> bool:
        """True for an extension that an image, a label or the metadata of a sample may have."""
        return extension in self.image or extension in self.label or extension == "json"

    def choose(
        self, where: str, found: Collection[str], label_format: str, read: Callable[[str], bytes]
    ) -> tuple[str, str | None] | None:
        """The extensions of a sample's image and label; None for the label: it has none; None: no picture at all.

        Args:
            where: tar file and key.
            found: extensions of the sample's members.
            label_format: of the labels; `unlabelled` (also for objects): the pixels of images are not looked at.
            read: extension → bytes of the member.

        Raises:
            ShardError: no image, or members whose names and pixels do not say which is the image.
        """
        image = next((e for e in self.image if e in found), None)
        label = next((e for e in self.label if e in found and e != image), None)
        if image is None:
            if not any(e in self.label or f".{e.rpartition('.')[2]}" in IMAGE_SUFFIXES for e in found):
                return None
            raise ShardError(where, f"no image among the members {', '.join(sorted(found))}", _remedy(found))
        if label_format == "unlabelled" or image not in _EITHER or self.image != _IMAGE:
            return image, label
        if label is not None and label not in _EITHER:
            return image, label
        pictures = [e for e in self.image if e in found]
        ids = [e for e in pictures if _holds_ids(read(e), where, label_format)]
        images = [e for e in pictures if e not in ids]
        if len(images) == 1 and len(ids) <= 1:
            return images[0], ids[0] if ids else None
        problem = f"{', '.join(ids) or 'none of ' + ', '.join(pictures)} holds ids of {label_format}, as a label does"
        raise ShardError(where, f"{problem}: which is the image among {', '.join(sorted(found))}?", _remedy(found))

    @staticmethod
    def kind(image: str) -> str:
        """`jpg`, `png`, `webp`, `bmp` or `tif`, of the extension of an image."""
        last = image.rpartition(".")[2]
        return {"jpeg": "jpg", "tiff": "tif"}.get(last, last)


OWN = Extensions(("jpg", "png", "webp", "bmp", "tif"), ("label.png",), safe_keys=False)
"""Those of shards that were unpacked; their keys are safe already."""


def _remedy(found: Collection[str]) -> str:
    remedy = "name the extensions of images and labels (`image_ext`, `label_ext`)"
    if any("." in e and f".{e.rpartition('.')[2]}" in IMAGE_SUFFIXES for e in found):
        return f"{remedy}; a key ends at the first dot of the file name, so base names must have no dot"
    return remedy


def _holds_ids(data: bytes, where: str, label_format: str) -> bool:
    """True for a picture of one channel with nothing but ids of the format."""
    try:
        ids = decode_ids(data, where)
    except ShardError:
        return False
    return bool(np.isin(np.unique(ids), list(known_ids(label_format))).all())
