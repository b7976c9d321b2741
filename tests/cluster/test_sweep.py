"""Runs of a sweep share what there is, a failed one does not stop the others, and finished ones are not repeated."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from mgcda_dist.cli import progress as cli_progress
from mgcda_dist.cli import sweep as cli_sweep
from mgcda_dist.cluster.sweep import Ended, Resources, Runner, is_finished
from mgcda_dist.config.load import dump_config, load_config
from mgcda_dist.config.sweep import PlannedRun
from mgcda_dist.errors import ConfigError
from mgcda_dist.runs.folder import RunFolder
from tests.support.configs import plain_content, write_config

# What `mgcda train` does as a sweep sees it: it notes when it ran and ends in one of the ways a run can end.
TRAIN = """
import os, signal, sys, time
from pathlib import Path
file = Path(sys.argv[1])
signal.signal(signal.SIGINT, lambda *_: sys.exit(3))
seen = os.environ.get("CUDA_VISIBLE_DEVICES", "-") + " ".join(sys.argv[2:])
(file.parent.parent / (file.stem + ".started")).write_text(seen)
if "bad" in file.stem:
    sys.exit("working\\nerror: model.backbone: there is none\\n  \\u2192 choose another")
if "told" in file.stem:
    (file.parent.parent / file.stem).mkdir()
    line = '{"step": 4, "metrics": {"loss/total": 1.5}}\\n'
    (file.parent.parent / file.stem / "metrics.jsonl").write_text(line)
    deadline = time.monotonic() + 20
    while not (file.parent.parent / "heard").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
