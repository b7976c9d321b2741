"""Workers meet in a process group: on one machine in a file, on several over TCP; the limit is that of the run."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mgcda_dist.cluster.process_group import ProcessGroup


class _Workers:
    """A worker group of Ray Train with two workers, each a process."""

    def __init__(self) -> None:
        fresh = multiprocessing.get_context("spawn")
        self._processes = [ProcessPoolExecutor(1, fresh) for _ in range(2)]

    def execute(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        answers = [pool.submit(_as_worker, rank, function, arguments) for rank, pool in enumerate(self._processes)]
        return [answer.result(60) for answer in answers]

    def execute_single(self, rank: int, function: Callable[..., Any]) -> Any:
        return self._processes[rank].submit(function).result(60)

    def end(self) -> None:
        for pool in self._processes:
            pool.shutdown()


def _as_worker(rank: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    import ray.train

    numbers = {"world_rank": rank, "world_size": 2, "local_rank": rank, "local_world_size": 2, "node_rank": 0}
    context = SimpleNamespace(**{f"get_{name}": lambda value=value: value for name, value in numbers.items()})
    ray.train.get_context = lambda: context
    return function(*arguments)


def _found() -> tuple[int, int, timedelta, str | None, str]:
    group: Any = dist.group.WORLD
    limit = group._get_backend(torch.device("cpu")).options._timeout
    return dist.get_rank(), dist.get_world_size(), limit, os.environ.get("MASTER_ADDR"), os.environ["LOCAL_RANK"]


@pytest.fixture
def workers() -> Iterator[_Workers]:
    found = _Workers()
    yield found
    found.end()


@pytest.mark.parametrize("on_one_machine", [True, False])
def test_workers_meet(on_one_machine: bool, workers: _Workers, tmp_path: Path) -> None:
    group = ProcessGroup("gloo", "lo", tmp_path if on_one_machine else None, 7)
    meeting: Any = group.backend_cls()
    meeting.on_start(workers, group)
    found = workers.execute(_found)
    assert [each[:3] for each in found] == [(rank, 2, timedelta(seconds=7)) for rank in range(2)]
    assert [each[4] for each in found] == ["0", "1"]
    assert all((address is None) == on_one_machine for *_, address, _ in found), "nobody listens on one machine"
    assert bool([*tmp_path.iterdir()]) == on_one_machine
