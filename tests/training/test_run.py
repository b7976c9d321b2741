"""The run folder and the schedule."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from mgcda_dist.api.launch import run_workers
from mgcda_dist.choices import Schedule
from mgcda_dist.config.schema import Config
from mgcda_dist.data.inputs import Role, RunInput, write_inputs
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.runs.folder import RunFolder, differing_keys, locked, mlflow_uri
from mgcda_dist.training.schedule import rate_factor
from tests.support.commands import refusal
from tests.support.configs import plain_config, tiny_content, write_config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return plain_config(runs=str(tmp_path), data={"class_space": "idd7"})


def _changed(config: Config, **sections: dict[str, object]) -> Config:
    data = config.model_dump()
    for name, values in sections.items():
        data[name] |= values
    return Config.model_validate(data)


def _with_checkpoint(config: Config) -> RunFolder:
    run = RunFolder(config)
    run.prepare(config)
    (run.checkpoints / "step-00000005").mkdir()
    (run.checkpoints / "step-00000005" / "checkpoint.json").write_text("{}")
    return run


def test_a_run_is_continued_unless_what_it_learns_changed(config: Config) -> None:
    run = _with_checkpoint(config)
    run.prepare(_changed(config, scaling={"workers": 2}, tracking={"experiment": "other"}))
    with pytest.raises(ConfigError, match=r"mdat\.weight: 0\.5 → 0\.9"):
        run.prepare(_changed(config, mdat={"weight": 0.9}))


def test_a_changed_configuration_is_taken_over_where_the_state_fits_it(config: Config) -> None:
    run = _with_checkpoint(config)
    fitting = _changed(config, mdat={"weight": 0.9}, optim={"lr_heads": 0.01, "steps": 2000})
    with pytest.raises(ConfigError, match=r"(?s)mdat\.weight: 0\.5 → 0\.9.*choose `override_config` to resume"):
        run.prepare(fitting)
    run.prepare(fitting, override_config=True)
    (event,) = (json.loads(line) for line in run.events.read_text().splitlines())
    assert event["kind"] == "override"
    assert event["changes"] == {"mdat.weight": [0.5, 0.9], "optim.lr_heads": [0.001, 0.01], "optim.steps": [1000, 2000]}
    # Now this is the run's: nothing more is said.
    run.prepare(fitting)
    assert len(run.events.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        ("cacl", {"queue_rows": 512}, "cacl.queue_rows"),
        ("model", {"backbone": "y"}, "model.backbone"),
        ("mdat", {"stages": [{"name": "stride8"}, {"name": "embedding"}]}, "mdat.stages.0.name"),
        ("data", {"class_space": "road8"}, "data.class_space"),
        ("engine", {"zero_stage": 2}, "engine.zero_stage"),
        ("optim", {"optimizer": "sgd"}, "optim.optimizer"),
    ],
)
def test_a_change_that_the_state_does_not_fit_is_refused(
    config: Config, section: str, values: dict[str, object], key: str
) -> None:
    run = _with_checkpoint(config)
    changed = _changed(config, **{section: values, "loss": {"outlier_weight": 0.2}})
    with pytest.raises(ConfigError, match="`override_config` cannot change") as error:
        run.prepare(changed, override_config=True)
    assert key in error.value.problem and "outlier_weight" not in error.value.problem
    assert not run.events.exists()


def test_the_newest_checkpoint_says_what_the_run_was_trained_with(config: Config) -> None:
    run = _with_checkpoint(config)
    trained = _changed(config, mdat={"weight": 0.9}).model_dump(mode="json")
    (run.checkpoints / "step-00000005" / "checkpoint.json").write_text(json.dumps({"config": trained}))
    # config.yaml is that of a launch that never came to a checkpoint.
    with pytest.raises(ConfigError, match=r"mdat\.weight: 0\.9 → 0\.5"):
        run.prepare(config)


def test_resume_never_and_must(config: Config) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        RunFolder(config).prepare(_changed(config, checkpoint={"resume": "must"}))
    run = _with_checkpoint(config)
    run.prepare(_changed(config, checkpoint={"resume": "must"}))
    with pytest.raises(ConfigError, match="holds a run already"):
        run.prepare(_changed(config, checkpoint={"resume": "never"}))


def test_a_run_that_was_killed_before_its_first_checkpoint_stays_the_same_run(config: Config) -> None:
    run = RunFolder(config)

    def shards(train: str = "1", evaluated: str = "2") -> list[RunInput]:
        roles = ((Role.TRAIN, train), (Role.EVAL, evaluated))
        return [RunInput(role, "a", "folder", "camvid", "train", 8, 1, digest) for role, digest in roles]

    kept = (run.run_id_file, run.record, run.metrics, run.root / "mlflow.json")

    def launch(config: Config, inputs: list[RunInput]) -> list[bool]:
        run.prepare(config, inputs)
        return [path.exists() for path in kept]

    launch(config, shards())
    for path in kept:
        path.write_text("of the first launch\n")
    write_inputs(shards(), run.manifests)
    faster = _changed(config, scaling={"workers": 2})
    assert launch(faster, shards()) == [True] * 4
    assert launch(faster, shards(evaluated="3")) == [True] * 4
    assert launch(_changed(config, mdat={"weight": 0.9}), shards()) == [False] * 4
    for path in kept:
        path.write_text("of the next run\n")
    assert launch(_changed(config, mdat={"weight": 0.9}), shards(train="4")) == [False] * 4


def test_another_run_of_the_same_name_has_trackers_of_its_own(config: Config) -> None:
    run = RunFolder(config)
    run.prepare(config)
    for file in (run.tensorboard / "events.out", run.wandb_id_file, run.root / "wandb/offline-run-1/a.wandb"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("of the first launch\n")
    run.prepare(_changed(config, scaling={"workers": 2}))
    assert run.wandb_id_file.exists() and run.tensorboard.exists()
    run.prepare(_changed(config, mdat={"weight": 0.9}))
    assert not run.wandb_id_file.exists() and not run.tensorboard.exists()
    assert (run.root / "wandb/offline-run-1/a.wandb").exists(), "not uploaded yet"


def test_the_newest_command_is_remembered(config: Config) -> None:
    run = RunFolder(config)
    assert run.command() == ""
    run.prepare(config)
    for command in ("mgcda train a.yaml", 'mgcda train a.yaml \'name="kind": "launch"\''):
        run.say("launch", "launched", command=command)
        run.say("note", "something else")
    assert run.command() == command


def test_differing_keys_sees_list_items() -> None:
    before, now = (
        {"data": {"streams": [{"per_step": 1}]}},
        {"data": {"streams": [{"per_step": 2}], "loader_workers": 3}},
    )
    assert differing_keys(before, now) == {"data.streams.0.per_step": (1, 2)}


@pytest.mark.parametrize("section", ["mdat", "cacl"])
def test_settings_of_a_disabled_part_are_no_difference(section: str) -> None:
    before, now = ({section: {"enabled": False, "weight": weight}} for weight in (0.1, 1.0))
    assert differing_keys(before, now) == {}
    now[section]["enabled"] = True
    assert differing_keys(before, now) == {f"{section}.enabled": (False, True), f"{section}.weight": (0.1, 1.0)}


def test_mlflow_uri_of_a_run(config: Config) -> None:
    assert mlflow_uri(config) == f"sqlite:///{config.runs}/mlflow.db"
    assert mlflow_uri(_changed(config, tracking={"mlflow_uri": "none"})) is None
    assert mlflow_uri(_changed(config, tracking={"mlflow_uri": "http://m:5000"})) == "http://m:5000"


def test_schedules() -> None:
    ends: dict[Schedule, float] = {"poly": 0.0, "cosine": 0.0, "constant": 1.0}
    for schedule, end in ends.items():
        rates = [rate_factor(i / 100, schedule, 0.1) for i in range(101)]
        assert 0 < rates[0] < 0.02 and rates[10] == pytest.approx(1.0) and rates[-1] == pytest.approx(end)
        assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("place", ["afile", "afile/runs", "/proc/runs", "x" * 300])
def test_folders_of_runs_that_cannot_be_written_to_are_refused_by_their_key(
    tmp_path: Path, tiny_shards: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… before Ray is asked for anything."""

    def ray(*_: object) -> None:
        raise AssertionError("Ray is begun")

    monkeypatch.setattr("mgcda_dist.cluster.connect.begin_ray", ray)
    monkeypatch.setattr("mgcda_dist.cluster.connect.node_resources", ray)
    (tmp_path / "afile").touch()
    says = "^runs: .* is a file|^runs: .* cannot be written to"
    remedy = "give a folder that can be written to: runs=FOLDER"
    runs = str(tmp_path / place)
    with pytest.raises(ConfigError, match=says) as refused:
        run_workers(plain_config(runs=runs, scaling={"workers": "auto"}), cast(Any, None), command="")
    assert refused.value.remedy == remedy
    row = write_config(tmp_path / "row.yaml", tiny_content(tiny_shards, runs=runs))
    for words in (("train", row), ("sweep", row, "--name", "s")):
        error = refusal(*words)
        assert re.match(says, str(error)) and error.remedy == remedy


def test_a_folder_that_cannot_be_locked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    with (
        pytest.raises(MgcdaError, match=r"cannot be written to[\s\S]*give a folder"),
        locked(tmp_path / "afile/a", "", ""),
    ):
        pass
