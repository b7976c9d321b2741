"""Evaluation jobs: they travel as JSON, and depend on sets and options, not on the seed of the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mgcda_dist import build
from mgcda_dist.evaluation.job import EvaluationJob
from mgcda_dist.evaluation.sets import evaluation_frames
from tests.support.configs import tiny_config


def test_pasted_objects_do_not_depend_on_the_seed_of_the_run(tmp_path: Path, tiny_shards: Path) -> None:
    """Runs of several seeds are compared on the same frames."""
    paste = f"paste: {{objects: {tiny_shards}/objects/val}}"
    sets = f"evaluation.sets=[{{name: pasted, shards: {tiny_shards}/real_day/val, {paste}}}]"
    frames = []
    for seed in (0, 1):
        job = build.evaluation_job(tiny_config(tmp_path, tiny_shards, sets, f"seed={seed}"), tmp_path)
        frames.append(evaluation_frames(job.sets[0], job.class_space)[0])
    assert np.array_equal(frames[0].image, frames[1].image) and np.array_equal(frames[0].label, frames[1].label)


def test_a_job_is_the_same_after_travelling_as_json(tmp_path: Path) -> None:
    space = "{names: [road], ids: {binary: {0: road, 1: anomaly}}}"
    changes = [
        f"data.class_space={space}",
        f"evaluation.sets=[{{name: a, shards: {tmp_path}/a, paste: {{objects: {tmp_path}/o, include: [dog]}}}}]",
        "evaluation.window_px=[64, 96]",
        "evaluation.scales=[0.5, 1]",
    ]
    job = build.evaluation_job(tiny_config(tmp_path, tmp_path, *changes), tmp_path)
    assert job.sets[0].paste is not None and not isinstance(job.class_space, str | None)
    assert EvaluationJob.of_json(json.loads(json.dumps(job.as_json()))) == job
