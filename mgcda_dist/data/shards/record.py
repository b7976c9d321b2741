"""What a dataset reader hands to the shard writer: one sample, still encoded."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["SourceSample"]


@dataclass(frozen=True)
class SourceSample:
    """One frame, or one object to paste.

    Attributes:
        key: unique within the dataset split; letters, digits, `_`, `-`, `/`; no dots (WebDataset splits at the first dot).
        image: encoded image bytes (JPEG, PNG or WebP). For an object: PNG with alpha, the alpha being the object's mask.
        image_ext: `jpg`, `png` or `webp`.
        label: PNG bytes, 8-bit single channel, raw ids of the dataset's own label format; None: unlabelled.
        meta: small JSON-able facts (source photo, category, credit), stored as `KEY.json` when not empty.
    """

    key: str
    image: bytes
    image_ext: str
    label: bytes | None = None
    meta: dict[str, str | int | float] = field(default_factory=dict)
