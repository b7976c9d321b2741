"""A cluster of two nodes, each in its own network, behind a token: `ray job submit` as the README says."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request

import psutil
import pytest

from tests.cluster.conftest import SECRETS, Place
from tests.cluster.test_spread import write_source
from tests.data.shards.test_write import content
from tests.support.commands import mgcda
from tests.support.watched import groups

pytestmark = [pytest.mark.extended, pytest.mark.cluster]

STEPS = 30


@pytest.fixture(scope="module")
def trained(place: Place) -> subprocess.CompletedProcess[str]:
    """A run submitted as the README says, one worker a node."""
    return place.submit(
        "two-1", "mgcda", "train", "configs/two.yaml", "scaling.workers=2", "scaling.placement=STRICT_SPREAD",
        "engine.zero_stage=2", f"optim.steps={STEPS}", f"tracking.mlflow_uri={place.mlflow}",
    )  # fmt: skip


def test_a_submitted_job_trains_over_two_nodes(place: Place, trained: subprocess.CompletedProcess[str]) -> None:
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "2 workers on 2 nodes" in trained.stdout or not place.nodes.isolated
    assert f"step {STEPS}/{STEPS}" in trained.stdout, "the log streams to the client"
    run = place.folder / "runs/two"
    workers = groups(run)[0]
    assert [worker["node"] for worker in workers] == [0, 1]
    assert [worker["threads"] for worker in workers] == [1, 1]
    # Without namespaces Ray takes 127.0.0.1 for the machine's own address, and 127.0.0.2 for what it is.
    interfaces = {worker["interface"] for worker in workers}
    assert interfaces == {"eth0"} if place.nodes.isolated else "lo" in interfaces
    results = json.loads((run / "results.json").read_text())
    assert results["sets"]["unseen"]["frames"] == 2


def test_the_server_has_the_run_and_both_nodes(place: Place, trained: subprocess.CompletedProcess[str]) -> None:
    run_id = (place.folder / "runs/two/mlflow_run_id").read_text().strip()
    with urllib.request.urlopen(f"{place.mlflow}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=20) as answer:
        run = json.load(answer)["run"]
    assert run["info"]["status"] == "FINISHED"
    metrics = {metric["key"] for metric in run["data"]["metrics"]}
    assert {"loss/total", "eval/unseen/ap"} <= metrics
    nodes = {name.split("/")[1] for name in metrics if name.startswith("system/")}
    assert nodes == ({"mgcda-node0", "mgcda-node1"} if place.nodes.isolated else {os.uname().nodename})
    assert list((place.folder / "store").rglob("report.html")), "artifacts went through the server"


def test_only_code_and_configurations_travel(place: Place, trained: subprocess.CompletedProcess[str]) -> None:
    (package,) = (place.folder / "ray").glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    travelled = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    assert {"mgcda_dist/method/mgcda.py", "configs/two.yaml", "constraints.txt"} <= travelled
    assert not {path for path in travelled if path.startswith((".venv", ".git/", "shards", "runs", "tests", ".env"))}
    assert sum((package / path).stat().st_size for path in travelled) < 3_000_000


def test_no_secret_is_written_down(place: Place, trained: subprocess.CompletedProcess[str]) -> None:
    """In the run's folder, MLflow's database and files, the job's log and Ray's own logs."""
    planted = {name: value.encode() for name, value in SECRETS.items() if value != "somebody"}
    planted["the token"] = place.nodes.token.encode()
    shown = (trained.stdout + trained.stderr).encode()
    assert not [name for name, secret in planted.items() if secret in shown]
    searched = 0
    for path in place.folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and not path.is_relative_to(place.checkout):
            content = path.read_bytes()
            searched += 1
            for name, secret in planted.items():
                assert secret not in content, f"{name} stands in {path}"
    assert searched > 50


def test_the_doctor_names_the_node_that_differs(place: Place, trained: subprocess.CompletedProcess[str]) -> None:
    """Node 1 has another timm, lacks one folder of shards, and does not share the folder of runs."""
    if not place.nodes.isolated:
        pytest.skip("a node with folders of its own needs namespaces: run as root")
    private = place.folder / "private"
    done = place.submit(
        "doctor-1", "mgcda", "doctor", "--benchmark", "1", "configs/two.yaml", "scaling.workers=2",
        "scaling.placement=STRICT_SPREAD", f"data.streams.1.shards={private}/render_b/train", f"runs={private}/runs",
        f"tracking.mlflow_uri={place.mlflow}",
    )  # fmt: skip
    head, second = place.nodes.addresses
    said = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "note ", "problem "))]
    found = {tuple(line.split(maxsplit=2)[:2]): line.split(maxsplit=2)[2] for line in said}
    assert done.returncode != 0 and "4 problems: the run would fail" in done.stdout, done.stdout + done.stderr
    assert found["problem", "versions"].startswith(f"{second} (mgcda-node1): timm 0.9.0 (on {head} (mgcda-node0): 1.")
    missing = f"{second}: data.streams.1.shards: there is no {private}/render_b/train/manifest.json"
    assert found["problem", "shards"] == missing
    for one, other in ((head, second), (second, head)):
        assert f"{one} does not see the files that {other} wrote to {private}/runs" in done.stdout
    assert found["ok", "mlflow"] == f"{place.mlflow} answers every node"
    assert found["ok", "collectives"].startswith("2 workers on 2 nodes, gloo over eth0, 1 thread each")
    assert found["ok", "ray"].startswith("2 nodes") and found["ok", "clocks"] and found["ok", "memory"]
    assert not list((private / "runs").glob(".mgcda-doctor*")), "it leaves no mark"


@pytest.mark.timeout(900)
def test_shards_are_written_by_both_nodes_with_the_bytes_of_one_process(place: Place) -> None:
    """Killed once on the way, and gone on with; the folder is that of a write on one machine."""
    source = write_source(place.folder / "raw", 40)
    words = ("--label-format", "road8", "--samples-per-shard", "2")
    alone = mgcda("shards", "write", "plain", source, place.folder / "alone", *words)
    assert alone.returncode == 0, alone.stderr
    folder = place.folder / "spread"
    command = ("mgcda", "shards", "write", "plain", str(source), str(folder), *words, "--workers", "ray")
    first = place.nodes.start(place.submission("--submission-id", "write-1", command=command), cwd=place.checkout)
    journal, deadline = folder / ".writing.jsonl", time.monotonic() + 240
    while not journal.is_file() or journal.read_text().count("\n") < 4:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    for process in psutil.process_iter(["cmdline"]):
        words_of_it = " ".join(process.info["cmdline"] or [])
        if str(folder) in words_of_it and "ray job submit" not in words_of_it and "bin/ray" not in words_of_it:
            process.kill()
    assert first.wait(timeout=120) != 0
    finished = journal.read_text().count("\n") - 1
    assert 3 <= finished < 20 and not (folder / "manifest.json").exists(), "it was stopped on the way"
    again = place.submit("write-2", *command)
    assert again.returncode == 0, again.stdout + again.stderr
    said = (again.stdout + again.stderr).partition("shards by node: ")[2].splitlines()[0]
    assert {word.split()[0] for word in said.split(", ")} == set(place.nodes.addresses), said
    assert content(folder) == content(place.folder / "alone")


def test_a_wrong_token_is_called_that(place: Place) -> None:
    env = place.nodes.environment(RAY_ADDRESS=place.nodes.address, RAY_AUTH_TOKEN="0" * 64)
    done = place.nodes.run(["mgcda", "doctor"], env=env)
    assert done.returncode == 1
    assert f"problem  ray          {place.nodes.address} refuses the token" in done.stdout
