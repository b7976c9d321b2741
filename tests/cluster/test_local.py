"""A run on one machine is its user's alone: sockets on loopback, a token and a folder of its own, no leftovers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.commands import run_without, start_mgcda
from tests.support.configs import tiny_content, write_config
from tests.support.watched import wait_for_lines


@pytest.fixture
def parent() -> Iterator[Path]:
    """A short folder for temporary files: Ray's sockets have 107 bytes for their path."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_the_folder_is_private_and_goes_with_its_process_or_after_one_that_was_killed(parent: Path) -> None:
    script = """
import json, os, signal, sys
from pathlib import Path
from mgcda_dist.cluster.local import private_folder
os.umask(0)
folder = private_folder()
assert folder is private_folder()
print(oct(folder.stat().st_mode)[-3:], oct((folder / "token").stat().st_mode)[-3:], len((folder / "token").read_text()))
beside = sorted(path.name for path in folder.parent.iterdir() if path != folder)
print(json.dumps(beside))
sys.stdout.flush()
if len(sys.argv) > 1:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    foreign = parent / "mgcda-of-another-program"
    foreign.mkdir()

    def run(*words: str) -> list[str]:
        command = [sys.executable, "-c", script, *words]
        done = subprocess.run(
            command, env=os.environ | {"TMPDIR": str(parent)}, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == (-signal.SIGKILL if words else 0), done.stderr
        return done.stdout.splitlines()

    assert run("killed")[0] == "700 600 64"
    assert len(list(parent.iterdir())) == 2, "killed: nobody could remove it"
    assert json.loads(run()[1]) == [foreign.name], "the next one does"
    assert list(parent.iterdir()) == [foreign]


def test_the_folder_of_a_living_process_stays(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(parent))
    script = "from mgcda_dist.cluster.local import private_folder; print(private_folder(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        folder = Path(process.stdout.readline().strip())
        run_without((), "from mgcda_dist.cluster.local import private_folder; private_folder()")
        assert folder.is_dir()
        process.stdin.write("\n")
    assert not folder.exists()


def test_a_long_folder_for_temporary_files_gives_way_to_one_whose_sockets_have_short_paths(tmp_path: Path) -> None:
    script = "from mgcda_dist.cluster.local import private_folder; assert str(private_folder().parent) == '/tmp'"
    long = tmp_path / ("x" * 40)
    long.mkdir()
    run_without((), f"import os; os.environ['TMPDIR'] = {str(long)!r}\n{script}")


@pytest.mark.slow
@pytest.mark.cluster
def test_a_run_listens_on_loopback_alone_waits_for_nothing_and_leaves_nothing_behind(
    parent: Path, tmp_path: Path, tiny_shards: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_config(tmp_path / "run.yaml", tiny_content(tiny_shards, optim={"steps": 40}, scaling={"workers": 2}))
    words = ("train", tmp_path / "run.yaml", f"runs={tmp_path}/runs")
    other_ray = socket.socket()
    with suppress(OSError):  # there is one
        other_ray.bind(("127.0.0.1", 52365))
        other_ray.listen()
    process = start_mgcda(*words, cwd=tmp_path, env={"HOME": str(home), "TMPDIR": str(parent)})
    wait_for_lines(tmp_path / "runs/run/metrics.jsonl", 2, process)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = {
        f"{one.laddr.ip} ({member.name()})"
        for member in family
        for one in member.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    titles = [" ".join(member.cmdline()) for member in family if member.is_running()]
    actors = {title.split("::")[1].split(".")[0].strip() for title in titles if title.startswith("ray::")}
    (agent,) = parent.glob("*/ray/session_2*/logs/dashboard_agent.log")
    agent_log = agent.read_text()
    folders = {path: stat.filemode(path.stat().st_mode) for path in parent.iterdir() if [*path.rglob("raylet.out")]}
    tokens = {stat.filemode(path.stat().st_mode) for path in parent.glob("*/token")}
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert listening and not {one for one in listening if "127.0.0.1 " not in one}
    other_ray.close()
    assert "Agent" in agent_log and "Failed to bind" not in agent_log, "a port in use is not waited for"
    assert {"TrainController", "RayTrainWorker"} <= actors
    needless = {"DatasetManager", "PlacementGroupCleaner", "PreemptionWatcher", "_AutoscalingCoordinatorActor"}
    assert not actors & needless, actors
    assert [*folders.values()] == ["drwx------"], folders
    assert not any(folder.exists() for folder in folders)
    assert tokens == {"-rw-------"} and not (home / ".ray").exists()
