"""The examples run as they say, and plain DDP on two ranks trains as one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str) -> list[dict[str, float]]:
    """The terms an example prints, step by step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = []
    for number, line in enumerate(done.stdout.splitlines()):
        first, *terms = line.split()
        assert int(first) == number
        steps.append({name: float(value) for name, value in (term.split("=") for term in terms)})
    return steps


@pytest.mark.slow
def test_plain_ddp_on_two_ranks_trains_as_a_single_process():
    alone = run("-W", "error", "examples/single_process.py")
    assert len(alone) == 20
    assert alone[-1]["loss/seg"] < 0.9 * alone[0]["loss/seg"]
    assert alone[-1]["loss/mdat"] != alone[0]["loss/mdat"] and alone[-1]["cacl/anchors"] > 0

    both = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "examples/plain_ddp.py")
    assert len(both) == 20
    for step, (one, two) in enumerate(zip(alone, both, strict=True)):
        # Float32 with AdamW: rounding grows with the steps; four decimals are printed.
        assert two == pytest.approx(one, rel=1e-4 if step < 5 else 5e-3, abs=2e-4)


def test_plain_ddp_stays_short():
    lines = (ROOT / "examples" / "plain_ddp.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
