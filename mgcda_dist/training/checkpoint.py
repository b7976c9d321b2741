"""Checkpoints: written beside, verified, then renamed; every rank its own files; the last K stay."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mgcda_dist.errors import CheckpointError

__all__ = ["CheckpointStore"]

_LOG = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run, `FOLDER/step-00000200/` each.

    Args:
        folder: on storage that all ranks see.
        keep: how many stay.
        rank: this rank.
    """

    def __init__(self, folder: Path, keep: int, rank: int = 0) -> None:
        self.folder, self.keep, self.rank = folder, keep, rank

    def begin(self, step: int) -> Path:
        """A folder to write into, empty, seen by all ranks; call on every rank."""
        path = self.folder / f".writing-{step:08d}"
        if self.rank == 0:
            # Whatever an interrupted attempt has left, also of another step.
            for left in [*self.folder.glob(".writing-*"), *self.folder.glob(".converted-*")]:
                shutil.rmtree(left, ignore_errors=True)
            path.mkdir(parents=True)
        _barrier()
        return path

    def finish(self, step: int, facts: dict[str, Any]) -> Path:
        """Seal what all ranks have written: list and digest the files, rename, drop the oldest."""
        _barrier()
        path = self.folder / f"step-{step:08d}"
        if self.rank == 0:
            written = self.folder / f".writing-{step:08d}"
            files = {str(f.relative_to(written)): _digest(f) for f in sorted(written.rglob("*")) if f.is_file()}
            (written / "checkpoint.json").write_text(
                json.dumps({"step": step, **facts, "files": files}, indent=1) + "\n", encoding="utf-8"
            )
            shutil.rmtree(path, ignore_errors=True)
            os.replace(written, path)
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(self.folder / f"step-{old:08d}", ignore_errors=True)
        _barrier()
        return path

    def steps(self) -> list[int]:
        """Steps with a sealed checkpoint, ascending."""
        return sorted(
            int(path.parent.name.removeprefix("step-")) for path in self.folder.glob("step-*/checkpoint.json")
        )

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are whole; damaged ones are reported and passed over."""
        for step in reversed(self.steps()):
            path = self.folder / f"step-{step:08d}"
            try:
                verify(path)
            except CheckpointError as error:
                _LOG.warning("%s", error)
                continue
            return path
        return None


def verify(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint, after its files were checked.

    Raises:
        CheckpointError: it is not a checkpoint, or a file is missing or differs.
    """
    try:
        facts = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(str(path), f"no readable checkpoint.json: {error}", "use another checkpoint") from None
    for name, digest in facts["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(str(path), f"file {name} is missing", "use the checkpoint before")
        if _digest(file) != digest:
            raise CheckpointError(str(path), f"file {name} is damaged (digest differs)", "use the checkpoint before")
    return facts


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
