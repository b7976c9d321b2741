"""The sets that a model's own configuration names: read at home, or below the run; never from an address."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.choices import PIPE
from mgcda_dist.config.run import EvaluationConfig
from mgcda_dist.errors import ConfigError
from mgcda_dist.references import TRUST
from mgcda_dist.runs.evaluation_request import EvaluationOptions, model_request, section_of, sets_of
from tests.support.commands import refusal
from tests.support.exported import write_run
from tests.support.shards import write_frames


def sets(*places: object) -> dict[str, object]:
    return {"sets": [{"name": f"s{index}", "shards": str(place)} for index, place in enumerate(places)]}


def test_a_run_that_lies_at_home_names_its_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shards = write_frames(tmp_path / "shards", 2).folder
    run = write_run(tmp_path / "runs/demo", sets(shards))
    assert len(model_request(run, (), EvaluationOptions()).job.sets) == 1
    away = run.rename(tmp_path / "downloaded")
    with pytest.raises(ConfigError, match="names a folder elsewhere"):
        model_request(away, (), EvaluationOptions())
    assert model_request(away, sets_of([str(shards)]), EvaluationOptions()).job.sets[0].shards == str(shards)


def test_sets_below_the_run_come_with_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "trained", sets(tmp_path / "given/shards")).rename(tmp_path / "given")
    write_frames(run / "shards", 2)
    assert len(model_request(run, (), EvaluationOptions()).job.sets) == 1
    linked = write_run(tmp_path / "trained", sets(tmp_path / "linked/shards")).rename(tmp_path / "linked")
    (linked / "shards").symlink_to(run / "shards")
    with pytest.raises(ConfigError, match="names a folder elsewhere"):
        model_request(linked, (), EvaluationOptions())


def test_results_are_not_written_through_a_link(tmp_path: Path) -> None:
    shards, elsewhere = write_frames(tmp_path / "shards", 2).folder, tmp_path / "elsewhere"
    for link in ("evaluation", "evaluation/sets"):
        (elsewhere / "mine").mkdir(parents=True, exist_ok=True)
        run = write_run(tmp_path / link.replace("/", "-"))
        if link == "evaluation/sets":  # of an evaluation that was killed; else the next free folder is taken
            (run / "evaluation/logs").mkdir(parents=True)
            (run / "evaluation/logs/worker-0.log").touch()
        (run / link).symlink_to(elsewhere)
        assert "is a link that leads out" in str(refusal("evaluate", run, "--data", shards))
        assert [path.name for path in elsewhere.iterdir()] == ["mine"]


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/shards", f"/shards{PIPE}touch /tmp/x"])
def test_addresses_and_commands_are_the_users(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs/demo", sets(place))
    with pytest.raises(ConfigError, match=r"names (an address|a command)"):
        model_request(run, (), EvaluationOptions())


def test_the_code_of_a_dataset_is_trusted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at home: whoever made the model names the place, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mgcda_dist.references._used", set())
    entry = {"name": "s", "dataset": "python:tests.support.datasets:Frames", "dataset_arguments": {"number": 2}}
    run = write_run(tmp_path / "runs/demo", {"sets": [entry]})
    with pytest.raises(ConfigError, match=r"evaluation set s: .*tests\.support\.datasets:Frames.*from anybody"):
        model_request(run, (), EvaluationOptions())
    monkeypatch.setenv(TRUST, "tests.support.datasets")
    assert model_request(run, (), EvaluationOptions()).job.sets[0].dataset is not None


@pytest.mark.parametrize("number", [inf, -inf, nan])
@pytest.mark.parametrize("name", ["threshold", "scales", "window_overlap"])
def test_numbers_that_are_not_finite_are_refused_before_any_work(name: str, number: float) -> None:
    given: dict[str, Any] = {name: [1.0, number] if name == "scales" else number}
    with pytest.raises(ConfigError, match=rf"^{name}.*: (-?inf|nan): "):
        section_of(EvaluationConfig(), [], EvaluationOptions(**given))
