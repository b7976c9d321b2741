"""Checkpoints on disk: written beside, digested, then renamed; the newest K stay, and the best one.

    FOLDER/step-00000200/checkpoint.json   facts (step, world size, versions, configuration), and every file's digest
    FOLDER/step-00000200/…                 what the ranks wrote, each its own files
    FOLDER/.writing-00000200-TOKEN/        one that is not sealed yet; `rank-00000.json` once a rank's files are whole

Sealing is one rename: a checkpoint is there with all its files, or it is not there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mgcda_dist.errors import CheckpointError
from mgcda_dist.files import flush_to_disk, replace_folder, write_json_atomically

__all__ = ["CheckpointStore", "Files", "verify"]

_LOG = logging.getLogger(__name__)
_REMEDY = "use the checkpoint before"

Files = Mapping[str, Callable[[Path], object]]
"""What a rank writes: relative name → what writes it at the path it is given."""


class CheckpointStore:
    """The checkpoints of one run, `FOLDER/step-00000200/` each.

    Args:
        folder: on storage that all ranks see.
        keep: how many of the newest stay; the best one, where checkpoints carry a validation, stays besides.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def clear(self) -> None:
        """Remove what an attempt that is over has left half written; for one process, before anybody writes."""
        for left in [*self.folder.glob(".writing-*"), *self.folder.glob(".converted-*"), *self.folder.glob(".step-*")]:
            shutil.rmtree(left, ignore_errors=True)

    def place(self, step: int, token: str) -> Path:
        """Folder of the checkpoint of a step until it is committed.

        A token per attempt: a worker of an attempt before, cut off and believed dead, cannot write into it.
        """
        return self.folder / f".writing-{step:08d}-{token}"

    def write(self, place: Path, files: Files, rank: int) -> None:
        """Write one rank's files, on disk when this returns, and the record that they are whole.

        Raises:
            OSError: a full disk, a folder that is gone; what this rank has written is removed again.
        """
        digests: dict[str, str] = {}
        try:
            place.mkdir(parents=True, exist_ok=True)  # not every rank has files
            for name, write in files.items():
                path = place / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)
                flush_to_disk(path)
                digests[name] = _digest(path)
            write_json_atomically(place / f"rank-{rank:05d}.json", digests)
        except BaseException:
            for name in files:
                (place / name).unlink(missing_ok=True)
            raise

    def seal(self, place: Path, num_ranks: int, facts: Mapping[str, Any]) -> Path:
        """Turn what all ranks have written into the checkpoint of `facts["step"]`, and drop old ones; for one process.

        Raises:
            OSError: a full disk, a folder that is gone.
        """
        path = self.path(facts["step"])
        records = [place / f"rank-{rank:05d}.json" for rank in range(num_ranks)]
        files: dict[str, str] = {}
        for record in records:
            files |= json.loads(record.read_text(encoding="utf-8"))
        write_json_atomically(place / "checkpoint.json", {**facts, "files": dict(sorted(files.items()))})
        for record in records:
            record.unlink()
        # Only a damaged one can be in the way: a step that is sealed is not written again.
        replace_folder(place, path)
        self._drop_old()
        return path

    def discard(self, place: Path) -> None:
        """Remove what was written at a place."""
        shutil.rmtree(place, ignore_errors=True)

    def path(self, step: int) -> Path:
        """Folder of the committed checkpoint of a step."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps with a sealed checkpoint, ascending."""
        return sorted(
            int(path.parent.name.removeprefix("step-")) for path in self.folder.glob("step-*/checkpoint.json")
        )

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are whole; damaged ones are reported and passed over."""
        for step in reversed(self.steps()):
            try:
                verify(self.path(step))
            except CheckpointError as error:
                _LOG.warning("%s", error)
                continue
            return self.path(step)
        return None

    def best(self) -> tuple[int, dict[str, Any]] | None:
        """Step and validation of the best sealed checkpoint, by the measure of the newest; the earliest of equals."""
        found: list[tuple[int, dict[str, Any]]] = []
        for step in self.steps():
            try:
                validation = _facts(self.path(step)).get("validation")
            except CheckpointError:
                continue
            if validation is not None:
                found.append((step, validation))
        if not found:
            return None
        measure = [found[-1][1][key] for key in ("set", "metric")]
        comparable = [each for each in found if [each[1][key] for key in ("set", "metric")] == measure]
        sign = 1.0 if found[-1][1]["better"] == "higher" else -1.0
        return max(comparable, key=lambda each: sign * each[1]["value"])  # the first of equals

    def _drop_old(self) -> None:
        best = self.best()
        for step in self.steps()[: -self.keep]:
            if best is None or step != best[0]:
                shutil.rmtree(self.path(step), ignore_errors=True)


def verify(path: Path, *, files: bool = True) -> dict[str, Any]:
    """The facts of a checkpoint, after its files were checked (or without a look at them).

    Raises:
        CheckpointError: it is not a checkpoint, or a file is missing or differs.
    """
    facts = _facts(path)
    for name, digest in facts["files"].items() if files else ():
        file = path / name
        if not file.is_file():
            raise CheckpointError(str(path), f"file {name} is missing", _REMEDY)
        if _digest(file) != digest:
            raise CheckpointError(str(path), f"file {name} is damaged (digest differs)", _REMEDY)
    return facts


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
        if not isinstance(facts["files"], dict):
            raise TypeError("`files` is no mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(str(path), f"no readable checkpoint.json: {error}", _REMEDY) from None
    return facts


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
