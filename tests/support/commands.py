"""`mgcda …` as users run it: in a process of its own, in no cluster, and without credentials of the test process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["mgcda", "start_mgcda"]


def mgcda(
    *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; `env` is added to the environment."""
    options = _options(cwd, env)
    return subprocess.run(_command(words), capture_output=True, timeout=timeout_s, check=False, **options)


def start_mgcda(*words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command in a session of its own, with pipes for what it prints."""
    options = _options(cwd, env)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(_command(words), start_new_session=True, **pipes, **options)


def _command(words: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "mgcda_dist", *map(str, words)]


def _options(cwd: Path | None, env: Mapping[str, str] | None) -> dict[str, Any]:
    dropped = ("RAY_ADDRESS", "RAY_AUTH_", "AWS_", "MLFLOW_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {"cwd": cwd, "env": inherited | dict(env or {}), "text": True}
