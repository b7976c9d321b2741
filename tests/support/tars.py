"""Tar files as other tools write them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

__all__ = ["plain_tar"]


def plain_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write the members in order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
