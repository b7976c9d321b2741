"""`mgcda chaos` plans faults for the workers that the run will have."""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.cli.chaos import _load
from tests.support.configs import tiny_content, write_config


def test_an_automatic_layout_is_resolved_before_faults_are_planned(tmp_path: Path, tiny_shards: Path) -> None:
    file = write_config(tmp_path / "run.yaml", tiny_content(tiny_shards))
    assert _load(file, ["scaling.workers=auto", "scaling.cpus_per_worker=auto"]).scaling.num_workers == 1
    assert _load(file, ["scaling.workers=2"]).scaling.num_workers == 2
