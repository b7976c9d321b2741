"""Images that two splits share: by their bytes, or, if re-encoded or resized, by a difference hash.

The hash is that of the image at 17×16 grey pixels, with one bit per neighbouring pair, "right is brighter".
Measured on CamVid, IDD-Lite and RoadAnomaly frames: copies at JPEG quality 70 and copies at half size differ in at most
19 of 256 bits, different scenes in 63 or more, neighbouring frames of a drive in 1 to 30.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from mgcda_dist.data.shards.manifest import Manifest

__all__ = ["Fingerprint", "Leak", "find_leaks", "fingerprint"]

_SIDE = 16
_SAME_BITS = 20


class Fingerprint(NamedTuple):
    """A sample's folder name, key, 16 bytes over its encoded image, and 32 bytes of difference hash (empty: none)."""

    folder: str
    key: str
    exact: bytes
    look: bytes


class Leak(NamedTuple):
    """Two samples with the same image; `bits` of 256 differ, None: the bytes are equal."""

    first: Fingerprint
    second: Fingerprint
    bits: int | None


def fingerprint(manifest: Manifest, key: str, encoded: bytes, image: np.ndarray | None) -> Fingerprint:
    """The fingerprint of a sample.

    Args:
        encoded: its image bytes.
        image: the decoded image, uint8 H×W×3 RGB; None: compare by bytes only.
    """
    look = b"" if image is None else _look(image)
    return Fingerprint(str(manifest.folder), key, hashlib.blake2b(encoded, digest_size=16).digest(), look)


def find_leaks(first: list[Fingerprint], second: list[Fingerprint]) -> Iterator[Leak]:
    """Samples of the second folder that the first holds as well, each with the nearest sample of the first."""
    exact = {item.exact: item for item in first}
    rest: list[Fingerprint] = []
    for item in second:
        if item.exact in exact:
            yield Leak(exact[item.exact], item, None)
        elif item.look:
            rest.append(item)
    seen = [item for item in first if item.look]
    if not seen:
        return
    table = _bits(seen)
    for item, bits in zip(rest, _bits(rest), strict=True):
        differing = np.bitwise_count(table ^ bits).sum(axis=1)
        nearest = int(differing.argmin())
        if differing[nearest] <= _SAME_BITS:
            yield Leak(seen[nearest], item, int(differing[nearest]))


def _look(image: np.ndarray) -> bytes:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


def _bits(items: list[Fingerprint]) -> np.ndarray:
    """uint64[n, 4]."""
    return np.frombuffer(b"".join(item.look for item in items), np.uint64).reshape(-1, 4)
