"""Checkpoints on disk: written beside, digested, then renamed; the newest K stay, and the best one.

    FOLDER/step-00000200/checkpoint.json   the manifest: step, world size, versions, configuration, digests of all files
    FOLDER/step-00000200/…                 the files of the ranks
    FOLDER/.writing-00000200-TOKEN/        not committed yet; `rank-00000.json` once the files of a rank are complete

The commit is one rename: a checkpoint exists with all its files, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from mgcda_dist.choices import RunFile
from mgcda_dist.errors import CheckpointError
from mgcda_dist.files import flush_to_disk, replace_folder, write_json_atomically

__all__ = ["CheckpointManifest", "CheckpointStore", "Files", "MeasuredValidation", "verify"]

_LOG = logging.getLogger(__name__)
_REMEDY = "use the checkpoint before"

Files = Mapping[str, Callable[[Path], object]]
"""The files of a rank: relative name → a function that writes the file to the path it is given."""


@dataclass(frozen=True)
class MeasuredValidation:
    """The measurement that a checkpoint is compared by.

    Attributes:
        value: as a fraction.
        better: direction of the metric.
    """

    set: str
    metric: str
    value: float
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class CheckpointManifest:
    """The content of `checkpoint.json`.

    Attributes:
        step: optimiser steps done.
        world_size: ranks that wrote it.
        zero_stage: of DeepSpeed; above 0 the optimiser's state is in slices.
        versions: of packages.
        config: of the run, as JSON: compared key by key when the run resumes. Empty in early versions.
        validation: None where none was configured.
        files: digest by relative name.
    """

    step: int
    world_size: int
    zero_stage: int
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    validation: MeasuredValidation | None = None
    files: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The content as JSON has it; without `validation` where there is none."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def load(cls, path: Path) -> CheckpointManifest:
        """Read the manifest of a checkpoint folder.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            content = json.loads((path / RunFile.CHECKPOINT).read_text(encoding="utf-8"))
            if not isinstance(content["files"], dict):
                raise TypeError("`files` is no mapping")
            validation = content.get("validation")
            known: dict[str, Any] = {each.name: content[each.name] for each in fields(cls) if each.name in content}
            known["validation"] = None if validation is None else MeasuredValidation(**validation)
            return cls(**known)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(str(path), f"no readable checkpoint.json: {error}", _REMEDY) from None


class CheckpointStore:
    """The checkpoints of one run, `FOLDER/step-00000200/` each.

    Args:
        folder: on storage that all ranks see.
        keep: how many of the newest stay; the best one, where checkpoints carry a validation, stays besides.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.best_after = 0
        """No checkpoint up to this step is the best: it is of an earlier phase, or of no training at all."""

    def clear(self) -> None:
        """Remove unfinished folders of earlier attempts; for one process, before any rank writes."""
        for left in [*self.folder.glob(".writing-*"), *self.folder.glob(".converted-*"), *self.folder.glob(".step-*")]:
            shutil.rmtree(left, ignore_errors=True)

    def pending_path(self, step: int, token: str) -> Path:
        """The folder of a checkpoint before its commit.

        The token is new in each attempt, so that a worker of an earlier one, cut off and taken for dead, cannot write
        into the folder.
        """
        return self.folder / f".writing-{step:08d}-{token}"

    def write(self, pending: Path, files: Files, rank: int) -> None:
        """Write the files of one rank, flushed to disk, and the record that they are complete.

        Raises:
            OSError: a full disk, a folder that is gone; the files of this rank are removed again.
        """
        digests: dict[str, str] = {}
        try:
            pending.mkdir(parents=True, exist_ok=True)  # not every rank has files
            for name, write in files.items():
                path = pending / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)
                flush_to_disk(path)
                digests[name] = _digest(path)
            write_json_atomically(pending / f"rank-{rank:05d}.json", digests)
        except BaseException:
            for name in files:
                (pending / name).unlink(missing_ok=True)
            raise

    def commit(self, pending: Path, num_ranks: int, manifest: CheckpointManifest) -> Path:
        """Make the files of all ranks the checkpoint of `manifest.step`, and remove old ones; for one process.

        Raises:
            OSError: a full disk, a folder that is gone.
        """
        path = self.path(manifest.step)
        records = [pending / f"rank-{rank:05d}.json" for rank in range(num_ranks)]
        files: dict[str, str] = {}
        for record in records:
            files |= json.loads(record.read_text(encoding="utf-8"))
        write_json_atomically(
            pending / RunFile.CHECKPOINT, replace(manifest, files=dict(sorted(files.items()))).as_json()
        )
        for record in records:
            record.unlink()
        # Replaces a damaged checkpoint at most: a committed step is not written again.
        replace_folder(pending, path)
        self._drop_old(manifest.step)
        return path

    def discard(self, pending: Path) -> None:
        """Remove a checkpoint that is not committed."""
        shutil.rmtree(pending, ignore_errors=True)

    def path(self, step: int) -> Path:
        """The folder of a committed checkpoint."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, ascending."""
        return [step for step in self._folders() if (self.path(step) / RunFile.CHECKPOINT).is_file()]

    def newest(self, tell: Callable[[CheckpointError], object] | None = None) -> Path | None:
        """The newest intact checkpoint.

        Args:
            tell: receives what is wrong with each newer one, newest first; default: a log record.
        """
        for step in reversed(self._folders()):
            try:
                verify(self.path(step))
            except CheckpointError as error:
                (tell or _warn)(error)
                continue
            return self.path(step)
        return None

    def best(self) -> tuple[int, MeasuredValidation] | None:
        """Step and validation of the best checkpoint, by the metric of the newest; the earliest of equals."""
        found: list[tuple[int, MeasuredValidation]] = []
        for step in self.steps():
            if step <= self.best_after:
                continue
            try:
                validation = CheckpointManifest.load(self.path(step)).validation
            except CheckpointError:
                continue
            if validation is not None:
                found.append((step, validation))
        if not found:
            return None
        newest = found[-1][1]
        comparable = [each for each in found if (each[1].set, each[1].metric) == (newest.set, newest.metric)]
        sign = 1.0 if newest.better == "higher" else -1.0
        return max(comparable, key=lambda each: sign * each[1].value)  # the first of equals

    def _folders(self) -> list[int]:
        """Steps with a folder, ascending; one whose `checkpoint.json` is gone has a folder only."""
        found = (path.name.removeprefix("step-") for path in self.folder.glob("step-*") if path.is_dir())
        return sorted(int(step) for step in found if step.isdecimal())

    def _drop_old(self, newest: int) -> None:
        """Remove what is older than the checkpoints that stay, and damaged ones that the run has gone back behind."""
        best = self.best()
        stay = [step for step in self.steps() if step <= newest][-self.keep :]
        for step in self._folders():
            if step not in stay and (step > newest or best is None or step != best[0]):
                shutil.rmtree(self.path(step), ignore_errors=True)


def _warn(error: CheckpointError) -> None:
    _LOG.warning("%s", error)


def verify(path: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, after its files were compared with their digests.

    Raises:
        CheckpointError: no checkpoint, or a file is missing or differs.
    """
    manifest = CheckpointManifest.load(path)
    for name, digest in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(str(path), f"file {name} is missing", _REMEDY)
        if _digest(file) != digest:
            raise CheckpointError(str(path), f"file {name} is damaged (digest differs)", _REMEDY)
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
