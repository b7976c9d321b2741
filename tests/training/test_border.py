"""Phases of a training in one run: each begins with the network of the one before, at any restart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mgcda_dist import build
from mgcda_dist.config.load import load_config
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.exported import load_segmenter
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.training.border import keep_width, phase_of
from mgcda_dist.training.state import TrainState
from mgcda_dist.training.worker import train
from tests.support.configs import tiny_content, write_config
from tests.support.distributed import run_distributed
from tests.support.tiny import tiny_mgcda

pytestmark = pytest.mark.slow

_RESTARTS = (2, 3, 4)
"""Steps with a checkpoint: in the first phase, at its end, in the second."""
_CLOSED: dict[str, Any] = {
    "name": "closed_set",
    "steps": 3,
    "loss": {"outlier": "none"},
    "mdat": {"enabled": False},
    "cacl": {"enabled": False},
}
_OUTLIERS: dict[str, Any] = {"name": "outliers", "steps": 3}


def _config(folder: Path, shards: Path, **sections: Any) -> Config:
    folder.mkdir(exist_ok=True)
    content = tiny_content(
        shards,
        runs=str(folder),
        data={"loader_workers": 0},
        optim={"steps": None, "freeze": ["backbone.network.conv1", "backbone.network.layer1"]},
        loss={"outlier": "abstention"},
        mdat={"mask_width": "receptive_field"},
        phases=[{**_CLOSED, "optim": {"freeze": []}}, _OUTLIERS],
        checkpoint={"every_steps": 2, "keep": 9},
        tracking={"mlflow_uri": "none", "report": False, "preview_frames": 0, "alignment_steps": 0},
        evaluation={"sets": []},
    )
    for name, values in sections.items():
        content[name] |= values
    config = load_config(write_config(folder / "t.yaml", content)).config
    RunFolder(config).prepare(config, build.run_inputs(config))
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    """A whole run; beside it `again-2`, … go on from its checkpoint of that step."""
    folder = tmp_path_factory.mktemp("phases")
    run_distributed(_train_and_go_on, 1, folder, tiny_shards, timeout_s=280)
    return folder / "run"


def _train_and_go_on(folder: Path, shards: Path) -> None:
    train(_config(folder, shards))
    for last in _RESTARTS:
        again = folder / f"again-{last}"
        config = _config(again, shards)
        for step in (step for step in _RESTARTS if step <= last):
            name = f"checkpoints/step-{step:08d}"
            shutil.copytree(folder / "run" / name, again / "run" / name)
        train(config)


def _newest_state(run: Path) -> dict[str, Any]:
    return json.loads(max(run.glob("checkpoints/step-*/state.json")).read_text(encoding="utf-8"))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_segmenter(folder)[1].state_dict()


def test_the_second_phase_goes_on_with_the_network_of_the_first(run: Path) -> None:
    before, after = _weights(run / "phases" / "closed_set"), _weights(run / "model")
    grown = [name for name, x in after.items() if before[name].shape != x.shape]
    assert grown == [name for name in after if "classifier" in name] and grown, "one column more, the abstention"
    still = {name for name, x in after.items() if name not in grown and torch.equal(x, before[name])}
    assert {name for name, _ in load_segmenter(run / "model")[1].named_parameters()} - still, "some part learns"
    frozen = [name for name in after if name.startswith(("backbone.network.conv1.", "backbone.network.layer1."))]
    assert frozen and still.issuperset(frozen)


def test_each_phase_has_its_own_terms_schedule_and_one_record(run: Path) -> None:
    steps: dict[int, dict[str, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "step" in entry:
            steps.setdefault(entry["step"], {}).update(entry.get("metrics", entry))
    steps = {step: found for step, found in steps.items() if "loss/total" in found}
    assert sorted(steps) == list(range(6))
    has_mdat = ["loss/mdat" in steps[step] for step in range(6)]
    assert has_mdat == [False] * 3 + [True] * 3
    rates = [steps[step]["lr/heads"] for step in range(6)]
    assert rates[:3] == rates[3:] and rates[0] != rates[2], "each has its own schedule"
    said = [json.loads(line)["text"] for line in (run / "events.jsonl").read_text().splitlines()]
    learning = [text for text in said if text.startswith("learning: ")]
    assert "frozen" not in learning[0] and "frozen: backbone" in learning[1]


@pytest.mark.parametrize("last", _RESTARTS)
def test_a_restart_on_any_side_of_the_border_gives_the_same_bytes(run: Path, last: int) -> None:
    again = _weights(run.parent / f"again-{last}" / "run" / "model")
    for name, x in _weights(run / "model").items():
        assert torch.equal(x, again[name]), name
    widths = [_newest_state(folder)["reach_px"] for folder in (run, run.parent / f"again-{last}" / "run")]
    assert widths[0] == widths[1] and min(widths[0]) > 0


def test_phases_that_moved_away_from_under_a_checkpoint_are_refused(tmp_path: Path, tiny_shards: Path) -> None:
    phases = _config(tmp_path, tiny_shards).training_phases
    assert phase_of(phases, TrainState(step=3, phase=0)).name == "closed_set"
    assert phase_of(phases, TrainState(step=3, phase=1)).name == "outliers"
    for step, phase in ((4, 0), (2, 1), (7, 1), (6, 2)):
        with pytest.raises(ConfigError, match=f"step {step} of phase {phase + 1}, which is not within"):
            phase_of(phases, TrainState(step=step, phase=phase))


def test_a_restart_keeps_the_width_of_masks_that_was_measured_at_the_start() -> None:
    state, begun, again = TrainState(), tiny_mgcda(reach_px=(12, 20)), tiny_mgcda(reach_px=(4, 8))
    keep_width(begun, state, goes_on=False)
    assert begun.mdat is not None and again.mdat is not None
    state = TrainState(**json.loads(state.as_json()))
    keep_width(again, state, goes_on=True)  # measured in another network: that of the phase before is gone
    assert list(again.mdat.reach_px or ()) == [12, 20] == state.reach_px
    keep_width(tiny_mgcda(), state, goes_on=False)  # the next phase, without
    assert state.reach_px is None
    before = TrainState()  # of a checkpoint from before this was kept
    keep_width(again, before, goes_on=True)
    assert before.reach_px == [12, 20]
