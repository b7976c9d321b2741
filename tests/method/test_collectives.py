"""Collectives without a process group, and objects between processes; tensors between them: tests/multiprocess."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from mgcda_dist.method.collectives import Collectives, CommStats, _Mark
from mgcda_dist.method.reduce import NamedSum
from tests.support.distributed import run_distributed


def test_a_single_process_is_the_identity_and_pays_nothing():
    collectives = Collectives()
    assert (collectives.size, collectives.rank) == (1, 0)
    x = torch.arange(6.0, requires_grad=True)
    assert collectives.start_gather(x, "rows").wait() is x
    total = collectives.start_sum(x, "sum").wait()
    assert torch.equal(total, x.detach()) and not total.requires_grad
    assert not collectives.stats.calls and not collectives.stats.num_bytes


def test_the_sum_does_not_alias_its_argument():
    x = torch.ones(3)
    pending = Collectives().start_sum(x, "sum")
    x.zero_()
    assert pending.wait().tolist() == [1.0, 1.0, 1.0] and pending.wait() is pending.wait()


def test_a_tensor_that_is_given_away_is_not_copied():
    x = torch.arange(3.0)
    assert Collectives().start_sum(x, "sum", owned=True).wait().data_ptr() == x.data_ptr()
    local = torch.ones(2, dtype=torch.float64)
    sums = NamedSum({"alone": local}, Collectives(), "sum")
    local.zero_()
    assert sums.wait()["alone"].tolist() == [1.0, 1.0], "what is given away is never the caller's own"


def test_a_copied_module_talks_over_the_same_group():
    collectives = Collectives()
    assert copy.deepcopy(collectives) is collectives


def test_objects_of_a_single_process_stay_where_they_are():
    collectives, mine = Collectives(), [1]
    assert collectives.gather_objects(mine, "o") == [mine] and collectives.from_first(mine, "o") is mine
    assert collectives.merge_to_first(mine, list.extend, "o") is mine
    assert not collectives.stats.calls


def _objects() -> dict[str, Any]:
    """With a default group that says it is NCCL's: its objects would travel through the memory of every GPU."""
    made: list[str | None] = []
    ask, make = dist.get_backend, dist.new_group
    dist.get_backend = lambda group=None: "nccl" if group is None else ask(group)

    def new_group(*args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        made.append(backend)
        return make(*args, backend=backend, **kwargs)

    used: set[bool] = set()

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, group: Any = None, **kwargs: Any) -> Any:
            used.add(group is not None)
            return original(*args, group=group, **kwargs)

        return call

    for name in ("all_gather_object", "broadcast_object_list", "send", "recv"):
        setattr(dist, name, watched(getattr(dist, name)))
    dist.new_group = new_group
    world, rank = Collectives(), dist.get_rank()
    received = world.merge_to_first([f"{rank}-{i}" for i in range(rank + 1)], list.extend, "merged")
    pad = world.merge_to_first([bytes(100_000)], list.extend, "large")
    return {
        "merged": received,
        "large": None if pad is None else len(pad),
        "first": world.from_first("told" if rank == 0 else None, "told"),
        "all": world.gather_objects(rank, "all"),
        "made": made,
        "used": used,
        "bytes": dict(world.stats.num_bytes),
    }


def test_objects_are_merged_on_rank_0_in_rank_order_and_never_on_gpus():
    found = run_distributed(_objects, 5)
    assert found[0]["merged"] == [f"{rank}-{i}" for rank in range(5) for i in range(rank + 1)]
    assert [each["merged"] for each in found[1:]] == [None] * 4, "a thousand ranks need no thousand copies"
    assert [each["large"] for each in found] == [5, None, None, None, None]
    for each in found:
        assert each["first"] == "told" and each["all"] == [0, 1, 2, 3, 4]
        assert each["made"] == ["gloo"] and each["used"] == {True}
    # Each rank sends once, what it has merged: 1 → 0, 3 → 2 → 0, 4 → 0.
    assert [each["bytes"].get("large", 0) // 100_000 for each in found] == [0, 1, 2, 1, 1]


def test_the_driver_is_asked_with_the_gpu_as_the_threads_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the thread that answers the hang detector, whose own GPU is the first one of the node."""
    current, asked = [0], list[int]()

    @contextmanager
    def own(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    def ask() -> bool:
        asked.append(current[-1])
        return False

    monkeypatch.setattr(torch.cuda, "device", own)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None, query=ask))
    stats, work = CommStats(), cast(dist.Work, SimpleNamespace(wait=lambda: None, is_completed=ask))
    stats.wait(work, "cacl/rows", _Mark(torch.device("cuda", 3)))
    assert (stats.waiting, stats.behind) == ("cacl/rows", 1)
    assert asked == [3, 3, 3]


@pytest.mark.slow
def test_the_threads_of_a_group_end_with_it_and_none_outlives_python(tmp_path: Path):
    program = f"""
import os
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import mgcda_dist.method.collectives

def threads():
    return [open(f"/proc/self/task/{{task}}/comm").read() for task in os.listdir("/proc/self/task")]

def train():
    model = DistributedDataParallel(torch.nn.Linear(3, 3))
    model(torch.ones(2, 3)).sum().backward()
    assert any("gloo" in name for name in threads())
    dist.destroy_process_group()

dist.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=0, world_size=1)
train()
assert not [name for name in threads() if "gloo" in name], threads()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
