"""What an evaluation depends on: the sets and options, and not the seed a run was trained with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mgcda_dist import build
from mgcda_dist.config.load import load_config
from mgcda_dist.evaluation.job import EvaluationJob
from tests.build.test_model import CONFIG


def test_pasted_objects_do_not_depend_on_the_seed_of_the_run(tmp_path: Path, tiny_shards: Path) -> None:
    """Runs of several seeds are compared on the same frames."""
    (tmp_path / "t.yaml").write_text(CONFIG.format(shards=tiny_shards))
    paste = f"paste: {{objects: {tiny_shards}/objects/val}}"
    sets = f"evaluation.sets=[{{name: pasted, shards: {tiny_shards}/real_day/val, {paste}}}]"
    frames = []
    for seed in (0, 1):
        config = load_config(tmp_path / "t.yaml", [sets, f"seed={seed}"]).config
        job = EvaluationJob.of_model(config, tmp_path)
        frames.append(build.evaluation_frames(job.section.sets[0], job.data, None, job.seed)[0])
    assert np.array_equal(frames[0].image, frames[1].image) and np.array_equal(frames[0].label, frames[1].label)