time.sleep(30 if "long" in file.stem else 0.3)
(file.parent.parent / (file.stem + ".ended")).touch()
"""


def _run(folder: Path, name: str, *changes: str) -> PlannedRun:
    file = write_config(folder / "c.yaml", plain_content({"a": 4}, mdat={"enabled": False}, optim={"steps": 10}))
    return PlannedRun(name, load_config(file, [f"name={name}", f"runs={folder}", *changes]).config)


def _runner(folder: Path, runs: list[PlannedRun], cpus: float = 2, **options: int | str) -> Runner:
    command = (sys.executable, "-c", TRAIN)
    resources = Resources(cpus, int(options.pop("gpus", 0)))
    return Runner(runs, folder, resources, command=command, **options)  # pyright: ignore[reportArgumentType]


def _to_the_end(runner: Runner, within_s: float = 60.0) -> tuple[list[Ended], int]:
    """How the runs ended, in that order, and how many went on together at most."""
    ended: list[Ended] = []
    most, deadline = 0, time.monotonic() + within_s
    while not runner.is_done:
        assert time.monotonic() < deadline
        ended += runner.step()[1]
        most = max(most, len(runner.running))
        time.sleep(0.02)
    return ended, most


def test_as_many_as_there_is_room_for(tmp_path: Path) -> None:
    runs = [_run(tmp_path, f"r{i}") for i in range(3)] + [_run(tmp_path, "wide", "scaling.workers=4")]
    ended, most = _to_the_end(_runner(tmp_path, runs, parent_run="abc"))
    assert [one.state for one in ended] == ["finished"] * 4 and most == 2
    assert ended[-1].run.name == "wide", "it asks for more than there is, and runs alone"
    assert (tmp_path / "r0.started").read_text() == "-tracking.parent_run=abc"
    assert RunFolder(load_config(tmp_path / "configs" / "r0.yaml").config).root == tmp_path / "r0"


def test_a_bound_on_runs_at_a_time(tmp_path: Path) -> None:
    _, most = _to_the_end(_runner(tmp_path, [_run(tmp_path, f"r{i}") for i in range(2)], at_once=1))
    assert most == 1


def test_runs_that_would_take_all_processors_share_them(tmp_path: Path) -> None:
    open_ones = ["scaling.workers=auto", "scaling.cpus_per_worker=auto", "scaling.gpus_per_worker=auto"]
    runs = [_run(tmp_path, "a", *open_ones), _run(tmp_path, "b", "scaling.workers=2", "scaling.cpus_per_worker=auto")]
    _, most = _to_the_end(_runner(tmp_path, runs, cpus=9, at_once=2))
    assert most == 2
    assert (tmp_path / "a.started").read_text() == "-scaling.workers=1 scaling.cpus_per_worker=4"
    assert (tmp_path / "b.started").read_text() == "-scaling.workers=2 scaling.cpus_per_worker=2"


@pytest.mark.parametrize("at_once", [None, 1])
def test_a_run_alone_takes_all(tmp_path: Path, at_once: int | None) -> None:
    runs = [_run(tmp_path, name, "scaling.cpus_per_worker=auto") for name in "ab"]
    _, most = _to_the_end(_runner(tmp_path, runs, **({"at_once": at_once} if at_once else {})))
    assert most == 1
    assert (tmp_path / "a.started").read_text() in ("-", "-scaling.workers=1 scaling.cpus_per_worker=2")


def test_each_run_sees_only_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    runs = [_run(tmp_path, f"r{i}", "scaling.gpus_per_worker=1", "scaling.workers=2") for i in range(2)]
    _to_the_end(_runner(tmp_path, runs, cpus=8, gpus=4))
    assert {(tmp_path / f"r{i}.started").read_text() for i in range(2)} == {"4,5", "6,7"}


def test_a_failed_run_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    runs = [_run(tmp_path, name) for name in ("bad", "good")]
    ended, _ = _to_the_end(_runner(tmp_path, runs))
    assert {one.run.name: one.state for one in ended} == {"bad": "failed", "good": "finished"}
    (bad,) = (one for one in ended if one.state == "failed")
    assert bad.reason == "model.backbone: there is none\n  → choose another" and "working" in bad.log.read_text()


def test_a_log_says_where_runs_are_between_their_lines_of_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Log(io.StringIO):
        """Lets the run end once it has been told of twice."""

        def write(self, text: str) -> int:
            written = super().write(text)
            if self.getvalue().count("loss 1.500") >= 2:
                (tmp_path / "heard").touch()
            return written

    monkeypatch.setattr(cli_progress, "PLAIN_LINE_EVERY_S", 0.5)
    log = Log()
    cli_sweep._watch(_runner(tmp_path, [_run(tmp_path, "told")]), 1, Console(file=log, highlight=False, markup=False))
    lines = [line for line in log.getvalue().splitlines() if line.startswith("going on")]
    assert (tmp_path / "heard").exists(), log.getvalue()
    assert lines[-1] == "going on  told  loss 1.500  step 5/10"


def test_stopping_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    runner = _runner(tmp_path, [_run(tmp_path, name) for name in ("long0", "long1", "later")])
    runner.step()
    while not all((tmp_path / f"long{i}.started").exists() for i in range(2)):
        time.sleep(0.02)
    runner.stop()
    ended, _ = _to_the_end(runner, within_s=10)
    assert [one.state for one in ended] == ["stopped", "stopped"]
    assert [run.name for run in runner.waiting] == ["later"] and not (tmp_path / "later.started").exists()


def test_finished_is_what_has_results_of_this_configuration(tmp_path: Path) -> None:
    run = _run(tmp_path, "r")
    folder = RunFolder(run.config)
    assert not is_finished(run)
    folder.prepare(run.config)
    assert not is_finished(run), "it was prepared and never started"
    folder.results.write_text("{}")
    assert is_finished(run)
    assert is_finished(_run(tmp_path, "r", "scaling.workers=2", "checkpoint.keep=1"))
    assert not is_finished(_run(tmp_path, "r", "evaluation.height_px=100")), "it is evaluated again"
    with pytest.raises(ConfigError, match=r"another configuration \(optim.steps: 10 → 11\)"):
        is_finished(_run(tmp_path, "r", "optim.steps=11"))
    assert load_config(folder.config_file).config == run.config and dump_config(run.config)
