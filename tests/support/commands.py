"""`mgcda …` as users run it: in a process of its own, without credentials of the test process; or within this one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from mgcda_dist.cli.main import app, main
from mgcda_dist.errors import MgcdaError

__all__ = ["invoke", "mgcda", "refusal", "run_without", "start_mgcda", "typed"]


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


def typed(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command through the program's entry point, with its messages and exit codes, but in this process."""
    out, err, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["mgcda", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(err), chdir(cwd or Path.cwd()):
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    assert isinstance(code, int)
    return subprocess.CompletedProcess(list(map(str, words)), code, out.getvalue(), err.getvalue())


def invoke(*words: object) -> Result:
    """The command in this process; an error of ours is the result's `exception`."""
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "120"})


def refusal(*words: object) -> MgcdaError:
    """The error that the command ends with, in this process."""
    result = invoke(*words)
    assert isinstance(result.exception, MgcdaError), result.output
    return result.exception


def run_without(packages: Iterable[str], script: str, *words: object) -> None:
    """Run a Python script, which must succeed, in a process that cannot import these packages."""
    script = f"import sys\nsys.modules |= dict.fromkeys({tuple(packages)!r})\n{script}"
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def _command(words: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "mgcda_dist", *map(str, words)]


def _options(cwd: Path | None, env: Mapping[str, str] | None) -> dict[str, Any]:
    dropped = ("RAY_ADDRESS", "RAY_AUTH_", "AWS_", "MLFLOW_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {"cwd": cwd, "env": inherited | dict(env or {}), "text": True}
