"""The doctor on one machine: a real Ray of its own, real shards, a full disk, little shared memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.doctor import examine, node_checks
from mgcda_dist.doctor.examine import PACKAGES
from mgcda_dist.doctor.node import Node, NodeReport
from tests.support.commands import mgcda, typed
from tests.support.configs import plain_config, tiny_content, write_config


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> NodeReport:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return Node("10.0.0.1").report(PACKAGES)


def _with(report: NodeReport, **changes: Any) -> NodeReport:
    return {**report, **changes}  # pyright: ignore[reportReturnType]


def _said(findings: Any) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.subject, finding.text) for finding in findings]


@pytest.mark.parametrize("mode", ["", "disabled"])
def test_a_cluster_without_authentication_is_noted(report: NodeReport, mode: str) -> None:
    """Also if Ray was started without the variable: it asks for a token only where it finds one."""
    ((level, subject, text),) = _said(node_checks.ray([report, _with(report, authentication=mode)], "10.0.0.1:6379"))
    assert (level, subject) == ("note", "ray") and "2 nodes, WITHOUT authentication" in text
    ((level, _, text),) = _said(node_checks.ray([report], "10.0.0.1:6379"))
    assert level == "ok" and "1 node, behind a token: 10.0.0.1" in text
    ((level, _, text),) = _said(node_checks.ray([_with(report, authentication=mode)], None))
    assert level == "ok" and text.startswith("no RAY_ADDRESS: this machine")


def test_a_token_that_others_can_read_is_closed_and_an_open_session_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    token, session = tmp_path / ".ray/auth_token", tmp_path / "ray"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    session.mkdir()
    session.chmod(0o777)
    closed, entered = _said(node_checks.private([Node("10.0.0.1").report([])]))
    assert token.stat().st_mode & 0o777 == 0o600 and f"{token} (0644)" in closed[2] and "secret" not in closed[2]
    assert closed[:2] == ("note", "private") and f"{session} (0777)" in entered[2]
    session.chmod(0o700)
    assert not [*node_checks.private([Node("10.0.0.1").report([])])]


def test_other_versions_and_other_code_are_named_with_both_nodes(report: NodeReport) -> None:
    other = _with(report, address="10.0.0.2", host="b", code="x", python="3.12.1")
    other["packages"] = report["packages"] | {"torch": "2.13.0", "timm": None}
    problems = [found for found in _said(node_checks.versions([report, other])) if found[0] == "problem"]
    (versions, code) = problems
    assert versions[2].startswith("10.0.0.2 (b): Python 3.12.1 (on 10.0.0.1")
    assert "timm is not installed (on" in versions[2] and "torch 2.13.0 (on" in versions[2]
    assert code[1] == "code" and "has other code than on 10.0.0.1" in code[2]


def test_gpus_that_torch_cannot_use_are_noted(report: NodeReport) -> None:
    has = _with(report, gpus=["NVIDIA L4, 535.1, 23034 MiB"] * 4, torch_sees_gpus=0)
    ((level, _, text),) = _said(node_checks.gpus([has], None))
    assert level == "note" and "the driver has 4 GPUs (NVIDIA L4, 535.1, 23034 MiB), torch can use 0" in text
    assert _said(node_checks.gpus([report], None)) == [("ok", "gpus", "none: processors and gloo")]


def test_little_shared_memory_and_a_full_disk_are_problems(report: NodeReport) -> None:
    tight = _with(report, shm_free_bytes=2**20, tmp_free_bytes=2**20)
    memory, disk = _said(node_checks.memory([tight], None))
    assert memory[0] == "problem" and "1 MiB of shared memory" in memory[2]
    assert disk[0] == "problem" and "1 MiB left for Ray's session" in disk[2]


def test_a_teacher_needs_shared_memory_for_its_views(report: NodeReport) -> None:
    tight = _with(report, shm_free_bytes=0)
    for enabled, needed in ((False, "4 MiB"), (True, "7 MiB")):
        config = plain_config(
            {"a": 4, "b": 4},
            data={"crop_px": [256, 512], "loader_workers": 1, "prefetch_steps": 1},
            scaling={"workers": 1},
            teacher={"enabled": enabled},
        )
        (memory, *_) = _said(node_checks.memory([tight], config))
        assert memory[2].endswith(f"the loaders of one worker need {needed}")


def test_clock_skew_is_reported_with_its_sign() -> None:
    class Clocks:
        def __init__(self, **offsets_s: float) -> None:
            self.clock_offsets_s = lambda: offsets_s

    ((level, subject, text),) = _said(examine._clocks(Clocks(a=0.0004, b=-2.5)))  # pyright: ignore[reportArgumentType]
    assert (level, subject, text) == ("note", "clocks", "b is -2.5 s off")
    ((level, _, text),) = _said(examine._clocks(Clocks(a=0.0004, b=-0.0002)))  # pyright: ignore[reportArgumentType]
    assert (level, text) == ("ok", "at most 0.4 ms apart")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk: run as root")
def test_a_full_disk_and_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True, timeout=30)
    try:
        assert Node("a").write_probe(str(small), ".probe-").get("free_bytes", 2**30) <= 2**20
        assert Node("b").visible_probes(str(small), ".probe-") == ["a"]
        Node("a").remove_probe(str(small), ".probe-")
        assert not list(small.iterdir())
        (small / "filler").write_bytes(bytes(2**20))
        problem = Node("a").write_probe(str(small), ".probe-").get("problem")
        assert problem == f"cannot write to {small}: No space left on device"
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=30)
    (tmp_path / "file").write_text("")
    assert Node("a").write_probe(str(tmp_path / "file/runs"), "m").get("problem", "").endswith("Not a directory")


class _Nodes:
    """Two nodes that answer in this process."""

    def ask(self, what: str, *given: Any) -> dict[str, Any]:
        return {address: getattr(Node(address), what)(*given) for address in ("a", "b")}


def test_datasets_are_read_on_every_node() -> None:
    stream = {"name": "d", "dataset": "python:tests.support.datasets:Frames", "per_step": 1, "label_format": "road8"}

    def said(**changes: Any) -> list[tuple[str, str, str]]:
        entry = {key: value for key, value in (stream | changes).items() if key != "per_step"}
        sets = [] if "dataset" in changes or "label_format" in changes else [entry]
        config = plain_config(data={"streams": [stream | changes]}, mdat={"enabled": False}, evaluation={"sets": sets})
        return _said(examine._data(_Nodes(), config))  # pyright: ignore[reportPrivateUsage, reportArgumentType]

    ((level, subject, text),) = said(dataset_arguments={"number": 5})
    assert (level, subject, text) == ("ok", "items", "2 Datasets with 10 samples, the same on every node")
    for changes, says in (
        ({"dataset_arguments": {"number": 5}, "label_format": "binary"}, "item 0: the label holds"),
        ({"dataset": "python:no_such:Data"}, "cannot import 'no_such'"),
        ({"dataset": "python:tests.support.datasets:Drawn", "dataset_arguments": {"number": 5}}, "a second time"),
    ):
        first, second = said(**changes)
        assert first[:2] == second[:2] == ("problem", "items") and first[2].startswith("a: data.streams.0.dataset: ")
        assert says in second[2] and second[2].startswith("b: ")


# In every run of the suite: the doctor of two nodes (cluster/test_two_nodes.py), and each check above.
@pytest.mark.extended
@pytest.mark.cluster
def test_the_command_on_one_machine(tmp_path: Path, tiny_shards: Path) -> None:
    """Without RAY_ADDRESS and without the MLflow server."""
    write_config(tmp_path / "run.yaml", tiny_content(tiny_shards, runs=f"{tmp_path}/runs"))
    words = ("scaling.workers=2", "scaling.cpus_per_worker=0.5", "tracking.mlflow_uri=http://127.0.0.1:9")
    done = mgcda("doctor", "--benchmark", "0.2", tmp_path / "run.yaml", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = {line[9:21].strip(): line for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert lines["ray"].startswith("ok       ray          no RAY_ADDRESS: this machine")
    assert lines["versions"].startswith("ok") and lines["shards"].startswith("ok")
    assert lines["collectives"].startswith("ok       collectives  2 workers on 1 node, gloo over ")
    assert lines["mlflow"].startswith("problem") and "refused" in lines["mlflow"]
    assert done.stdout.endswith("1 problem: the run would fail.\n")
    assert done.stderr == ""


def test_a_missing_configuration_is_one_message(tmp_path: Path) -> None:
    missing = typed("doctor", tmp_path / "none.yaml")
    assert missing.returncode == 2 and "none.yaml" in missing.stderr and "Traceback" not in missing.stderr
