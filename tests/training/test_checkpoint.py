"""Checkpoints: sealed or not there; the newest whole one is used; old ones go."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mgcda_dist.errors import CheckpointError
from mgcda_dist.training.checkpoint import CheckpointStore, verify
from mgcda_dist.training.state import TrainState


def _write(store: CheckpointStore, step: int) -> Path:
    folder = store.begin(step)
    (folder / "engine").mkdir()
    (folder / "engine" / "weights.pt").write_bytes(b"w" * 1000)
    TrainState(step=step).save(folder / "state.json")
    return store.finish(step, {"world_size": 1, "zero_stage": 0})


def test_the_last_ones_stay_and_the_newest_is_found(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30):
        _write(store, step)
    assert store.steps() == [20, 30]
    newest = store.newest()
    assert newest is not None and TrainState.load(newest / "state.json").step == 30
    assert verify(newest)["world_size"] == 1


@pytest.mark.parametrize("damage", ["truncate", "delete", "flip"])
def test_a_damaged_newest_is_reported_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    first, second = _write(store, 10), _write(store, 20)
    weights = second / "engine" / "weights.pt"
    if damage == "truncate":
        weights.write_bytes(b"w" * 10)
    elif damage == "delete":
        weights.unlink()
    else:
        weights.write_bytes(b"w" * 999 + b"x")
    with caplog.at_level(logging.WARNING):
        assert store.newest() == first
    assert "weights.pt" in caplog.text
    with pytest.raises(CheckpointError, match=r"weights\.pt"):
        verify(second)


def test_an_unfinished_one_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    first = _write(store, 10)
    (store.begin(20) / "half.pt").write_bytes(b"h")
    assert store.newest() == first
    assert [path.name for path in store.begin(20).iterdir()] == []


def test_nothing_there(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none", keep=1).newest() is None
    with pytest.raises(CheckpointError, match=r"no readable checkpoint\.json"):
        verify(tmp_path)
