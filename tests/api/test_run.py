"""A run from its folder: configuration, metrics, results, and what it lacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mgcda_dist.api.run import Run
from mgcda_dist.config.load import dump_config
from mgcda_dist.errors import CheckpointError, ConfigError, MgcdaError
from tests.support.configs import plain_config
from tests.support.evaluations import write_evaluated_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_evaluated_run(tmp_path / "mine", steps=5)
    (folder / "config.yaml").write_text(dump_config(plain_config(name="mine", runs="/elsewhere")))
    return folder


def test_a_finished_run_has_arrays_and_results(folder: Path):
    run = Run(folder)
    assert (run.name, run.is_finished, run.step) == ("mine", True, 0)
    assert run.metrics.keys() == run.steps.keys()
    loss = run.metrics["loss/total"]
    assert loss.dtype == np.float64 and loss.shape == run.steps["loss/total"].shape == (5,)
    np.testing.assert_array_equal(run.steps["loss/total"], np.arange(5))
    assert run.results.sets["seen"].metrics["ap"] > 0
    assert "something to say" in run.events[0]["text"]
    assert repr(run) == f"Run({str(folder)!r}: finished)"


def test_the_configuration_is_that_of_where_the_run_is_now(folder: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(folder, moved / "mine")
    assert Run(moved / "mine").config.runs == str(moved)


def test_a_run_that_goes_on_says_what_it_lacks(folder: Path):
    (folder / "results.json").unlink()
    run = Run(folder)
    assert not run.is_finished and repr(run).endswith("0 steps done)")
    with pytest.raises(MgcdaError, match=r"0 of 1000 steps are done[\s\S]*resume"):
        _ = run.results
    with pytest.raises(CheckpointError, match="no trained model"):
        run.model()


def test_no_run_and_a_renamed_one_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no such folder"):
        Run(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds no run \(no config.yaml\)"):
        Run(tmp_path)
    renamed = folder.rename(tmp_path / "other")
    with pytest.raises(ConfigError, match="the run 'mine' is called 'other'"):
        Run(renamed).resume()
