"""Imports: every module works, none imports a slow vendor, and the method needs only torch."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys

import pytest

import mgcda_dist
from tests.conftest import REPOSITORY

SLOW_VENDORS = {"deepspeed", "matplotlib", "mlflow", "ray", "timm", "torchvision"}
STACK = SLOW_VENDORS | {
    "PIL", "cv2", "matplotlib", "pandas", "pydantic", "rich", "scipy", "sklearn", "typer", "webdataset", "yaml",
}  # fmt: skip
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mgcda_dist.__path__, "mgcda_dist.")
    if not module.name.endswith("__main__")
)

_PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def _packages_after_importing(*modules: str) -> set[str]:
    """Top-level packages in memory after a fresh interpreter has imported `modules`."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *modules],
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_and_have_all(module: str) -> None:
    loaded = importlib.import_module(module)
    assert hasattr(loaded, "__all__") or hasattr(loaded, "__path__"), f"{module} has no __all__"


# The modules that subclass Ray's classes; `cluster.trainer.launch` imports them when it starts Ray anyway.
_OF_RAY = [f"mgcda_dist.cluster.{name}" for name in ("process_group", "recovery", "worker_monitor")]
_LAZY = [module for module in MODULES if module not in _OF_RAY]
_METHOD = [module for module in MODULES if module.startswith("mgcda_dist.method.")]
_RECORDS = [
    f"mgcda_dist.{name}" for name in ("reports.figures", "tracking.jsonl", "tracking.tracker", "tracking.mlflow")
]


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        (_LAZY, SLOW_VENDORS),
        (_METHOD, STACK),
        (_RECORDS, {"torch"}),
        # Ray Train's controller, which the workers wait for, and the command up to its checks.
        ([*_OF_RAY, "mgcda_dist.cluster.trainer"], {"torch"}),
        (["mgcda_dist.cli.shards"], {"cv2", "torch", "numpy", "PIL"}),
    ],
    ids=["all", "the method", "records", "the controller", "shards"],
)
def test_what_no_module_imports(modules: list[str], slow: set[str]) -> None:
    found = _packages_after_importing(*modules) & slow
    assert not found, f"imported at module level somewhere: {sorted(found)}"
