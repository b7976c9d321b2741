"""The doctor on one machine: a real Ray of its own, real shards, a full disk, little shared memory."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.doctor import examine, node, node_checks
from mgcda_dist.doctor.benchmark import transports_in
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


def test_infiniband_that_nccl_cannot_use_is_a_problem(
    report: NodeReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go over TCP without a word: the driver is there, and the library or the devices are not."""
    assert not [*node_checks.fabric([_with(report, infiniband=[], missing_verbs="")])]
    (tmp_path / "sys/mlx5_0").mkdir(parents=True)
    monkeypatch.setattr(node, "_RDMA", tmp_path / "sys")
    monkeypatch.setattr(node, "_CHARACTER_DEVICES", tmp_path / "dev")
    monkeypatch.setattr(node, "_VERBS", "libibverbs-not-there.so.1")
    seen = Node("10.0.0.1").report([])
    ((level, subject, text),) = _said(node_checks.fabric([_with(seen, gpus=["NVIDIA H100"])]))
    assert (level, subject) == ("problem", "network")
    assert "has mlx5_0, but libibverbs-not-there.so.1 cannot be loaded; NCCL would use TCP" in text
    assert _said(node_checks.fabric([_with(seen, gpus=[])]))[0][0] == "note"
    monkeypatch.setattr(node, "_VERBS", "libc.so.6")
    assert "the container was not given the devices" in Node("10.0.0.1").report([])["missing_verbs"]
    ((level, _, text),) = _said(node_checks.fabric([_with(seen, missing_verbs="")]))
    assert level == "ok" and text.endswith("mlx5_0, usable by NCCL")


@pytest.mark.parametrize("library", ["no device", "two devices"])
def test_a_library_without_its_providers_finds_no_device(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a library in its place, which gives a list and its length."""
    number = 0 if library == "no device" else 2
    source = tmp_path / "verbs.c"
    source.write_text(
        f"static void *devices[3]; void **ibv_get_device_list(int *n) {{ *n = {number}; return devices; }}\n"
        "void ibv_free_device_list(void **given) { if (given != devices) __builtin_trap(); }\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "verbs.so", source], check=True, timeout=60)
    monkeypatch.setattr(node, "_VERBS", str(tmp_path / "verbs.so"))
    monkeypatch.setattr(node, "_CHARACTER_DEVICES", tmp_path)
    found = node._missing_verbs()  # pyright: ignore[reportPrivateUsage]
    assert ("its providers, such as libmlx5, are missing" in found) == (number == 0) and (found == "") == (number == 2)


def test_too_few_open_files_for_the_workers_are_a_problem(report: NodeReport) -> None:
    few = _with(report, open_files=1024)
    ((level, _, text),) = _said(node_checks.open_files([few, report], 16))
    assert level == "ok" and text.startswith("1024 or more")
    ((level, subject, text),) = _said(node_checks.open_files([few, _with(report, open_files=2**20)], 64))
    assert (level, subject) == ("problem", "open files")
    assert "a process may open 1024, and one of 64 workers needs about 1792" in text
    assert report["open_files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


NCCL_LOG = """
host-1:701:713 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.0.0.1<0>
host-1:701:713 [0] NCCL INFO Using network IB
host-1:701:740 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM
host-1:701:740 [0] NCCL INFO Channel 01/0 : 7[7] -> 8[0] [send] via NET/IB/0/GDRDMA
host-1:701:740 [0] NCCL INFO Channel 02/0 : 7[7] -> 8[0] [send] via NET/IB/3(7)/GDRDMA
"""


def test_the_transport_that_nccl_took_is_named(report: NodeReport) -> None:
    """Its log is the only place that says it."""
    assert transports_in(NCCL_LOG) == ["NET/IB/GDRDMA", "P2P/CUMEM"]
    assert transports_in(NCCL_LOG.replace("NET/IB/0/GDRDMA", "NET/Socket/1").replace("NET/IB/3(7)/GDRDMA", "SHM")) == [
        "NET/Socket",
        "P2P/CUMEM",
        "SHM",
    ]
    assert transports_in("gloo says nothing") == []
    has = _with(report, infiniband=["mlx5_0"])
    ((level, subject, text),) = _said(node_checks.transports(["NET/Socket", "SHM"], [has]))
    assert (level, subject, text) == (
        "note",
        "collectives",
        "NCCL took NET/Socket and SHM although there is InfiniBand",
    )
    assert not [*node_checks.transports(["NET/Socket"], [report])]
    assert not [*node_checks.transports(["NET/IB/GDRDMA"], [has])]


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
