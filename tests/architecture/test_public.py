"""`import mgcda_dist`: light, and all that it names is there, typed and described."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mgcda_dist as mg

SLOW = {"cv2", "deepspeed", "mlflow", "numpy", "pydantic", "ray", "rich", "torch", "typer", "yaml"}
NAMES = [name for name in mg.__all__ if name != "__version__"]


def test_the_import_loads_nothing_but_itself() -> None:
    """So it takes some milliseconds, on any machine."""
    code = (
        "import sys; before = set(sys.modules); import mgcda_dist as mg; found = set(sys.modules) - before;"
        "assert not hasattr(mg, 'trian') and 'train' in dir(mg); print(*sorted(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & SLOW and {name for name in loaded if name.startswith("mgcda_dist")} == {"mgcda_dist"}
    assert len(loaded) < 40, loaded


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_described_and_typed(name: str) -> None:
    found = getattr(mg, name)
    assert inspect.getdoc(found) or not callable(found), f"{name} has no docstring"
    if inspect.isfunction(found):
        signature = inspect.signature(found)
        untyped = [each.name for each in signature.parameters.values() if each.annotation is inspect.Parameter.empty]
        assert not untyped and signature.return_annotation is not inspect.Signature.empty, f"{name}: {untyped}"


def test_type_checkers_see_the_names_that_programs_get() -> None:
    """Names that are imported for them alone are those that `__getattr__` gives."""
    tree = ast.parse(Path(mg.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == {name: f"mgcda_dist.{place}" for name, place in mg._PLACES.items()}
    assert sorted(NAMES) == sorted(imported)
