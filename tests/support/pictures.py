"""Picture files of every kind that is read, with the pixels that each stands for."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mgcda_dist.data.pixels import Pixels
from tests.support.png import png

__all__ = ["FRAME_KINDS", "LABEL_KINDS", "MARKED_KINDS", "exif_block", "frame_file", "saved", "turned"]

_CHANNELS = {"grey": 0, "grey_alpha": 4, "rgb": 2, "rgba": 6}  # PNG's colour types
_PALETTE = np.random.default_rng(5).integers(0, 256, (256, 3)).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


def turned(pixels: np.ndarray, mark: int) -> np.ndarray:
    """Pixels as a viewer shows them: Pillow's own turning."""
    picture = Image.fromarray(pixels)
    picture.getexif()[0x112] = mark
    return np.asarray(ImageOps.exif_transpose(picture))


def exif_block(mark: int) -> bytes:
    """EXIF with an orientation mark, as PNG holds it."""
    return _exif(mark)[6:]


def _exif(mark: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = mark
    return exif.tobytes()


def _channels(rgb: Pixels, layout: str) -> np.ndarray:
    colours = rgb if layout.startswith("rgb") else rgb[..., :1]
    alpha = np.where(np.arange(rgb.shape[0])[:, None] % 2, 90, 0) + np.zeros(rgb.shape[:2], int)  # half of it clear
    return np.dstack([colours, alpha]).astype(np.uint8) if layout.endswith("a") or "alpha" in layout else colours


def _shown(channels: np.ndarray) -> np.ndarray:
    """H×W×3 of grey or RGB, with or without alpha."""
    return channels[..., :3] if channels.shape[2] >= 3 else np.repeat(channels[..., :1], 3, axis=2)


def _packed(indices: np.ndarray, bits: int) -> np.ndarray:
    rows = np.unpackbits(indices[..., None], axis=2)[..., 8 - bits :]
    return np.packbits(rows.reshape(len(indices), -1), axis=1)


def _png(layout: str, bits: int, stretch: int = 257, *, late: bool = False) -> Callable[[Pixels, int], bytes]:
    def write(rgb: Pixels, mark: int) -> bytes:
        height, width = rgb.shape[:2]
        chunk = [(b"eXIf", exif_block(mark))] if mark != 1 else []
        channels = _channels(rgb, layout)
        if bits == 16:
            channels = (channels.astype(np.uint16) * stretch).astype(">u2")
        rows = channels if bits >= 8 else _packed(channels[..., 0] >> (8 - bits), bits)
        before, after = ([], chunk) if late else (chunk, [])
        return png(height, width, bits, rows, colour_type=_CHANNELS[layout], before=before, after=after)

    return write


def _palette_png(bits: int, *, clear: bool) -> Callable[[Pixels, int], bytes]:
    def write(rgb: Pixels, mark: int) -> bytes:
        height, width = rgb.shape[:2]
        before = [(b"PLTE", _PALETTE[: 2**bits].tobytes())] + ([(b"tRNS", bytes(2**bits // 2))] if clear else [])
        before += [(b"eXIf", exif_block(mark))] if mark != 1 else []
        return png(height, width, bits, _packed(rgb[..., 0] >> (8 - bits), bits), colour_type=3, before=before)

    return write


def _by_pillow(kind: str, mode: str, **options: Any) -> Callable[[Pixels, int], bytes]:
    def write(rgb: Pixels, mark: int) -> bytes:
        if mode == "P":
            picture = Image.fromarray(rgb[..., 0]).convert("P")
            picture.putpalette(_PALETTE.tobytes())
        elif mode == "I;16":
            picture = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
        elif mode == "CMYK":
            picture = Image.fromarray(rgb).convert("CMYK")
        else:
            layout = {"L": "grey", "LA": "grey_alpha"}.get(mode, mode.lower())
            picture = Image.fromarray(_channels(rgb, layout).squeeze())
        marks: dict[str, Any] = {}
        if mark != 1:
            marks = {"tiffinfo": {0x112: mark}} if kind == "TIFF" else {"exif": _exif(mark)}
        return saved(picture, kind, **options, **marks)

    return write


def _pnm(magic: bytes, maximum: int) -> Callable[[Pixels, int], bytes]:
    def write(rgb: Pixels, _: int) -> bytes:
        pixels = rgb if magic == b"P6" else rgb[..., 0]
        values = (pixels.astype(np.int64) * maximum + 127) // 255
        head = magic + b"\n%d %d\n%d\n" % (rgb.shape[1], rgb.shape[0], maximum)
        return head + values.astype(np.uint8 if maximum < 256 else ">u2").tobytes()

    return write


MARKED_KINDS: dict[str, Callable[[Pixels, int], bytes]] = {
    **{f"png {layout} {bits}": _png(layout, bits) for layout in _CHANNELS for bits in (8, 16)},
    "png rgb 16 by 256": _png("rgb", 16, 256),
    "png rgb 8 late mark": _png("rgb", 8, late=True),
    **{f"png grey {bits}": _png("grey", bits) for bits in (1, 2, 4)},
    **{f"png palette {bits}": _palette_png(bits, clear=False) for bits in (1, 2, 4, 8)},
    **{f"png palette {bits} clear": _palette_png(bits, clear=True) for bits in (2, 8)},
    "jpeg": _by_pillow("JPEG", "RGB", quality=95),
    "jpeg grey": _by_pillow("JPEG", "L", quality=95),
    "jpeg progressive": _by_pillow("JPEG", "RGB", progressive=True, subsampling=0),
    "jpeg cmyk": _by_pillow("JPEG", "CMYK"),
    "jpeg with preview": _by_pillow("MPO", "RGB", save_all=True, append_images=[Image.new("RGB", (4, 3))]),
    "webp": _by_pillow("WEBP", "RGB", quality=90),
    "webp lossless": _by_pillow("WEBP", "RGB", lossless=True),
    "webp rgba": _by_pillow("WEBP", "RGBA", lossless=True, exact=True),
    **{f"tiff {mode}": _by_pillow("TIFF", mode) for mode in ("L", "LA", "RGB", "RGBA", "P", "I;16", "CMYK")},
    "tiff deflate": _by_pillow("TIFF", "RGB", compression="tiff_adobe_deflate"),
}
"""Kind → function of RGB pixels and an orientation mark that gives the file; some kinds lose colours or detail."""

FRAME_KINDS = MARKED_KINDS | {
    **{f"bmp {mode}": _by_pillow("BMP", mode) for mode in ("L", "RGB", "P")},
    "ppm 8": _pnm(b"P6", 255),
    "ppm 16": _pnm(b"P6", 65535),
    "ppm 12": _pnm(b"P6", 4095),
    "pgm 8": _pnm(b"P5", 255),
    "pgm 16": _pnm(b"P5", 65535),
}
"""All kinds of frames; those without a place for a mark ignore it."""


def _ids_png(layout: str, bits: int) -> Callable[[Pixels], bytes]:
    def write(ids: Pixels) -> bytes:
        channels = np.repeat(ids[..., None], {"grey": 1, "grey_alpha": 2, "rgb": 3, "rgba": 4}[layout], axis=2)
        if channels.shape[2] in (2, 4):
            channels[..., -1] = np.arange(ids.shape[1]) % 2 * 255
        rows = channels.astype(">u2") if bits == 16 else channels if bits == 8 else _packed(ids, bits)
        return png(len(ids), ids.shape[1], bits, rows, colour_type=_CHANNELS[layout])

    return write


def _ids_palette(bits: int) -> Callable[[Pixels], bytes]:
    def write(ids: Pixels) -> bytes:
        before = [(b"PLTE", _PALETTE[: 2**bits].tobytes()), (b"tRNS", bytes(2**bits // 2))]
        return png(len(ids), ids.shape[1], bits, _packed(ids, bits), colour_type=3, before=before)

    return write


def _big_endian(ids: Pixels) -> bytes:
    return saved(Image.frombytes("I;16B", ids.shape[::-1], ids.astype(">u2").tobytes()), "TIFF")


LABEL_KINDS: dict[str, tuple[int, Callable[[Pixels], bytes]]] = {
    **{f"png {layout} {bits}": (256, _ids_png(layout, bits)) for layout in _CHANNELS for bits in (8, 16)},
    **{f"png grey {bits}": (2**bits, _ids_png("grey", bits)) for bits in (1, 2, 4)},
    **{f"png palette {bits}": (2**bits, _ids_palette(bits)) for bits in (1, 2, 4, 8)},
    "tiff 8": (256, lambda ids: saved(ids, "TIFF")),
    "tiff 16": (256, lambda ids: saved(ids.astype(np.uint16), "TIFF")),
    "tiff 16 big endian": (256, _big_endian),
    "tiff 32": (256, lambda ids: saved(ids.astype(np.int32), "TIFF")),
    "tiff float": (256, lambda ids: saved(ids.astype(np.float32), "TIFF")),
    "tiff rgb": (256, lambda ids: saved(np.dstack([ids] * 3), "TIFF")),
    "tiff packed": (256, lambda ids: saved(ids, "TIFF", compression="packbits")),
    "bmp 8": (256, lambda ids: saved(ids, "BMP")),
    "bmp 1": (2, lambda ids: saved(ids > 0, "BMP")),
    "bmp rgb": (256, lambda ids: saved(np.dstack([ids] * 3), "BMP")),
}
"""Kind → number of ids that fit, and a function of the ids that gives the file."""


def frame_file(kind: str, rgb: Pixels, mark: int = 1) -> tuple[bytes, np.ndarray]:
    """A file of that kind, and the pixels that it stores, H×W×3."""
    data = FRAME_KINDS[kind](rgb, mark)
    words = kind.split()
    if words[0] == "png" and words[1] == "palette":
        stored = _PALETTE[rgb[..., 0] >> (8 - int(words[2]))]
    elif kind in ("bmp P", "tiff P"):
        stored = _PALETTE[rgb[..., 0]]
    elif words[0] == "png" and (bits := int(words[2])) < 8:
        levels = rgb[..., :1] >> (8 - bits)
        stored = np.repeat(levels * (255 // (2**bits - 1)), 3, axis=2)
    elif kind in ("jpeg", "jpeg grey", "jpeg progressive", "jpeg cmyk", "jpeg with preview", "webp"):
        stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    elif any(word in ("grey", "grey_alpha", "L", "LA", "I;16", "pgm") for word in words):
        stored = np.repeat(rgb[..., :1], 3, axis=2)
    else:
        stored = rgb
    return data, stored
