"""Small disks that fill up: a file that takes all the room there is."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

__all__ = ["Ballast"]


class Ballast:
    """Fills the disk of a folder to the last byte while the block runs; `hold` takes what has become free."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"

    def __enter__(self) -> Ballast:
        self._file = self._path.open("wb", buffering=0)
        self.hold()
        return self

    def hold(self) -> None:
        """Fill the disk again."""
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    self._file.write(bytes(size))
            except OSError:
                continue

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    def remove(self) -> None:
        """Make room."""
        self._file.close()
        self._path.unlink(missing_ok=True)
