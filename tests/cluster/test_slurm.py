"""The batch script of cluster/slurm on two nodes, with stand-ins for Slurm's commands and Ray's real symmetric-run.

The stand-in of `srun` runs a command on both nodes, each with its own network and processes: `ray stop`, with which
symmetric-run ends, would otherwise stop every Ray of the machine.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgcda_dist.tracking.jsonl import read_history
from tests.cluster.nodes import Nodes, short_folder
from tests.conftest import REPOSITORY
from tests.support.configs import tiny_content, write_config
from tests.support.watched import wait_for_lines

pytestmark = [
    pytest.mark.extended,
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes with processes of their own need namespaces: run as root"),
]

STEPS = 200
# Options of srun end where the command begins; like srun's own, the exit code is the largest.
SRUN = """\
#!{python}
import subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
started = [subprocess.Popen(prefix[:-1] + [prefix[-1].replace("COMMAND", __import__("shlex").join(inside))])
           for prefix in {prefixes}]
sys.exit(max(abs(process.wait()) for process in started))
"""
SCONTROL = """\
#!/bin/sh
case "$1" in
    show) printf '%s\\n' {addresses} ;;
    requeue) echo "$2" >> {folder}/requeued ;;
esac
"""


class Slurm:
    """Two nodes, and what a job on them sees."""

    def __init__(self, nodes: Nodes, folder: Path) -> None:
        self.nodes, self.folder = nodes, folder
        self.requeued = folder / "requeued"
        programs = folder / "bin"
        programs.mkdir()
        prefixes = [nodes.on(node, ["COMMAND"]) for node in range(2)]
        self._write(programs / "srun", SRUN.format(python=sys.executable, prefixes=prefixes))
        self._write(programs / "scontrol", SCONTROL.format(addresses=" ".join(nodes.addresses), folder=folder))
        (folder / ".venv").mkdir()
        (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
        self._environment = nodes.environment(
            HOME=str(folder), RAY_TMPDIR=str(folder / "ray"), SLURM_SUBMIT_DIR=str(folder), SLURM_JOB_ID="7",
            SLURM_JOB_NODELIST="mgcda-node[0-1]", SLURM_JOB_NUM_NODES="2", SLURM_CPUS_PER_TASK="1",
            RAY_memory_monitor_refresh_ms="0",
        )  # fmt: skip
        # As on a real cluster, the token comes from the user's file, which the script makes.
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            del self._environment[name]
        self._environment["PATH"] = f"{programs}:{self._environment['PATH']}"

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def batch(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The job's first process, on the first node."""
        script = str(REPOSITORY / "cluster/slurm/train.sbatch")
        return self.nodes.start(
            ["bash", script, *arguments],
            cwd=self.folder,
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module")
def slurm(tiny_shards: Path) -> Iterator[Slurm]:
    with short_folder() as folder:
        write_config(folder / "two.yaml", tiny_content(tiny_shards, name="other"))
        with Nodes(folder, ray=False) as nodes:
            yield Slurm(nodes, folder)


def test_the_notice_leaves_a_checkpoint_and_the_job_that_comes_back_finishes(slurm: Slurm) -> None:
    arguments = ("two.yaml", "scaling.workers=2", "scaling.placement=STRICT_SPREAD", f"optim.steps={STEPS}",
                 "checkpoint.every_steps=100000")  # fmt: skip
    run = slurm.folder / "runs/two"
    job = slurm.batch(*arguments)
    wait_for_lines(run / "metrics.jsonl", 5, job)
    job.send_signal(signal.SIGTERM)  # --signal=B: to the batch shell alone
    said, _ = job.communicate(timeout=240)  # the second node notices after a minute that the head has gone
    assert job.returncode != 0 and "stopped, with a checkpoint" in said, said
    assert "On head node. Starting Ray cluster head..." in said and "On worker node." in said
    assert slurm.requeued.read_text() == "7\n"
    token = slurm.folder / ".ray/auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and token.read_text().strip() not in said

    again = slurm.batch(*arguments)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "2 workers on 2 nodes" in said and "resuming at step" in said
    assert read_history(run / "metrics.jsonl")["loss/total"][0] == list(range(STEPS))
    assert slurm.requeued.read_text() == "7\n", "a finished job does not come back"


def test_the_exit_code_tells_of_a_mistake_and_of_nodes_where_ray_does_not_start(slurm: Slurm) -> None:
    before = slurm.requeued.read_text() if slurm.requeued.exists() else ""
    mistake = slurm.batch("two.yaml", "optim.stepz=3")
    said, _ = mistake.communicate(timeout=200)
    assert mistake.returncode == 2 and "did you mean 'optim.steps'" in said, said
    assert "Ray" not in said, "told before Ray starts"
    without = slurm.batch("two.yaml", SLURM_CPUS_PER_TASK="many", RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="5")
    said, _ = without.communicate(timeout=200)
    assert without.returncode != 0 and "Ray did not start on the nodes" in said, said
    after = slurm.requeued.read_text() if slurm.requeued.exists() else ""
    assert after == before, "neither comes back"
