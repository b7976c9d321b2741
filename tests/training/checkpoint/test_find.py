"""The checkpoint that a run goes on from: a return to an older one is an event, and a long way back is asked about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.errors import CheckpointError
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.training.checkpoint.resume import Found, find
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore
from tests.support.configs import plain_config
from tests.support.distributed import run_distributed
from tests.support.watched import events


class _Run:
    """A run with checkpoints of these steps, whose record goes on to 10 steps later."""

    def __init__(self, folder: Path, *steps: int, logged: int | None = None) -> None:
        self.folder, self.run = folder, RunFolder(plain_config(runs=str(folder)))
        self.store = CheckpointStore(self.run.checkpoints, keep=3)
        self.run.root.mkdir(parents=True, exist_ok=True)
        for step in steps:
            pending = self.store.pending_path(step, "t")
            self.store.write(pending, {"weights": lambda path: path.write_bytes(b"weights")}, 0)
            self.store.commit(pending, 1, CheckpointManifest(step, 1, zero_stage=0))
        done = max(steps, default=0) + 10 if logged is None else logged
        lines = [json.dumps({"step": step, "time": 1.0, "metrics": {}}) + "\n" for step in range(done)]
        self.run.metrics.write_text("".join(lines))

    def damage(self, *steps: int) -> None:
        for step in steps:
            (self.store.path(step) / "weights").write_bytes(b"weighty")

    def find(self, *, start_over: bool = False, **checkpoint: Any) -> Found | None:
        config = plain_config(runs=str(self.folder), checkpoint=checkpoint).checkpoint
        return find(self.store, Collectives(), config, self.run, start_over=start_over)

    def said(self) -> list[str]:
        return [event["text"] for event in events(self.run.root, "damaged")]


def test_nothing_is_said_of_a_run_whose_checkpoints_are_whole(tmp_path: Path) -> None:
    run = _Run(tmp_path, 20, 40)
    found = run.find()
    assert found is not None and found.path == run.store.path(40) and run.said() == []
    assert _Run(tmp_path / "new", logged=0).find() is None


def test_a_return_to_an_older_checkpoint_is_an_event(tmp_path: Path) -> None:
    run = _Run(tmp_path, 2000, 4000, 6000)
    run.damage(6000)
    (run.store.path(4000) / "checkpoint.json").unlink()
    found = run.find()
    assert found is not None and found.path == run.store.path(2000)
    (text,) = run.said()
    assert "step-00006000: file weights is damaged (digest differs)" in text
    assert "step-00004000: no readable checkpoint.json" in text and "goes on from step-00002000" in text


def test_a_short_run_starts_over_and_says_so(tmp_path: Path) -> None:
    run = _Run(tmp_path, 20, 40)
    run.damage(20, 40)
    assert run.find() is None
    (text,) = run.said()
    assert text.startswith("the run starts over at step 0: step-00000040: file weights is damaged")
    assert text.endswith("Its first 50 steps are done again")


@pytest.mark.parametrize(("steps", "limit"), [((180, 195), 200), ((20, 40), 45)])
def test_a_long_run_is_not_begun_again_unasked(tmp_path: Path, steps: tuple[int, ...], limit: int) -> None:
    run = _Run(tmp_path, *steps)
    run.damage(*steps)
    settings: dict[str, Any] = {} if limit == 200 else {"start_over_steps": limit}
    with pytest.raises(CheckpointError) as error:
        run.find(**settings)
    assert f"{steps[-1] + 10} steps would be done again from step 0" in error.value.problem
    assert f"from {limit} on (checkpoint.start_over_steps)" in error.value.problem
    assert "`start_over`" in error.value.remedy and run.said() == []
    assert run.find(start_over=True, **settings) is None and len(run.said()) == 1


def test_a_run_that_must_resume_does_not_begin_again(tmp_path: Path) -> None:
    run = _Run(tmp_path, 20)
    run.damage(20)
    with pytest.raises(CheckpointError, match=r"no checkpoint is intact, and checkpoint\.resume is `must`"):
        run.find(resume="must", start_over=True)


def test_without_any_checkpoint_a_run_may_have_been_killed_before_its_first(tmp_path: Path) -> None:
    run = _Run(tmp_path, logged=399)
    assert run.find(every_steps=200) is None
    assert run.said() == ["the run starts over at step 0: there is no checkpoint. Its first 399 steps are done again"]
    gone = _Run(tmp_path / "gone", logged=400)
    with pytest.raises(CheckpointError, match=r"no checkpoint is intact \(they are gone\): 400 steps"):
        gone.find(every_steps=200)


def _find_on_both(folder: str) -> str:
    run = _Run(Path(folder), logged=30) if Collectives().rank else _with_damage(Path(folder))
    Collectives().gather_objects(None, "ready")
    try:
        run.find(start_over_steps=10)
    except CheckpointError as error:
        return error.problem
    return ""


def _with_damage(folder: Path) -> _Run:
    run = _Run(folder, 20)
    run.damage(20)
    return run


@pytest.mark.slow
def test_all_ranks_refuse_together(tmp_path: Path) -> None:
    first, second = run_distributed(_find_on_both, 2, str(tmp_path))
    assert first == second and "30 steps would be done again" in first
