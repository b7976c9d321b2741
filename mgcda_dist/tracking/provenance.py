"""Provenance of a run as tags: git commit, versions, user, host and its hardware."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mgcda_dist import __version__
from mgcda_dist.processors import usable_processors
from mgcda_dist.tracking.tags import Tag

__all__ = ["git_commit", "processor_name", "provenance_tags"]


def provenance_tags(folder: Path) -> dict[str, str]:
    """Tags for a run started from the code in `folder`, with MLflow's own names where it has some."""
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "mgcda",
        Tag.VERSION: __version__,
        "mgcda.python": platform.python_version(),
        Tag.HOST: platform.node(),
        Tag.HARDWARE: _hardware(),
        Tag.PACKAGES: _packages(),
    }
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = "unknown"
    commit, clean = git_commit(folder)
    if commit:
        tags[Tag.COMMIT] = commit
        tags[Tag.GIT_CLEAN] = str(clean).lower()
    return tags


def git_commit(folder: Path) -> tuple[str, bool]:
    """The commit checked out in `folder`, and True if tracked files are unchanged; ("", False) outside of git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, not _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "", False


def _hardware() -> str:
    """Processor, cores this process may use, memory and GPUs of this machine, as text."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    words = [f"{processor_name()}, {usable_processors()} cores", f"{memory_bytes / 2**30:.0f} GiB"]
    return ", ".join([*words, _gpus()])


def processor_name() -> str:
    """Model of the processor, else its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _gpus() -> str:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    kinds = [f"{names.count(name)} × {name}" for name in dict.fromkeys(names)]
    return ", ".join(kinds) or "no GPU"


def _packages() -> str:
    """Versions of the packages that affect the numbers."""
    found: list[str] = []
    for name in ("torch", "deepspeed", "ray", "timm", "numpy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
