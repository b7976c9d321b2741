"""The schedule of faults is a function of the seed, and what is injected hits only what it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mgcda_dist.chaos.inject import inject, loader_processes
from mgcda_dist.chaos.schedule import KINDS, PlannedFault, schedule
from mgcda_dist.errors import ConfigError


def test_equal_seeds_give_equal_faults_in_the_order_of_their_steps() -> None:
    plan = schedule(3, 12, 60, 2)
    assert plan == schedule(3, 12, 60, 2) != schedule(4, 12, 60, 2)
    assert [fault.at_step for fault in plan] == sorted(fault.at_step for fault in plan)
    assert plan[0].at_step >= 6 and plan[-1].at_step < 60 - 7
    assert all(0 <= fault.delay_s <= 0.3 and fault.rank in (0, 1) for fault in plan)


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_comes_before_one_comes_again(seed: int) -> None:
    counts = Counter(fault.kind for fault in schedule(seed, 12, 100, 2))
    assert counts.keys() == KINDS.keys() and max(counts.values()) == 2


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ConfigError, match="no fault is called 'flood'"):
        schedule(0, 3, 60, 2, ("flood",))
    with pytest.raises(ConfigError, match="20 steps are few for 12 faults"):
        schedule(0, 12, 20, 2)


def test_faults_hit_the_process_or_the_file_they_name(tmp_path: Path) -> None:
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


def test_loader_processes_are_told_from_other_children() -> None:
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
