"""Packages beside the base of the installation: each is known with its extra, and a missing one ends in a remedy."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mgcda_dist as mg
from mgcda_dist.cli import main as program
from mgcda_dist.errors import MgcdaError
from mgcda_dist.extras import EXTRAS, TRAINING, missing_package, need
from tests.conftest import REPOSITORY
from tests.support.commands import refusal, typed


def test_each_package_comes_with_the_extra_that_is_named() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        extra: {canonicalize_name(Requirement(line).name) for line in lines}
        for extra, lines in project["optional-dependencies"].items()
    }
    base = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    for package, extra in EXTRAS.items():
        assert canonicalize_name(package) in wanted[extra] - base, package
    # Without GPUs nothing asks for the last one.
    assert {"deepspeed", "mlflow", "psutil", "ray"} == wanted["train"] - {"nvidia-ml-py"} == {*TRAINING}


def test_missing_packages_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    need("mgcda train", "mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MgcdaError, match=r"tracking: mlflow is not installed\n  → .*.whl\[train\]'"):
        need("tracking", "mlflow")
    with pytest.raises(MgcdaError, match=r"mlflow, h5py are not installed\n  → .*.whl\[train,maps\]'"):
        need("both", "mlflow", "h5py")
    error = missing_package(ModuleNotFoundError("No module named 'ray.train'", name="ray.train"))
    assert error is not None and error.where == "ray" and "[train]" in error.remedy
    assert missing_package(ModuleNotFoundError("No module named 'mine'", name="mine")) is None


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("deepspeed", ["train", "configs/demo.yaml"]),
        ("ray", ["sweep", "configs/demo.yaml"]),
        ("ray", ["doctor"]),
        ("psutil", ["chaos", "configs/demo.yaml"]),
        ("mlflow", ["sync", "runs/demo"]),
        ("mlflow", ["evaluate", "--maps", "maps", "--mlflow-uri", "sqlite:///x.db"]),
        ("ray", ["shards", "write", "plain", "frames", "shards/x", "--workers", "ray"]),
    ],
)
def test_commands_refuse_before_they_begin(monkeypatch: pytest.MonkeyPatch, package: str, words: list[str]) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    error = refusal(*words)
    assert f"{package} is not installed" in error.problem and "[train]" in error.remedy


def test_a_call_that_trains_refuses_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MgcdaError, match=r"training: ray is not installed\n  → .*\[train\]"):
        mg.train("configs/demo.yaml")


def test_an_import_that_fails_later_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> Any:
        def app() -> None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return app

    monkeypatch.setattr(program, "app", fails("mlflow.tracking"))
    done = typed("compare", "a", "b")
    assert done.returncode == 2 and done.stderr.startswith("error: mlflow: is not installed") and "→" in done.stderr
    monkeypatch.setattr(program, "app", fails("mine"))
    with pytest.raises(ModuleNotFoundError):
        typed("compare", "a", "b")


def test_a_folder_of_its_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B leaves `wandb/` where it runs, and a run folder holds `tensorboard/`."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("wandb", "tensorboard"):
        (tmp_path / name).mkdir()
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(MgcdaError, match=f"{name} is not installed"):
            need("tracking", name)
