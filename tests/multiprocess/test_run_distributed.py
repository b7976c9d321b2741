"""The helper itself: failures by rank, nothing left running."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest
import torch.distributed as dist

from tests.support.distributed import DistributedError, run_distributed


def fail_on_rank_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("the reason")
    dist.barrier()


def die() -> None:
    os._exit(3)


@pytest.mark.slow
def test_an_exception_is_reported_with_its_rank_and_frees_the_others():
    started = time.monotonic()
    with pytest.raises(DistributedError, match="the reason") as caught:
        run_distributed(fail_on_rank_one, 2)
    assert "ValueError" in caught.value.failures[1]
    assert time.monotonic() - started < 60
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_reported():
    with pytest.raises(DistributedError, match="exit code 3"):
        run_distributed(die, 1)
    assert not multiprocessing.active_children()
