"""Callbacks of a run: called in order, named when they fail, and agreed on by all ranks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.training.callbacks import Callbacks
from mgcda_dist.training.loop import Hooks, fit
from mgcda_dist.training.progress import Progress, StopRequest
from mgcda_dist.training.state import EarlyEnd, TrainState
from tests.support.callbacks import calls_of
from tests.support.configs import plain_config
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import tiny_mgcda
from tests.support.watched import events

MODULE = "python:tests.support.callbacks"
STEPS, EVERY, _BATCH = 6, 2, 8


def _entry(name: str, **arguments: Any) -> dict[str, Any]:
    return {"use": f"{MODULE}:{name}", "arguments": arguments}


def _config(runs: Path, *callbacks: dict[str, Any], **sections: Any) -> Config:
    return plain_config(
        {"a": 3, "b": 3, "c": 2},
        runs=str(runs),
        optim={"steps": STEPS},
        checkpoint={"every_steps": EVERY},
        tracking={"log_every_steps": 3},
        callbacks=list(callbacks),
        **sections,
    )


def _callbacks(
    config: Config, *, committed: list[int] | None = None, progress: Progress | None = None, is_sliced: bool = False
) -> Callbacks:
    waiting = [] if committed is None else committed
    return Callbacks(
        config,
        RunFolder(config),
        Collectives(),
        progress or Progress(),
        network=nn.Identity,
        is_sliced=lambda: is_sliced,
        log=lambda metrics, step: None,
        committed=lambda: waiting.pop(0) if waiting else None,
        start_step=0,
    )


def _said(config: Config) -> list[str]:
    return [event["text"] for event in events(RunFolder(config).root, "callback")]


# ----------------------------------------------------------------------------------------------- alone, without engine


def test_without_callbacks_nothing_is_summed_and_nothing_measured(tmp_path: Path) -> None:
    found = _callbacks(_config(tmp_path))
    found.start()
    found.summed({})
    assert not found.are_there and found.local_sums() == {} and found.times() == {} and found.early_end() is None
    found.checkpoints()
    found.end("FINISHED", {})
    found.settle()
    assert found.shared({"a": 1.0}) == {"a": 1.0}
    assert not (tmp_path / "r").exists()


def test_each_method_is_called_with_what_it_is_promised(tmp_path: Path) -> None:
    config = _config(tmp_path, _entry("make_recorder"), {"use": f"{MODULE}:recorder"})
    (tmp_path / "r").mkdir()
    committed: list[int] = []
    found = _callbacks(config, committed=committed)
    found.start()
    found.stepped(0, {"loss/total": 1.0}, {})
    committed.append(1)
    sums = found.local_sums()
    assert sums == {"callbacks/failed": 0, "callbacks/stop": 0, "callbacks/checkpoint": 1}
    found.summed({name: round(value) for name, value in sums.items()})
    found.stepped(1, {"loss/total": 2.0}, {"validation/road/ap": 0.5})
    committed += [2, 3]
    found.checkpoints()
    found.end("FINISHED", {"eval/road/ap": 0.75})
    found.settle()
    one, other = calls_of(tmp_path / "r")[::2], calls_of(tmp_path / "r")[1::2]
    assert one == other, "one callback changed what the next one got"
    assert [(call["call"], call["step"]) for call in one] == [
        ("start", 0), ("step", 0), ("step", 1), ("validation", 1), ("checkpoint", 1), ("checkpoint", 2),
        ("checkpoint", 3), ("end", -1),
    ]  # fmt: skip
    assert one[2]["loss/total"] == 2.0 and one[3]["validation/road/ap"] == 0.5
    assert one[4]["folder"] == "step-00000001"
    assert one[-1] == {"call": "end", "step": -1, "of": 1, "status": "FINISHED", "results": {"eval/road/ap": 0.75}}


@pytest.mark.parametrize("error", ["", "exit"])
def test_the_first_exception_ends_the_run_and_is_named(tmp_path: Path, error: str) -> None:
    config = _config(tmp_path, _entry("make_recorder"), _entry("Failing", hook="on_step", step=1, error=error))
    (tmp_path / "r").mkdir()
    found = _callbacks(config)
    found.start()
    found.stepped(0, {}, {})
    assert found.local_sums()["callbacks/failed"] == 0
    found.stepped(1, {}, {})
    assert found.local_sums()["callbacks/failed"] == 1
    with pytest.raises(MgcdaError) as raised:
        found.summed({"callbacks/failed": 1, "callbacks/stop": 0, "callbacks/checkpoint": 0})
    assert raised.value.where == f"callbacks.1 ({MODULE}:Failing)"
    said = "SystemExit: 3" if error else "ValueError: no such number"
    assert raised.value.problem == f"on_step of step 1 raised {said}"
    assert "worker-0.log" in raised.value.remedy and "on_error" in raised.value.remedy


def test_a_callback_that_warns_is_counted_and_switched_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = _config(tmp_path, _entry("Failing", hook="on_step", step=1, on_error="warn"))
    found = _callbacks(config)
    found.start()
    with caplog.at_level(logging.ERROR):
        for step in range(6):
            found.stepped(step, {}, {})
    assert found.local_sums()["callbacks/failed"] == 0
    said = events(tmp_path / "r", "callback")
    assert [(event["step"], event["errors"]) for event in said] == [(1, 1), (2, 2), (3, 3)]
    assert f"callbacks.0 ({MODULE}:Failing): on_step of step 1 raised ValueError: no such number" == said[0]["text"]
    assert said[2]["text"].endswith("after 3 errors it is switched off")
    assert "Traceback" in caplog.text, "the log has what the event leaves out"


def test_a_stop_elsewhere_and_a_sliced_network_are_errors(tmp_path: Path) -> None:
    early = _callbacks(_config(tmp_path, _entry("Failing", hook="on_start", error="stop")))
    with pytest.raises(MgcdaError, match="it is for on_step and on_validation"):
        early.start()
    # What the file says of ZeRO is of its last phase: what counts is how the weights lie now.
    config = _config(tmp_path, {"use": f"{MODULE}:AskingForTheNetwork"}, engine={"zero_stage": 3})
    _callbacks(config).start()
    asking = _callbacks(config, is_sliced=True)
    with pytest.raises(MgcdaError, match=r"(?s)zero_stage 3 the weights lie sliced.*"):
        asking.start()


def test_an_error_in_the_end_is_an_event_where_another_error_goes_up(tmp_path: Path) -> None:
    config = _config(tmp_path, _entry("Failing", hook="on_end"))
    found = _callbacks(config)
    found.start()
    found.end("FAILED", {})
    assert "on_end of step 0 raised ValueError" in _said(config)[0]
    with pytest.raises(MgcdaError, match="on_end of step 0"):  # where all ranks come to it
        found.settle()


def test_time_is_measured_and_a_slow_callback_is_an_event(tmp_path: Path) -> None:
    config = _config(tmp_path, _entry("Slow", seconds=0.11), scaling={"hang_timeout_s": 0.2})
    found = _callbacks(config)
    found.start()
    for step in range(10):
        found.stepped(step, {}, {})
    assert found.times()["time/callbacks_s"] == pytest.approx(0.11, abs=0.05)
    assert found.times()["time/callbacks_s"] == 0.0
    long, slow = _said(config)
    assert "took 0 s in on_step of step 0: after 0.2 s (scaling.hang_timeout_s)" in long
    assert "of the time of training" in slow


def test_ranks_count_alike_for_hang_detection_and_the_callback_is_named(tmp_path: Path) -> None:
    progress, seen = Progress(), list[str]()
    config = _config(tmp_path, _entry("Slow", seconds=0.0))
    found = _callbacks(config, progress=progress)
    enter = progress.enter
    progress.enter = lambda phase, step: (seen.append(phase), enter(phase, step))[1]
    found.start()
    found.stepped(0, {}, {})
    assert seen == ["", "callback Slow.on_step"]


# ----------------------------------------------------------------------------------------- on two ranks, with an engine


class _Run:
    """One run of the loop with callbacks; checkpoints are written down, not made."""

    def __init__(self, config: Config) -> None:
        self.config, self.state, self.progress = config, TrainState(), Progress()
        self.world = Collectives()
        self.engine = tiny_engine(tiny_mgcda(dtype=torch.float32), batch=_BATCH)
        self.engine.model.collectives.stats.calls.clear()
        self.engine.model.collectives.stats.num_bytes.clear()
        self.committed: list[int] = []
        self.checkpoints: list[int] = []
        self.logged: dict[int, dict[str, float]] = {}
        self.callbacks = _callbacks(config, committed=self.committed, progress=self.progress)

    def fit(self) -> StopRequest:
        callbacks = self.callbacks
        callbacks.start()
        hooks = Hooks(
            log=lambda step, metrics: self.logged.update({step: metrics | callbacks.times()}),
            say=lambda text: None,
            say_everywhere=lambda text: None,
            alarm=lambda name, text: None,
            stop_request=lambda: StopRequest.NONE,
            local_sums=callbacks.local_sums,
            summed=callbacks.summed,
            validate=lambda: {"validation/road/ap": self.state.step / 10},
            checkpoint=self._checkpoint,
            last_good=str,
            progress=self.progress,
            early_end=callbacks.early_end,
            stepped=callbacks.stepped if callbacks.are_there else None,
        )
        ended_by = fit(self.engine, self._batches(), self.state, self.config, hooks)
        callbacks.checkpoints()
        return ended_by

    def _checkpoint(self, numbers: dict[str, float]) -> None:
        self.checkpoints.append(self.state.step)
        if self.world.rank == 0:
            self.committed.append(self.state.step)

    def _batches(self) -> Iterator[Batch]:
        for step in range(STEPS):
            yield from (replace(batch) for batch in micro_batches(step, _BATCH))


FAILING = {"__init__": 0, "on_start": 0, "on_step": 2, "on_validation": 1, "on_checkpoint": STEPS}
"""Method → step from which rank 1 fails in it."""


def _on_rank(runs: str) -> dict[str, Any]:
    """Everything at once: processes cost more than steps."""
    found: dict[str, Any] = {}
    plain = _Run(_config(Path(runs)))
    assert plain.fit() == StopRequest.NONE
    watched = _Run(_config(Path(runs), _entry("make_recorder"), _entry("Slow", seconds=0.0), name="watched"))
    (Path(runs) / "watched").mkdir(exist_ok=True)
    assert watched.fit() == StopRequest.NONE
    states = [run.engine.model.state_dict() for run in (plain, watched)]
    found["equal"] = all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    for name, run in (("plain", plain), ("watched", watched)):
        stats = run.engine.model.collectives.stats
        found[name] = {"bytes": dict(stats.num_bytes), "calls": dict(stats.calls), "logged": run.logged}
    found["counts"] = [run.progress.report().moves for run in (plain, watched)]
    found["failed"] = {}
    for hook, step in FAILING.items():
        run = _Run(_config(Path(runs), _entry("Failing", hook=hook, step=step, rank=1), name=hook.strip("_")))
        with pytest.raises(MgcdaError) as error:
            run.fit()
        found["failed"][hook] = str(error.value), run.state.step
    stopped = _Run(_config(Path(runs), _entry("make_recorder"), _entry("Stopper", step=2, rank=1), name="stopped"))
    (Path(runs) / "stopped").mkdir(exist_ok=True)
    ended_by = stopped.fit()
    found["stopped"] = ended_by, stopped.state.step, stopped.state.early_end, stopped.checkpoints
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_distributed(_on_rank, 2, str(folder), timeout_s=280)


Ranks = tuple[Path, list[dict[str, Any]]]


@pytest.mark.slow
def test_training_is_the_same_and_sends_the_same_without_callbacks(ranks: Ranks) -> None:
    for found in ranks[1]:
        assert found["equal"], "callbacks have changed what was learned"
        plain, watched = found["plain"], found["watched"]
        assert watched["calls"] == plain["calls"], "no step has a further collective"
        more = {n: watched["bytes"][n] - size for n, size in plain["bytes"].items() if watched["bytes"][n] != size}
        assert list(more.values()) == [STEPS * 3 * 8], "three numbers in the sum that every step has anyway"
        assert not any("time/callbacks_s" in metrics for metrics in plain["logged"].values())
        assert all("time/callbacks_s" in metrics for metrics in watched["logged"].values())
    zero, one = (found["counts"] for found in ranks[1])
    assert zero == one, "a callback on rank 0 alone must not make it look ahead of the others"


@pytest.mark.slow
def test_callbacks_are_called_on_all_ranks_with_the_same_numbers(ranks: Ranks) -> None:
    one, other = (calls_of(ranks[0] / "watched", rank) for rank in range(2))
    timeless = [[{n: x for n, x in call.items() if n[:5] != "time/"} for call in calls] for calls in (one, other)]
    assert timeless[0] == timeless[1]
    assert [call["step"] for call in one if call["call"] == "step"] == list(range(STEPS))
    validated = [(c["step"], c["validation/road/ap"]) for c in one if c["call"] == "validation"]
    assert validated == [(1, 0.2), (3, 0.4), (5, 0.6)]
    assert [call["step"] for call in one if call["call"] == "checkpoint"] == [2, 4, 6]
    steps = [call for call in one if call["call"] == "step"]
    for call in steps:
        assert {"loss/total", "loss/mdat", "train/gradient_norm", "train/skipped_steps", "data/bad_samples"} <= {*call}
    assert ["time/step_s" in call for call in steps] == [True, True, False, True, False, True], "what is logged, too"


@pytest.mark.slow
@pytest.mark.parametrize("hook", FAILING)
def test_an_exception_on_one_rank_ends_all_with_one_error(ranks: Ranks, hook: str) -> None:
    (one, at), (other, same) = (found["failed"][hook] for found in ranks[1])
    assert one == other and at == same
    if hook == "__init__":
        assert "callbacks.0: " in one and "Failing could not be made: ValueError: no such number" in one and at == 0
    else:
        assert f"callbacks.0 ({MODULE}:Failing): {hook} of step" in one
        assert "raised ValueError on rank 1: no such number" in one and "worker-1.log" in one
    # Known to all in the sum of the step after the one it was raised in.
    assert at == {"on_step": 3, "on_validation": 2, "on_checkpoint": STEPS}.get(hook, 0)


@pytest.mark.slow
def test_a_stop_from_one_rank_ends_all_after_the_same_step_with_a_checkpoint(ranks: Ranks) -> None:
    for found in ranks[1]:
        ended_by, step, early, checkpoints = found["stopped"]
        assert ended_by == StopRequest.NONE and step == 4
        assert early == EarlyEnd(f"{MODULE}:Stopper", "Stopper: it has seen enough")
        assert checkpoints[-1] == 4
    calls = calls_of(ranks[0] / "stopped")
    assert [c["step"] for c in calls if c["call"] == "step"] == [0, 1, 2, 3]
    assert [c["step"] for c in calls if c["call"] == "validation"] == [1, 3], "its last step is validated"


def test_the_state_remembers_an_early_end(tmp_path: Path) -> None:
    state = TrainState(step=4, early_end=EarlyEnd("python:a:B", "B: enough"))
    (tmp_path / "state.json").write_text(state.as_json())
    assert TrainState.load(tmp_path / "state.json") == state
    content = json.loads(state.as_json())
    del content["early_end"]  # of a checkpoint from before there were callbacks
    (tmp_path / "state.json").write_text(json.dumps(content))
    assert TrainState.load(tmp_path / "state.json").early_end is None
