"""Comparison of final states: only names and times may differ, everything else is compared bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mgcda_dist.chaos.compare import differences
from mgcda_dist.config.schema import Config
from mgcda_dist.runs.folder import RunFolder


def _run(folder: Path, name: str) -> RunFolder:
    run = RunFolder(Config.model_construct(name=name, runs=str(folder)))
    checkpoint = run.checkpoints / "step-00000002"
    for path in (checkpoint / "engine", checkpoint / "model", run.model):
        path.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text(json.dumps({"config": {"name": name}}))
    (checkpoint / "engine" / "states.pt").write_bytes(bytes(1000))
    (checkpoint / "state.json").write_text(json.dumps({"step": 2, "alarms": [name]}))
    for path in (checkpoint / "model", run.model):
        (path / "model.safetensors").write_bytes(bytes(100))
        (path / "model.json").write_text(json.dumps({"name": name}))
    run.results.write_text(json.dumps({"subject": {"name": name, "digest": "d"}, "sets": {"road": {"ap": 0.5}}}))
    lines = [{"step": s, "time": float(len(name)), "metrics": {"loss/total": 1.0 / (s + 1)}} for s in range(2)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_names_and_times_may_differ(tmp_path: Path) -> None:
    assert differences(_run(tmp_path, "calm"), _run(tmp_path, "chaotic"), None) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda run: _flip(run.checkpoints / "step-00000002/engine/states.pt"), "step-00000002/engine/states.pt"),
        (lambda run: (run.checkpoints / "step-00000002/engine/more").touch(), "step-00000002/engine/more"),
        (lambda run: _flip(run.model / "model.safetensors"), "model/model.safetensors"),
        (lambda run: run.results.write_text(run.results.read_text().replace("0.5", "0.51")), "results.json"),
        (lambda run: run.results.write_text(run.results.read_text().replace('"d"', '"e"')), "results.json"),
        (lambda run: run.metrics.write_text(run.metrics.read_text().replace("1.0}", "1.5}")),
         "metrics.jsonl: step 0, loss/total: 1.0 and 1.5"),
        (lambda run: run.metrics.write_text(run.metrics.read_text() * 2), "metrics.jsonl: 2 and 4 lines"),
    ],
)  # fmt: skip
def test_every_changed_bit_is_a_difference(tmp_path: Path, change: Callable[[RunFolder], object], found: str) -> None:
    undisturbed, other = _run(tmp_path, "calm"), _run(tmp_path, "chaotic")
    change(other)
    (difference,) = differences(undisturbed, other, None)
    assert found in difference
