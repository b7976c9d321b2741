"""A worker from its start to the evaluated model: callbacks and trackers over a restart, and an early end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import domain_gap, two_players
from mgcda_dist.config.schema import Config
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.tracking.jsonl import read_history
from mgcda_dist.training import profiler, worker
from mgcda_dist.training.checkpoint.store import CheckpointStore
from mgcda_dist.training.engine import DeepSpeedEngine
from tests.support.callbacks import calls_of
from tests.support.configs import merged, tiny_content
from tests.support.distributed import run_distributed
from tests.support.event_files import read_events
from tests.support.watched import events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, EVERY, INTERRUPTED_AT, ENOUGH_AT = 8, 3, 5, 2
WARM, PROFILED = 1, 2
MODULE = "python:tests.support.callbacks"
RECORDER, LOOKER = {"use": f"{MODULE}:make_recorder"}, {"use": f"{MODULE}:Looker"}
STOPPER = {"use": f"{MODULE}:Stopper", "arguments": {"step": ENOUGH_AT, "rank": 1}}


class _Interrupted(Exception):
    pass


def _config(runs: str, shards: str, name: str, *callbacks: dict[str, Any], **more: dict[str, Any]) -> Config:
    paste = {"objects": f"{shards}/objects/val"}
    held_out = {"name": "held_out", "shards": f"{shards}/real_day/val", "paste": paste, "max_frames": 2}
    content = tiny_content(shards, name=name, runs=runs, data={"loader_workers": 0}, optim={"steps": STEPS})
    tracking = {"mlflow_uri": "none", "tensorboard": True, "report": False, "preview_frames": 1, "alignment_steps": 0}
    # Waited for, so that the interruption finds the one before it, however busy the disk is.
    checkpoint = {"every_steps": EVERY, "asynchronous": False, "best": {"set": held_out, "metric": "ap"}}
    sections = {"tracking": tracking, "checkpoint": checkpoint, "scaling": {"workers": 2}}
    return Config.model_validate(merged(merged(content, {**sections, "callbacks": list(callbacks)}), more))


def _train(config: Config) -> None:
    if Collectives().rank == 0:
        RunFolder(config).prepare(config)
    Collectives().gather_objects(None, "prepared")
    worker.train(config)


def _on_rank(runs: str, shards: str) -> list[int]:
    """A run that is interrupted and goes on; one that ends early, starts again, and goes on without its callback."""
    forward = DeepSpeedEngine.forward

    def interrupted(engine: DeepSpeedEngine, batch: Batch, *rest: Any) -> Any:
        if batch.step == INTERRUPTED_AT:
            raise _Interrupted
        return forward(engine, batch, *rest)

    config = _config(runs, shards, "whole", RECORDER, LOOKER, tracking={"profile_steps": PROFILED})
    profiler.WARM_STEPS = WARM
    DeepSpeedEngine.forward = interrupted  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(_Interrupted):
        _train(config)
    DeepSpeedEngine.forward = forward
    _train(config)
    plain = {"evaluation": {"sets": []}, "tracking": {"preview_frames": 0, "tensorboard": False}}
    early = _config(runs, shards, "early", RECORDER, STOPPER, **plain)
    steps: list[int] = []
    for again in (early, early, _config(runs, shards, "early", RECORDER, **plain)):
        _train(again)
        steps.append(_steps(RunFolder(early))[-1])
    return steps


def _steps(run: RunFolder) -> list[int]:
    return CheckpointStore(run.checkpoints, keep=2).steps()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> tuple[Path, list[list[int]]]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_distributed(_on_rank, 2, str(folder), str(tiny_shards), timeout_s=400)


Runs = tuple[Path, list[list[int]]]


def test_the_event_files_have_every_step_once(runs: Runs) -> None:
    run = runs[0] / "whole"
    assert len([*(run / "tensorboard").iterdir()]) == 2, "one file for each attempt"
    found, record = read_events(run / "tensorboard"), read_history(run / "metrics.jsonl")
    for name in ("loss/total", "time/callbacks_s", "lr/backbone"):
        steps, values = record[name]
        assert steps == list(range(STEPS))
        assert found.scalars[name] == [(s, pytest.approx(v, rel=1e-6)) for s, v in zip(steps, values, strict=True)]
    assert found.scalars.keys() == record.keys(), "the same numbers as in the record"
    results = json.loads((run / "results.json").read_text())["sets"]["unseen"]
    assert found.scalars["eval/unseen/auroc"] == [(STEPS, pytest.approx(results["auroc"], rel=1e-6))]
    assert {"pictures/preview_unseen", "pictures/panel_unseen", "pictures/history"} <= found.pictures.keys()
    assert [step for step, *_ in found.pictures["pictures/preview_unseen"]] == [2, 5], "after steps 2 and 5"
    assert f"| optim.steps | {STEPS} |" in found.texts["parameters"] and "render_a" in found.texts["data"]
    assert "| status | FINISHED |" in found.texts["tags"]


def test_each_attempt_leaves_a_profile_of_rank_0(runs: Runs) -> None:
    run = runs[0] / "whole"
    written = sorted(file.name for file in (run / "profile").iterdir())
    assert written == [f"step-0000000{first}{end}" for first in (1, 4) for end in (".json.gz", ".md")], "from 0, from 3"
    page = (run / "profile" / "step-00000004.md").read_text()
    parts = re.findall(r"^\| (\w+) \| +([\d.]+) \|$", page, re.MULTILINE)
    assert {name for name, _ in parts} == {"loader", "forward", "backward", "optimizer"}
    assert all(float(ms) > 0 for _, ms in parts) and "convolution_backward" in page


def test_the_record_has_what_stands_for_null(runs: Runs) -> None:
    used = [event["engine"] for event in events(runs[0] / "whole") if "engine" in event]
    assert len(used) == 2, "one for each attempt"
    assert all(not engine["overlap_comm"] and not engine["fused_optimizer"] and engine["tf32"] for engine in used)


def test_callbacks_see_both_attempts_from_start_to_end(runs: Runs) -> None:
    for rank in range(2):
        calls = calls_of(runs[0] / "whole", rank)
        order = [(call["call"], call["step"]) for call in calls if call["call"] not in ("checkpoint", "validation")]
        first = [("start", 0), *(("step", step) for step in range(INTERRUPTED_AT)), ("end", -1)]
        assert order == [*first, ("start", 3), *(("step", step) for step in range(3, STEPS)), ("end", -1)]
        ends = [call for call in calls if call["call"] == "end"]
        assert [end["status"] for end in ends] == ["FAILED", "FINISHED"]
        results = json.loads((runs[0] / "whole/results.json").read_text())["sets"]["unseen"]
        assert ends[0]["results"] == {} and ends[1]["results"]["eval/unseen/auroc"] == results["auroc"]
        saved = [(call["step"], call["there"]) for call in calls if call["call"] == "checkpoint"]
        assert saved == [(3, True), (6, True), (STEPS, True)]
        validated = [call for call in calls if call["call"] == "validation"]
        assert [call["step"] for call in validated] == [2, 5, 7]
        assert all("validation/held_out/ap" in call for call in validated)


def test_a_callback_gets_the_network_records_numbers_and_says_sentences(runs: Runs) -> None:
    run = runs[0] / "whole"
    record = read_history(run / "metrics.jsonl")
    (same,), (number,) = record["looker/same"][1], record["looker/all"][1]
    assert same == number > 10 and record["looker/all"][0] == [STEPS]
    assert [event["text"] for event in events(run, "callback")] == [f"Looker: it looks like step-{STEPS:08d}"]


def test_an_early_end_finishes_the_run_and_stands_while_its_callback_does(runs: Runs) -> None:
    # Asked for after step 2 on rank 1, known to all in the sum of step 3: four steps are done.
    assert runs[1] == [[ENOUGH_AT + 2, ENOUGH_AT + 2, STEPS]] * 2
    run = runs[0] / "early"
    said = [event["text"] for event in events(run, "note")]
    early = f"training ends early, after {ENOUGH_AT + 2} of {STEPS} steps: Stopper: it has seen enough"
    assert said.count(early) == 2, "said again by the second start, which does not train"
    assert f"training goes on from step {ENOUGH_AT + 2}: {STOPPER['use']}, which had ended it, is gone" in said
    calls = calls_of(run)
    assert [call["step"] for call in calls if call["call"] == "step"] == list(range(STEPS))
    assert [call["status"] for call in calls if call["call"] == "end"] == ["FINISHED"] * 3
    assert (run / "results.json").is_file() and (run / "model/model.safetensors").is_file()


@pytest.mark.parametrize("script", [domain_gap, two_players])
def test_what_measures_a_finished_run_reads_it(
    runs: Runs, script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs[0])
    monkeypatch.setattr("sys.argv", ["measure", str(runs[0] / "whole"), "--batches", "2"])
    script.main()
    assert re.search(r"whole +\d+\.\d%|mean [+-]0\.\d{3}, below zero in \d of 2", capsys.readouterr().out)
