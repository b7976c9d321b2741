"""The journal of a write: one line per finished shard, so that the same command can continue an interrupted write.

The file exists only while a folder is being written. It is locked, so two writers never share a folder.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mgcda_dist.data.shards.manifest import MANIFEST
from mgcda_dist.errors import ShardError
from mgcda_dist.trust import open_lock

__all__ = ["JOURNAL", "FinishedShard", "Journal", "is_there"]

JOURNAL = ".writing.jsonl"


@dataclass(frozen=True)
class FinishedShard:
    """A shard in its final place.

    Attributes:
        name, num_samples, num_bytes, sha256: as in the shard table (checksum in hex).
        source: checksum (hex) over the source samples that went into it.
        histogram: pixels per raw id.
    """

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    source: str
    histogram: dict[str, int]


class Journal:
    """The record of one write.

    Args:
        header: what is written and how.
        anew: ignore the shards that are there.

    Raises:
        ShardError: another process is writing to the folder, or (unless `anew`) holds shards of another write.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], *, anew: bool = False) -> None:
        self._path = folder / JOURNAL
        self._file: IO[str] = open_lock(self._path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ShardError(
                str(folder), "another process is writing here", "wait for it, or choose another folder"
            ) from None
        first = json.dumps(header, sort_keys=True)
        lines = [] if anew else self._whole_lines()
        if not anew:
            self._refuse_other_shards(folder, first, lines)
        self.finished: list[FinishedShard] = _usable([FinishedShard(**json.loads(line)) for line in lines[1:]], folder)
        self._file.seek(0)
        self._file.truncate(0)
        for line in [first, *(json.dumps(asdict(shard)) for shard in self.finished)]:
            self._append(line)

    def add(self, shard: FinishedShard) -> None:
        """Record a shard that is in its place."""
        self.finished.append(shard)
        self._append(json.dumps(asdict(shard)))

    def close(self, *, remove: bool = False) -> None:
        """Release the folder; `remove`: the write is complete."""
        if remove:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def _append(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()

    def _refuse_other_shards(self, folder: Path, header: str, lines: list[str]) -> None:
        problem = ""
        ours = bool(lines) and lines[0] == header  # killed between the manifest and the end of the journal, perhaps
        if (folder / MANIFEST).exists() and not ours:
            problem = "already holds finished shards"
        elif len(lines) > 1 and not ours:
            problem = "holds an unfinished write with other options"
        elif not ours and any(folder.glob("*.tar")):
            problem = "holds tar files that no manifest names"
        if problem:
            self.close(remove=not lines)
            raise ShardError(str(folder), problem, "choose another folder, or `overwrite`")

    def _whole_lines(self) -> list[str]:
        # A killed writer may leave half a line at the end.
        self._file.seek(0)
        text = self._file.read()
        return text[: text.rfind("\n") + 1].splitlines()


def _usable(shards: list[FinishedShard], folder: Path) -> list[FinishedShard]:
    """The leading shards whose files are still there with their size."""
    usable: list[FinishedShard] = []
    for shard in shards:
        if not is_there(shard, folder):
            break
        usable.append(shard)
    return usable


def is_there(shard: FinishedShard, folder: Path) -> bool:
    """The shard's file is in its place, with its size."""
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.num_bytes
