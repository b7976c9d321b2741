"""Jobs on two nodes, at length: stopped and submitted again, refused, evaluated apart, examined when all is well."""

from __future__ import annotations

import json

import pytest

from mgcda_dist.tracking.jsonl import read_history
from tests.cluster.conftest import Place
from tests.support.watched import last_step, wait_for

pytestmark = [pytest.mark.extended, pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

STEPS = 300
TRAIN = ("mgcda", "train", "configs/two.yaml", "name=long", "scaling.workers=2", "scaling.placement=STRICT_SPREAD",
         f"optim.steps={STEPS}", "checkpoint.every_steps=100000")  # fmt: skip


def test_a_stopped_job_leaves_a_checkpoint_and_goes_on_when_submitted_again(place: Place) -> None:
    nodes, run = place.nodes, place.folder / "runs/long"
    submit = place.submission("--submission-id", "long-1", "--no-wait", command=TRAIN)
    assert nodes.run(submit, cwd=place.checkout).returncode == 0
    wait_for(lambda: last_step(run) >= 9, "ten steps")
    stopped = nodes.run(["ray", "job", "stop", "--address", nodes.dashboard, "long-1"])
    assert stopped.returncode == 0 and "was stopped" in stopped.stdout + stopped.stderr, stopped
    logs = nodes.run(["ray", "job", "logs", "--address", nodes.dashboard, "long-1"])
    assert "The same command resumes from it" in logs.stdout
    (checkpoint,) = (run / "checkpoints").glob("step-*/checkpoint.json")
    assert json.loads(checkpoint.read_text())["world_size"] == 2

    refused = place.submit("long-2", *TRAIN, "checkpoint.resume=never")
    assert refused.returncode != 0 and "is `never`, but" in refused.stdout
    again = place.submit("long-3", *TRAIN, "checkpoint.resume=must")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resuming at step" in again.stdout
    assert read_history(run / "metrics.jsonl")["loss/total"][0] == list(range(STEPS))


def test_an_evaluation_of_its_own_spreads_over_both_nodes(place: Place) -> None:
    done = place.submit("evaluate-1", "mgcda", "evaluate", f"{place.folder}/runs/long", "--workers", "2",
                        "--out", f"{place.folder}/runs/again")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, again = (json.loads((place.folder / f"runs/{name}/results.json").read_text()) for name in ("long", "again"))
    assert again["sets"] == first["sets"]
