"""Checkpoints: committed or absent; the newest intact one is used; old ones are removed, the best stays."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import pytest

from mgcda_dist.errors import CheckpointError
from mgcda_dist.training.checkpoint.store import CheckpointManifest, CheckpointStore, MeasuredValidation, verify
from mgcda_dist.training.state import TrainState


def _write(store: CheckpointStore, step: int, validation: MeasuredValidation | None = None) -> Path:
    pending, state = store.pending_path(step, "token"), TrainState(step=step)
    parts = [
        {"engine/weights.pt": lambda path: path.write_bytes(b"w" * 1000)},
        {"state.json": lambda path: path.write_text(state.as_json()), "memory-1": lambda path: path.write_bytes(b"m")},
    ]
    for rank, files in enumerate([*parts, {}]):
        store.write(pending, files, rank)
    return store.commit(pending, 3, CheckpointManifest(step, 3, zero_stage=0, validation=validation))


def _validation(value: float, metric: str = "ap", better: Literal["higher", "lower"] = "higher") -> MeasuredValidation:
    return MeasuredValidation("val", metric, value, better)


def test_the_last_ones_stay_and_the_newest_is_found(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30):
        _write(store, step)
    assert store.steps() == [20, 30]
    newest = store.newest()
    assert newest is not None and TrainState.load(newest / "state.json").step == 30
    manifest = verify(newest)
    assert manifest.world_size == 3 and sorted(manifest.files) == ["engine/weights.pt", "memory-1", "state.json"]
    assert {path.name for path in newest.iterdir()} == {"checkpoint.json", "engine", "memory-1", "state.json"}


@pytest.mark.parametrize("damage", ["truncate", "delete", "flip", "manifest"])
def test_a_damaged_newest_is_reported_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    first, second = _write(store, 10), _write(store, 20)
    damaged = second / ("checkpoint.json" if damage == "manifest" else "engine/weights.pt")
    if damage == "delete":
        damaged.unlink()
    elif damage == "flip":
        damaged.write_bytes(b"w" * 999 + b"x")
    else:
        damaged.write_bytes(damaged.read_bytes()[:10])
    with caplog.at_level(logging.WARNING):
        assert store.newest() == first
    assert damaged.name in caplog.text
    with pytest.raises(CheckpointError, match=damaged.name):
        verify(second)
    # Written again on the way, it takes the damaged one's place.
    assert _write(store, 20) == store.newest()


def test_a_run_that_went_back_behind_damaged_ones_keeps_its_own(tmp_path: Path) -> None:
    """By their steps the damaged ones are the newest: what is committed after the return must outlive them."""
    store = CheckpointStore(tmp_path, keep=2)
    for step in (40, 60):
        (_write(store, step, validation=_validation(0.9)) / "engine/weights.pt").write_bytes(b"")
    assert store.newest() is None
    first = _write(store, 20, validation=_validation(0.1))
    assert store.newest() == first and store.steps() == [20]
    (tmp_path / "step-00000040/engine").mkdir(parents=True)
    found: list[CheckpointError] = []
    assert store.newest(found.append) == first, "a folder without checkpoint.json is one that was damaged"
    assert [Path(error.where).name for error in found] == ["step-00000040"]


def test_the_best_checkpoint_is_kept_too(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step, value in ((10, 0.4), (20, 0.6), (30, 0.6), (40, 0.5)):
        _write(store, step, validation=_validation(value))
    _write(store, 45)  # stopped here, between two that are measured
    assert store.steps() == [20, 45]
    best = store.best()
    assert best is not None and best[0] == 20 and best[1].value == 0.6


def test_of_fpr95_the_lowest_is_best_and_another_measure_is_not_compared(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=5)
    _write(store, 10, validation=_validation(0.1))
    for step, value in ((20, 0.4), (30, 0.3), (40, 0.5)):
        _write(store, step, validation=_validation(value, "fpr95", "lower"))
    best = store.best()
    assert best is not None and best[0] == 30


def test_an_unfinished_one_does_not_count_and_is_cleared_by_the_next_attempt(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    first = _write(store, 10)
    store.write(store.pending_path(20, "token"), {"half": lambda path: path.write_bytes(b"h")}, rank=0)
    assert store.newest() == first
    store.clear()
    assert list(tmp_path.iterdir()) == [first]


def test_a_rank_that_cannot_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    store = CheckpointStore(tmp_path, keep=2)
    pending = store.pending_path(10, "token")
    with pytest.raises(OSError, match="No space"):
        store.write(pending, {"a": lambda path: path.write_bytes(b"a"), "b": fail}, rank=0)
    assert list(pending.iterdir()) == []


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none", keep=1).newest() is None
    assert CheckpointStore(tmp_path / "none", keep=1).best() is None
    with pytest.raises(CheckpointError, match=r"no readable checkpoint\.json"):
        verify(tmp_path)
