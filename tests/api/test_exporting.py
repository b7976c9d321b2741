"""Export from a program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mgcda_dist.api import exporting
from mgcda_dist.api.exporting import export
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.inference.model import load_exported
from mgcda_dist.inference.proof import Check


def test_the_export_is_the_network(run: Path, tmp_path: Path):
    exported = export(run, tmp_path / "out", ["safetensors"], verify=False)
    before = load_exported(run).network.state_dict()
    for name, tensor in exported.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "model.json", "model.safetensors"}
    with pytest.raises(MgcdaError, match="exists already"):
        export(run, tmp_path / "out", verify=False)
    with pytest.raises(ConfigError, match="unknown name 'tf'"):
        export(run, tmp_path / "other", ["tf"])  # pyright: ignore[reportArgumentType]


def test_a_failed_check_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mgcda_dist.inference.export.verify_export", lambda *given: [Check("FLOPs", False, "two more")])
    with pytest.raises(MgcdaError, match="differs from a new network: FLOPs"):
        export(run, tmp_path / "out", ["safetensors"])
    assert not (tmp_path / "out").exists()
    assert exporting.__all__
