"""The run folder, the schedule, and the health sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.training.health import HealthWatch
from mgcda_dist.training.run_folder import RunFolder, differing_keys, mlflow_uri
from mgcda_dist.training.schedule import rate_factor


@pytest.fixture
def config(tmp_path: Path) -> Config:
    domains = [{"name": name, "shards": str(tmp_path / name), "per_step": 2} for name in "ab"]
    data = {"class_space": "idd7", "crop_px": (64, 64), "domains": domains}
    return Config.model_validate(
        {"name": "r", "runs": str(tmp_path), "data": data, "model": {"backbone": "x"}, "optim": {"steps": 1000}}
    )


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


def test_resume_never_and_must(config: Config) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        RunFolder(config).prepare(_changed(config, checkpoint={"resume": "must"}))
    run = _with_checkpoint(config)
    run.prepare(_changed(config, checkpoint={"resume": "must"}))
    with pytest.raises(ConfigError, match="holds a run already"):
        run.prepare(_changed(config, checkpoint={"resume": "never"}))


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
        {"data": {"domains": [{"per_step": 1}]}},
        {"data": {"domains": [{"per_step": 2}], "loader_workers": 3}},
    )
    assert differing_keys(before, now) == {"data.domains.0.per_step": (1, 2)}


def test_where_mlflow_writes(config: Config) -> None:
    assert mlflow_uri(config) == f"sqlite:///{config.runs}/mlflow.db"
    assert mlflow_uri(_changed(config, tracking={"mlflow_uri": "none"})) is None
    assert mlflow_uri(_changed(config, tracking={"mlflow_uri": "http://m:5000"})) == "http://m:5000"


def test_schedules() -> None:
    for schedule, end in (("poly", 0.0), ("cosine", 0.0), ("constant", 1.0)):
        rates = [rate_factor(i / 100, schedule, 0.1) for i in range(101)]  # type: ignore[arg-type]
        assert 0 < rates[0] < 0.02 and rates[10] == pytest.approx(1.0) and rates[-1] == pytest.approx(end)
        assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_health_speaks_once_and_names_the_key(config: Config) -> None:
    watch = HealthWatch(config)
    dead = {"mdat/stride16/accuracy": 0.5, "mdat/embedding/accuracy": 0.9}
    assert watch.read(10, dead) == []
    (sentence,) = watch.read(400, dead)
    assert "stride16 has never left chance (0.50 against 0.50)" in sentence and "optim.lr_discriminators" in sentence
    assert watch.read(410, dead) == []
    strong = watch.read(950, {"mdat/embedding/accuracy": 0.99, "cacl/anchors": 0.0, "time/data_wait_share": 0.5})
    assert len(strong) == 3
    for key in ("mdat.lambda_max", "cacl.anomaly_pixels", "data.loader_workers"):
        assert key in " ".join(strong)
