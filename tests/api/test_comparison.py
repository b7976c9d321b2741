"""Comparison from a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.api.comparison import compare
from mgcda_dist.api.run import Run
from mgcda_dist.errors import ConfigError, MgcdaError
from tests.support.evaluations import write_evaluated_run


def test_runs_and_folders_are_compared(tmp_path: Path):
    worse = write_evaluated_run(tmp_path / "worse", skill=0.5, steps=3)
    better = write_evaluated_run(tmp_path / "better", skill=3.0, steps=3, seed=0, cacl={"enabled": True})
    found = compare(Run(worse), better, metrics=["ap"], replicates=100)
    assert found.reference == "worse" and found.params["cacl.enabled"] == ["False", "True"]
    seen = next(one for one in found.sets if one.name == "seen")
    assert seen.differences["better"]["ap"].value > 0
    assert "| better |" in str(found) and str(found) == found._repr_markdown_()
    assert compare(worse, better, reference="better", replicates=100).reference == "better"


def test_what_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="which runs"):
        compare()
    with pytest.raises(ConfigError, match="none: there is no such folder"):
        compare(tmp_path / "none")
    with pytest.raises(MgcdaError, match="holds neither a run nor an evaluation"):
        compare(tmp_path)
