"""Phases: what each is trained with, and what a phase cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.config.load import dump_config, load_config
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from tests.support.configs import plain_content, write_config

_CLOSED = {"name": "closed", "steps": 30, "loss": {"outlier": "none"}, "mdat": {"enabled": False}}
_LAST = {"name": "outliers", "steps": 10}


def _loaded(folder: Path, *phases: dict[str, Any], steps: int | None = None) -> Config:
    content = plain_content(phases=list(phases), optim={"steps": steps})
    return load_config(write_config(folder / "c.yaml", content)).config


def test_a_phase_is_the_file_with_its_changes(tmp_path: Path) -> None:
    config = _loaded(tmp_path, _CLOSED, _LAST)
    first, last = config.training_phases
    assert (first.first_step, first.end_step, last.first_step, last.end_step) == (0, 30, 30, 40)
    assert first.config.loss.outlier == "none" and not first.config.mdat.enabled and first.config.cacl.enabled
    assert config.optim.steps == 40 and last.config == config and last.is_last and not first.is_last
    assert load_config(write_config(tmp_path / "d.yaml", config.model_dump(mode="json"))).config == config
    assert "phases:" in dump_config(config)


def test_a_run_without_phases_is_one(tmp_path: Path) -> None:
    config = _loaded(tmp_path, steps=7)
    (only,) = config.training_phases
    assert (only.name, only.config, only.first_step, only.end_step, only.is_last) == ("", config, 0, 7, True)


def test_folders_of_a_phase_are_absolute_and_looked_for(tmp_path: Path) -> None:
    streams = [{"name": "s", "shards": "some/where", "per_step": 4, "paste": {"objects": "other"}}]
    loaded = load_config(
        write_config(
            tmp_path / "c.yaml",
            plain_content(phases=[{**_CLOSED, "data": {"streams": streams}}, _LAST], optim={"steps": None}),
        )
    )
    stream = loaded.config.training_phases[0].config.data.streams[0]
    assert Path(stream.shards or "").is_absolute() and stream.paste and Path(stream.paste.objects).is_absolute()
    with pytest.raises(ConfigError, match=r"phases.0.data.streams.0.shards: no shards in"):
        loaded.check_files()


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        ([{**_CLOSED, "los": {}}, _LAST], r"c\.yaml:\d+: unknown key 'phases.0.los'.*did you mean 'phases.0.loss'"),
        ([{**_CLOSED, "optim": {"lr_bakbone": 1}}, _LAST],
         r"phases.0.optim.lr_bakbone: of phase closed: unknown key; did you mean 'optim.lr_backbone'"),
        ([{**_CLOSED, "optim": {"lr_heads": -1}}, _LAST], "phases.0.optim.lr_heads: of phase closed: .*greater than 0"),
        ([{**_CLOSED, "optim": {"steps": 5}}, _LAST], "phases.0.optim.steps: .* write phases.0.steps"),
        ([_CLOSED, {**_LAST, "loss": {"outlier": "none"}}], "phases.1.loss: the last phase, outliers, is what the"),
        ([_CLOSED, {**_LAST, "name": "closed"}], "phases: two phases are named 'closed'"),
        ([{**_CLOSED, "model": {"norm": "group"}}, _LAST], "phases.0.model.norm: a phase goes on with the network"),
        ([{**_CLOSED, "data": {"class_space": "cityscapes19"}}, _LAST], "phases.0.data.class_space: the classes are"),
        ([_CLOSED, {"name": "b", "steps": 2, "model": {"weights": "hub"}}, _LAST],
         "phases.1.model.weights: this phase starts from the one before"),
        ([{**_CLOSED, "steps": 0}, _LAST], "phases.0.steps = 0"),
    ],
)  # fmt: skip
def test_what_a_phase_cannot_say_is_refused(tmp_path: Path, phases: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _loaded(tmp_path, *phases)


def test_steps_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim\.steps: 1000 is not the sum over the phases, 40"):
        _loaded(tmp_path, _CLOSED, _LAST, steps=1000)
