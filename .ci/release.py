"""`make release`: builds sdist and wheel, checks both as strangers get them, and writes the notes. Uploads nothing.

It runs in the environment of `make install` and links what the wheel needs from there, so that nothing is downloaded
but the tools.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

WHEEL_MUST = (
    "mgcda_dist/__init__.py",
    "mgcda_dist/py.typed",
    "mgcda_dist/reports/page/report.html.j2",
    "mgcda_dist/configs/demo.yaml",
    "mgcda_dist/configs/benchmark/multi_source/grid.yaml",
    "mgcda_dist/configs/config.schema.json",
    "mgcda_dist/configs/sweep.schema.json",
    "mgcda_dist/constraints.txt",
    "mgcda_dist/pretrained/model.safetensors",
    "mgcda_dist/examples/single_process.py",
    "*.dist-info/licenses/LICENSE",
    "*.dist-info/entry_points.txt",
)
SDIST_MUST = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "constraints.txt",
    "configs/demo.yaml",
    "examples/single_process.py",
    "mgcda_dist/__init__.py",
    "tests/conftest.py",
)
MUST_NOT = "|".join(
    (
        r"^(runs|dist|build|mlruns)/",
        r"(^|/)(__pycache__|\.git|\.venv)/",
        r"\.(pyc|tar|npy|npz|pt|pth|db|env)$",
        r"(?<!/pretrained/model)\.safetensors$",
    )
)
"""Nothing of a run, of data, of an environment."""


def version() -> str:
    """The version, from its one place."""
    text = (ROOT / "mgcda_dist/__init__.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[0]


def notes(number: str, changelog: str) -> str:
    """The section of a version, from the text of the CHANGELOG.

    Raises:
        SystemExit: it has no such section with a date, or an empty one.
    """
    found = re.search(
        rf"^## \[{re.escape(number)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if found is None or not found[1].strip():
        raise SystemExit(f"CHANGELOG.md has no section `## [{number}] - YYYY-MM-DD` with a word in it")
    return found[1].strip() + "\n"


def problems_of(names: list[str], must: tuple[str, ...]) -> list[str]:
    """Files that an archive lacks, and files that it must not have."""
    patterns = {name: re.escape(name).replace(r"\*", "[^/]*") for name in must}
    missing = [f"lacks {name}" for name, text in patterns.items() if not any(re.fullmatch(text, n) for n in names)]
    return missing + [f"holds {name}" for name in names if re.search(MUST_NOT, name)]


def check_contents(folder: Path) -> list[str]:
    """The problems of the wheel and the sdist in a folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    beside = [f"holds {name} beside the package" for name in names if not name.startswith("mgcda_dist")]
    found = [f"{wheel.name} {problem}" for problem in [*problems_of(names, WHEEL_MUST), *beside]]
    with tarfile.open(sdist) as archive:
        inside = [name.partition("/")[2] for name in archive.getnames()]
    return found + [f"{sdist.name} {problem}" for problem in problems_of(inside, SDIST_MUST)]


def check_installed(wheel: Path, number: str) -> list[str]:
    """The problems of the wheel in an environment that has the base of its dependencies and nothing else."""
    from tests.support.installed import Environment

    with tempfile.TemporaryDirectory() as temporary:
        environment, found = Environment(Path(temporary) / "env", wheel), list[str]()
        for words, says in (
            (["mgcda", "--version"], f"mgcda_dist {number}\n"),
            (["mgcda", "config", "check", "configs/demo.yaml", "--no-files"], "configs/demo.yaml: ok. "),
        ):
            done = environment.run(*words, cwd=Path(temporary))
            if done.returncode or not done.stdout.startswith(says):
                found.append(f"installed: `{' '.join(words)}` said {done.stdout}{done.stderr}")
    return found


def main() -> None:
    """Build into a folder, check, write notes and digests; exit code 1 with every problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--twine", default="twine", help="the program that checks the metadata")
    given = parser.parse_args()
    number = version()
    text = notes(number, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    if given.out.resolve() == ROOT / "dist":
        shutil.rmtree(given.out, ignore_errors=True)
    elif given.out.exists() and any(given.out.iterdir()):
        raise SystemExit(f"{given.out} is not empty: give another folder")
    # The wheel is built from the sdist: what that one lacks is found here.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(given.out), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    files = sorted(given.out.iterdir())
    subprocess.run([given.twine, "check", "--strict", *map(str, files)], check=True)
    wheel = next(file for file in files if file.suffix == ".whl")
    if problems := [*check_contents(given.out), *check_installed(wheel, number)]:
        raise SystemExit("\n".join(problems))
    (given.out / "RELEASE_NOTES.md").write_text(text, encoding="utf-8")
    files.append(given.out / "constraints.txt")  # the tested versions, for `pip install -c`
    shutil.copyfile(ROOT / "constraints.txt", files[-1])
    digests = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (given.out / "SHA256SUMS").write_text("".join(digests), encoding="utf-8")
    for file in sorted(given.out.iterdir()):
        print(f"{file}   {file.stat().st_size / 1e6:.2f} MB")
    print(f"release {number}: checked; tag it v{number}, and upload what is in {given.out} to the release's page")


if __name__ == "__main__":
    main()
