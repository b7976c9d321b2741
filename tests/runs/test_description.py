"""A run describes itself: method, data with its labels, and the results once there are any."""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.data.inputs import Role, RunInput
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.runs.description import describe, run_tags
from tests.support.configs import tiny_config

INPUTS = [
    RunInput(role, name, "/shards", "demo", split, samples, 1, "c")
    for role, name, split, samples in (
        (Role.TRAIN, "render_a", "train", 8), (Role.TRAIN, "real_day", "train", 5), (Role.EVAL, "unseen", "test", 4),
    )
]  # fmt: skip


def test_before_and_after(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, Path("/shards"), "cacl.enabled=false", "seed=3")
    before = describe(config, INPUTS)
    assert before.startswith("**MDAT** with seed 3: `test_resnet.r160_in1k` (none), 20 steps of 4 images on 1 worker")
    assert "| train/render_a | render_a | demo train | 8 | 2 |" in before
    assert "| train/real_day, no labels | real_day | demo train | 5 | 1 |" in before
    assert "| eval/unseen |  | demo test | 4 |  |" in before and "Results" not in before
    sets = {"unseen": {"ap": 0.5, "fpr95": 0.25, "frames": 4}, "camvid": {"miou": 0.75, "frames": 9}}
    results = EvaluationResults.of_json({"convention": "pooled", "score": "energy", "sets": sets})
    after = describe(config, INPUTS, results)
    assert after.startswith(before)
    assert "| set | frames | AP ↑ | FPR95 ↓ | mIoU ↑ |" in after
    assert "| unseen | 4 | 50.00 | 25.00 | – |" in after and "| camvid | 9 | – | – | 75.00 |" in after
    assert run_tags(config)["mgcda.data"] == "render_a, render_b, real_day"


def test_a_teacher_is_part_of_the_method_where_it_is_asked(tmp_path: Path) -> None:
    off, on = ["mdat.enabled=false", "cacl.enabled=false"], "teacher.enabled=true"
    names = {
        tuple(extra): run_tags(tiny_config(tmp_path, Path("/shards"), *off, *extra))["mgcda.method"]
        for extra in ([], [on], [on, "teacher.weight=0"])
    }
    assert list(names.values()) == ["baseline", "teacher", "baseline"]
