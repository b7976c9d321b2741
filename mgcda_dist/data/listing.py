"""Files below a folder that somebody else filled: links are followed, and what is left out is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from mgcda_dist.data.ledger import Ledger
from mgcda_dist.errors import MgcdaError

__all__ = ["IMAGE_SUFFIXES", "LITTER", "LOSSLESS_SUFFIXES", "files_below"]

IMAGE_SUFFIXES = {
    ".jpg": "jpg", ".jpeg": "jpg", ".jpe": "jpg", ".jfif": "jpg", ".png": "png", ".webp": "webp", ".bmp": "bmp",
    ".tif": "tif", ".tiff": "tif", ".pgm": "pnm", ".ppm": "pnm", ".pnm": "pnm",
}  # fmt: skip
"""Suffix of a picture that is read, in small letters → its format."""
LOSSLESS_SUFFIXES = tuple(suffix for suffix, form in IMAGE_SUFFIXES.items() if form in ("png", "bmp", "tif"))
"""Those that a label may have; lossy formats change ids."""

LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Files that operating systems leave everywhere; they are not counted."""


def files_below(folder: Path, ledger: Ledger | None = None, *, depth: int | None = None) -> list[Path]:
    """The files below a folder in order of their paths; none if there is no such folder.

    Links are followed, but a folder is read under one name only, so that circles end. Hidden files and folders, broken
    links, and what is no regular file are left out.

    Args:
        ledger: counts what is left out, by its path from the folder's parent.
        depth: of subfolders that are entered; None: all.

    Raises:
        MgcdaError: a folder that cannot be read.
    """
    return sorted(_walk(folder, ledger or Ledger(), depth)) if folder.is_dir() else []


def _walk(top: Path, ledger: Ledger, depth: int | None) -> Iterator[Path]:
    visited = {str(above) for above in Path(os.path.realpath(top)).parents}  # a link to one of them is a circle
    for current, folders, files in os.walk(top, followlinks=True, onerror=_refuse):
        place = Path(current)
        below = place.relative_to(top)
        shown = Path(top.name, below)
        if (resolved := os.path.realpath(current)) in visited:
            ledger.add("a link back, or to a folder that is read already", f"{shown}/")
            folders.clear()
            continue
        visited.add(resolved)
        hidden = any(part.startswith(".") for part in below.parts)
        for name in sorted(files):
            if name in LITTER:
                continue
            if hidden or name.startswith("."):
                ledger.add("hidden", str(shown / name))
            elif not (place / name).is_file():
                ledger.add("a broken link, or no regular file", str(shown / name))
            else:
                yield place / name
        if depth is not None and len(below.parts) >= depth:
            folders.clear()
        folders.sort(key=lambda name: (os.path.islink(os.path.join(current, name)), name))


def _refuse(error: OSError) -> NoReturn:
    raise MgcdaError(str(error.filename), f"the folder cannot be read: {error.strerror}", "check its rights") from None
