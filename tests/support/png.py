"""PNG files of kinds that no library writes."""

from __future__ import annotations

import struct
import zlib

__all__ = ["grey_png"]


def grey_png(height: int, width: int, depth: int, rows: bytes) -> bytes:
    """A grey PNG.

    Args:
        height: in the header, px.
        width: in the header, px.
        depth: bits per pixel.
        rows: each a byte 0 (no filter) and its packed pixels.
    """
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
