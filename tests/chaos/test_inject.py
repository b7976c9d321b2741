"""Injected faults hit their target only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from mgcda_dist.chaos.inject import inject, loader_processes
from mgcda_dist.chaos.schedule import PlannedFault


def test_faults_hit_their_process_or_file(tmp_path: Path) -> None:
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True) for _ in range(3)]
    driver, *workers = sleepers
    pids = [worker.pid for worker in workers]
    checkpoint = tmp_path / "step-00000005"
    checkpoint.mkdir()
    (checkpoint / "checkpoint.json").write_text("{}")
    (checkpoint / "weights").write_bytes(bytes(1000))
    try:
        cut = inject(PlannedFault("truncate-checkpoint", 1, 0.0, 1), driver, pids, tmp_path)
        assert workers[1].wait(10) == -signal.SIGKILL and workers[0].poll() is None
        assert "step-00000005/weights cut to half; SIGKILL to rank 1" in cut
        assert (checkpoint / "weights").stat().st_size == 500
        assert inject(PlannedFault("kill-worker", 1, 0.0, 1), driver, pids, tmp_path) == "", "it is dead already"
        assert inject(PlannedFault("kill-driver", 1, 0.0, 0), driver, pids, tmp_path)
        assert driver.wait(10) == -signal.SIGKILL
        inject(PlannedFault("delete-checkpoint", 1, 0.0, 0), driver, pids, tmp_path)
        assert not checkpoint.exists() and workers[0].wait(10) == -signal.SIGKILL
        assert inject(PlannedFault("kill-loader", 1, 0.0, 0), driver, pids, tmp_path) == ""
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def test_loader_processes_are_distinguished_from_other_children() -> None:
    program = (
        "import os, subprocess, sys, time\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pid = os.fork()\n"
        "if pid == 0: time.sleep(60)\n"
        "print(pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert parent.stdout is not None
        forked = int(parent.stdout.readline())
        assert loader_processes(parent.pid) == [forked]
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()
