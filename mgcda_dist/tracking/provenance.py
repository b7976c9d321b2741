"""Where a run came from: the git commit of a folder, the package's version, the user and the host, as tags."""

from __future__ import annotations

import getpass
import platform
import subprocess
from pathlib import Path

from mgcda_dist import __version__

__all__ = ["git_commit", "provenance_tags"]


def provenance_tags(folder: Path) -> dict[str, str]:
    """Tags for a run started from the code in `folder`, with MLflow's own names where it has some."""
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "mgcda",
        "mgcda.version": __version__,
        "mgcda.python": platform.python_version(),
        "mgcda.host": platform.node(),
    }
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = "unknown"
    commit, clean = git_commit(folder)
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["mgcda.git_clean"] = str(clean).lower()
    return tags


def git_commit(folder: Path) -> tuple[str, bool]:
    """The commit checked out in `folder`, and whether tracked files are unchanged; ("", False) outside of git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, not _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "", False


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
