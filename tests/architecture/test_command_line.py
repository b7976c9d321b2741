"""`mgcda --help` is fast, and `python -m mgcda_dist` is the same command."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import mgcda_dist

ROOT = Path(mgcda_dist.__file__).parents[1]
LIMIT_S = 0.5


def _help(*command: str) -> tuple[str, float]:
    """The text of `… --help`, and the processor time of the fastest of three runs in seconds.

    Processor time, because the tests may share the machine: on an idle one it is the time the user waits.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}
    fastest = float("inf")
    text = ""
    for _ in range(3):
        start = _children_s()
        done = subprocess.run(
            [sys.executable, *command, "--help"], capture_output=True, text=True, timeout=60, check=True, env=env
        )
        fastest = min(fastest, _children_s() - start)
        assert done.stderr == ""
        text = done.stdout
    return text, fastest


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_in_under_half_a_second() -> None:
    text, seconds = _help("-m", "mgcda_dist")
    assert "train" in text
    assert "shards" in text
    assert seconds < LIMIT_S, f"mgcda --help took {seconds:.2f} s: something slow is imported at module level"


def test_the_installed_command_is_the_module() -> None:
    script = Path(sys.executable).with_name("mgcda")
    if not script.exists():  # run from a checkout that is not installed
        return
    installed = subprocess.run([str(script), "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "train" in installed.stdout
