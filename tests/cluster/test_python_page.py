"""docs/python.md and python-runs.md, word for word: one program with its own network and loss, to its use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "docs" / name for name in ("python.md", "python-runs.md")]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = r"""Run\('.*/runs/own': finished\)
notes: 1
steps logged: 20 of 20
AP: 0\.\d\d
steps logged: 25 of 25
AUROC: 0\.\d\d
\*\*unseen: .*
scores: \(192, 256\) threshold known: True
exported: own
wrapped: True SmallNet
"""
LATER = """
import mgcda_dist as mg

try:
    mg.Run("runs/own").resume(optim={"steps": 26})
except mg.ConfigError as error:
    assert "again in Python, as `sources`" in str(error), error
try:
    mg.load_model("exported")
except mg.ConfigError as error:
    assert "may come from anybody" in str(error), error

from program import SmallNet

assert type(mg.load_model("exported", network=SmallNet).network.network) is SmallNet
assert mg.Run("runs/own", network=SmallNet).model().class_names[0] == "road"
"""


def _python(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, file], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.extended
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_the_pages_are_a_program(tiny_shards: Path, tmp_path: Path) -> None:
    """Its classes are `__main__`'s, as in a notebook; it prints its own lines, and the library none."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/demo").symlink_to(tiny_shards)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    blocks = [block for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    done = _python(tmp_path, "page.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(PRINTED, done.stdout), done.stdout
    unexpected = [line for line in done.stderr.splitlines() if "Warning" not in line and not line.startswith("  ")]
    assert not unexpected, done.stderr
    # Another process knows the objects only when it is given them.
    (tmp_path / "program.py").write_text("\n".join(blocks[:3]), encoding="utf-8")
    (tmp_path / "later.py").write_text(LATER, encoding="utf-8")
    later = _python(tmp_path, "later.py")
    assert later.returncode == 0, later.stdout + later.stderr
