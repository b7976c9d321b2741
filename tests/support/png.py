"""PNG files of kinds that no library writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np

__all__ = ["grey_png", "png"]


def grey_png(height: int, width: int, depth: int, rows: bytes) -> bytes:
    """A grey PNG.

    Args:
        height: in the header, px.
        width: in the header, px.
        depth: bits per pixel.
        rows: each a byte 0 (no filter) and its packed pixels.
    """
    return _file(height, width, depth, 0, [(b"IDAT", zlib.compress(rows))])


def png(
    height: int,
    width: int,
    depth: int,
    rows: np.ndarray,
    *,
    colour_type: int,
    before: Iterable[tuple[bytes, bytes]] = (),
    after: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of any kind.

    Args:
        height: px.
        width: px.
        depth: bits per channel.
        rows: height × bytes (or channels) of a row, without filters.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        before: chunks before the pixels: name and content.
        after: chunks behind them.
    """
    pixels = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for row in rows)
    return _file(height, width, depth, colour_type, [*before, (b"IDAT", zlib.compress(pixels)), *after])


def _file(height: int, width: int, depth: int, colour_type: int, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", head), *chunks, (b"IEND", b""))
    )
