"""The wheel of this repository in an environment of its own, which has a layer of the dependencies and nothing else.

Nothing is downloaded: what the layer needs, after the metadata of what is installed here, is linked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

__all__ = ["Environment", "build_wheel"]


def build_wheel(folder: Path) -> Path:
    """The wheel, built from the repository into a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment with a wheel and the packages that its metadata ask for.

    Attributes:
        linked: names of the packages that were linked.
    """

    def __init__(self, folder: Path, wheel: Path, *extras: str) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self._bin = folder / "bin"
        (site,) = folder.glob("lib/python*/site-packages")
        needed = _needed(_requirements(wheel), set(extras))
        self.linked = set(needed)
        for found in needed.values():
            _link(found, site)
        # As pip would, without its seconds: the files of the wheel, and its command.
        with ZipFile(wheel) as archive:
            archive.extractall(site)
        command = self._bin / "mgcda"
        text = "from mgcda_dist.cli.main import main\nif __name__ == '__main__':\n    main()\n"
        command.write_text(f"#!{self._bin / 'python'}\n{text}")
        command.chmod(0o755)

    def run(self, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment to its end, in a folder that is not the repository."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "MLFLOW_"))}
        kept |= {"PATH": f"{self._bin}:{kept['PATH']}", "COLUMNS": "120", "MPLCONFIGDIR": str(self._bin)}
        program, *rest = map(str, words)
        return subprocess.run(
            [self._bin / program, *rest], cwd=cwd, env=kept, capture_output=True, text=True, timeout=240, check=False
        )


def _requirements(wheel: Path) -> list[Requirement]:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    return [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]


def _needed(requirements: list[Requirement], extras: set[str]) -> dict[str, Distribution]:
    """Name → installed distribution, of the requirements and of theirs in turn."""
    found: dict[str, Distribution] = {}
    seen: dict[str, set[str]] = {}
    waiting = [(requirement, extras) for requirement in requirements]
    while waiting:
        wanted, asked = waiting.pop()
        if wanted.marker is not None and not any(wanted.marker.evaluate({"extra": extra}) for extra in asked or {""}):
            continue
        name = canonicalize_name(wanted.name)
        if name in seen and wanted.extras <= seen[name]:
            continue
        seen[name] = seen.get(name, set()) | wanted.extras
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # CUDA's libraries, where torch has none of them
        waiting += [(Requirement(line), seen[name]) for line in found[name].requires or []]
    return found


def _link(found: Distribution, site: Path) -> None:
    """Link what a distribution has in its folder of packages; folders that several share, one level deeper."""
    root = Path(str(found.locate_file("")))
    inside = [file.parts for file in found.files or [] if file.parts[0] not in ("..", "/", "__pycache__")]
    own = {name for name in {parts[0] for parts in inside} if _is_own(root / name)}
    for part in {Path(*parts[: 1 if parts[0] in own else 2]) for parts in inside}:
        if (root / part).exists() and not (site / part).is_symlink():
            (site / part).parent.mkdir(exist_ok=True)
            (site / part).symlink_to(root / part)


def _is_own(folder: Path) -> bool:
    return folder.suffix in (".dist-info", ".libs") or (folder / "__init__.py").is_file()
