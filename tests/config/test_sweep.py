"""Sweep files, or configurations, become one resolved configuration per run; impossible ones are refused beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.config.load import load_config
from mgcda_dist.config.sweep import PlannedRun, checked_sweep, is_sweep_file, load_sweep, plan_runs, sweep_of_configs
from mgcda_dist.errors import ConfigError
from tests.support.commands import typed
from tests.support.configs import plain_content, write_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path / "full.yaml", plain_content(name="full", runs=f"{tmp_path}/runs", optim={"steps": 10}))
    (tmp_path / "base.yaml").write_text("base: full.yaml\nname: base\nmdat: {enabled: false}\n")
    return tmp_path


def _sweep(folder: Path, text: str) -> list[PlannedRun]:
    (folder / "s.yaml").write_text(text)
    return plan_runs(load_sweep(folder / "s.yaml"))


def test_a_sweep_file(folder: Path) -> None:
    runs = _sweep(
        folder,
        "name: abl\nseeds: [0, 1]\nset: {optim.steps: 5}\nrows:\n  base: base.yaml\n"
        "  no_queue: {config: full.yaml, set: {cacl.queue_rows: 0, data.crop_px: [32, 64]}, seeds: [7]}\n",
    )
    assert [run.name for run in runs] == ["base-s0", "no_queue-s7", "base-s1"]
    assert [run.config.seed for run in runs] == [0, 7, 1] and {run.config.optim.steps for run in runs} == {5}
    assert runs[1].config.cacl.queue_rows == 0 and runs[1].config.data.crop_px == (32, 64)
    assert {run.config.runs for run in runs} == {str(folder / "runs" / "abl")}
    assert {run.config.tracking.mlflow_uri for run in runs} == {f"sqlite:///{folder}/runs/mlflow.db"}
    assert is_sweep_file(folder / "s.yaml") and not is_sweep_file(folder / "full.yaml")


def test_config_check_takes_a_sweep(folder: Path) -> None:
    (folder / "s.yaml").write_text(
        "seeds: [0, 1]\nrows:\n  base: base.yaml\n  full: {config: full.yaml, set: {cacl.queue_rows: 0}}\n"
    )
    done = typed("config", "check", folder / "s.yaml", "--no-files")
    assert done.returncode == 0, done.stderr
    assert "base: ok. 2 streams" in done.stdout and f"{folder}/s.yaml: ok. 2 rows, 4 runs" in done.stdout
    refused = typed("config", "check", folder / "s.yaml")
    assert refused.returncode == 2 and "2 of 2 rows cannot run\nbase, full: " in refused.stderr
    assert refused.stderr.count("data.streams.0.shards: no shards in '/a'") == 1, "rows with one problem are one line"
    refused = typed("config", "check", folder / "s.yaml", "optim.stepz=3", "--no-files")
    assert refused.returncode == 2 and "did you mean 'optim.steps'" in refused.stderr
    refused = typed("train", folder / "s.yaml")
    assert refused.returncode == 2 and "is a sweep, not the configuration of one run" in refused.stderr


def test_configurations_on_the_command_line(folder: Path) -> None:
    sweep = sweep_of_configs([folder / "base.yaml", folder / "full.yaml"])
    runs = plan_runs(sweep, ["optim.steps=3", "runs=" + str(folder / "elsewhere")])
    assert sweep.name == "base_vs_full" and [run.name for run in runs] == ["base-s0", "full-s0"]
    assert runs[0].config.optim.steps == 3 and not runs[0].config.mdat.enabled
    assert runs[1].config.runs == str(folder / "elsewhere" / "base_vs_full")
    assert sweep_of_configs([folder / "full.yaml"], "mine").name == "mine"


def test_configurations_of_the_package_are_swept_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [Path("configs/methods/rba.yaml"), Path("configs/methods/uno.yaml")]
    assert len(plan_runs(sweep_of_configs(names))) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rows: {a: nowhere.yaml}", "row 'a': there is no configuration 'nowhere.yaml'"),
        ("rows: {}", "rows: dictionary should have at least 1 item"),
        ("rows: {a: base.yaml}\nseed: [0]", "seed: extra inputs are not permitted"),
        ("rows: {a: base.yaml}\nseeds: [0, 0]", "the run 'a-s0' is planned twice"),
        ("rows: {a: {config: base.yaml, set: {mdat.wait: 1}}}", "row 'a', set 'mdat.wait=1': unknown key"),
        ("set: {tracking.experiment: 2024-01-01}\nrows: {a: base.yaml}",
         "row 'a', set 'tracking.experiment=2024-01-01': tracking.experiment"),
        ("rows: {a: base.yaml, b: {config: base.yaml, set: {runs: x}}}", "rows disagree about runs"),
        ("set: {seed: 5}\nrows: {a: base.yaml}", "s.yaml: set: seed: a sweep names and seeds its runs itself; give"),
        ("set: {name: x}\nrows: {a: base.yaml}", "s.yaml: set: name: a sweep names and seeds its runs itself; give"),
        ("rows: {a: {config: base.yaml, set: {seed: 5}}}", "s.yaml: rows.a.set: seed: a sweep names and seeds"),
        ("rows: {a: {config: base.yaml, set: {name: x}}}", "s.yaml: rows.a.set: name: a sweep names and seeds"),
        ("rows: {a: {config: base.yaml, seeds: []}}", "s.yaml: rows.a.seeds: list should have at least 1 item"),
        ("seeds: []\nrows: {a: base.yaml}", "s.yaml: seeds: list should have at least 1 item"),
        ("name: a b\nrows: {a: base.yaml}", "name: no name of letters, digits"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_run_is_refused(folder: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _sweep(folder, text)
    assert says in str(caught.value)


def test_values_of_a_sweep_are_those_of_a_configuration_file(folder: Path) -> None:
    values = "{margin: 1.0e-5, cap: 1.0e+22, n: 3, text: '1e5', yes: 'no', day: 2024-01-01, list: [0.5, ~, {a: b}]}"
    text = f"loss: {{outlier: 'python:x:Loss', arguments: {values}}}\n"
    (folder / "file.yaml").write_text(f"base: full.yaml\n{text}")
    row = f"{{config: full.yaml, set: {{loss.outlier: 'python:x:Loss', loss.arguments: {values}}}}}"
    (run,) = _sweep(folder, f"rows: {{a: {row}}}")
    assert run.config.loss.arguments == load_config(folder / "file.yaml").config.loss.arguments
    assert run.config.loss.arguments["margin"] == 1e-5 and run.config.loss.arguments["cap"] == 1e22


def test_sections_of_a_sweep_and_of_its_rows_merge(folder: Path) -> None:
    text = "set: {optim.steps: 7}\nrows: {a: {config: full.yaml, set: {optim: {lr_heads: 0.125}}}}"
    for first in (text, text.replace("{optim.steps: 7}", "{optim: {steps: 7}}")):
        (run,) = _sweep(folder, first)
        assert (run.config.optim.steps, run.config.optim.lr_heads) == (7, 0.125)


def test_a_mistake_of_a_sweep_is_said_with_the_place_of_its_value(folder: Path) -> None:
    (folder / "s.yaml").write_text("set: {optim.stepz: 3}\nrows: {a: base.yaml}")
    with pytest.raises(ConfigError) as caught:
        plan_runs(load_sweep(folder / "s.yaml"), ["seedz=1"])
    assert "row 'a', set 'optim.stepz=3': unknown key" in str(caught.value)
    assert "command line, 'seedz=1': unknown key" in str(caught.value)


def test_changes_of_a_sweep_are_checked_as_its_file(folder: Path) -> None:
    sweep = sweep_of_configs([folder / "base.yaml"])
    with pytest.raises(ConfigError) as caught:
        checked_sweep("sweep", sweep.model_dump() | {"name": "a b"})
    assert (caught.value.where, caught.value.remedy) == ("sweep", "a sweep has name, seeds, set and rows")


@pytest.mark.parametrize("name", ["a\n", "a b", "../a", "ä", "\na"])
def test_a_name_that_no_folder_can_have_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a folder"):
        sweep_of_configs([folder / "full.yaml"], name)
    with pytest.raises(ConfigError, match="name: no name of letters, digits"):
        checked_sweep("sweep", {"name": name, "rows": {"a": "full.yaml"}})


def test_a_sweep_names_and_seeds_its_runs_itself(folder: Path) -> None:
    with pytest.raises(ConfigError, match="give `seeds`"):
        plan_runs(sweep_of_configs([folder / "base.yaml"]), ["seed=3"])
    with pytest.raises(ConfigError, match="two configurations are named 'base'"):
        sweep_of_configs([folder / "base.yaml", folder / "base.yaml"])


@pytest.mark.parametrize(
    "benchmark", ["synthetic_to_real/grid", "synthetic_to_real/source", "synthetic_to_real/levels", "multi_source/grid"]
)
def test_the_benchmarks_can_be_planned(benchmark: str) -> None:
    sweep = load_sweep(Path(__file__).parents[2] / "configs/benchmark" / f"{benchmark}.yaml")
    runs = plan_runs(sweep)
    assert {run.row for run in runs} == set(sweep.rows)
    switches = {run.row: (run.config.mdat.enabled, run.config.cacl.enabled) for run in runs}
    alone: dict[str, tuple[bool, bool]] = {
        **dict.fromkeys(("baseline", "source", "teacher"), (False, False)),
        **dict.fromkeys(("mdat", "source_mdat"), (True, False)),
        **dict.fromkeys(("cacl", "source_cacl"), (False, True)),
    }
    assert switches == {row: alone.get(row, (True, True)) for row in sweep.rows}
