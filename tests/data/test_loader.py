"""Loader processes: batches in order, their errors, and those that die or are stuck by name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import dataloader

import mgcda_dist.data.loader as loader_module
from mgcda_dist.data.augment import Image, Label
from mgcda_dist.data.loader import make_loader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import MgcdaError, ShardError, TransientError
from mgcda_dist.method.batch import Batch
from tests.support.streams import World, hurt, same, stream_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("loader"))


def test_loading_leaves_the_global_generator_alone(world: World):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(make_loader(world.stream(num_steps=2), workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_can_be_iterated_again_and_left_early(world: World):
    loader = make_loader(world.stream(num_steps=4), workers=1, prefetch_steps=2)
    assert len(loader) == 4
    first = next(iter(loader))
    children = _children()
    assert same(first, next(iter(loader)))
    assert len(list(loader)) == 4
    deadline = time.monotonic() + 10
    while _children() - children and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _children() - children


@pytest.mark.slow
def test_spawned_processes_deliver_the_same(world: World):
    expected = list(make_loader(world.stream(num_steps=2)))
    spawned = list(make_loader(world.stream(num_steps=2), workers=1, start_method="spawn"))
    assert all(same(*pair) for pair in zip(spawned, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_loader_processes_reach_the_trainer(world: World, tmp_path: Path, workers: int):
    loader = make_loader(stream_of(hurt(tmp_path / "hurt", [5]), num_steps=10), workers)
    with pytest.raises(ShardError) as caught:
        list(loader)
    assert caught.value.where.endswith("shard-000000.tar: hurt-00005")
    assert "the image is not a picture" in caught.value.problem
    assert "mgcda shards verify" in caught.value.remedy


def test_a_dead_process_is_named(world: World):
    loader = make_loader(stream_of(world.plain, _Trap(_die), num_steps=40), workers=2)
    with pytest.raises(
        MgcdaError, match=r"loader process [01] of 2 \(pid .*\): died while step \d+, micro-batch 0, was due"
    ):
        list(loader)


def test_a_process_that_dies_between_two_batches_is_named(world: World, monkeypatch: pytest.MonkeyPatch):
    """In a main thread PyTorch says so from a signal handler, whatever we are doing then."""
    delivery = loader_module._Delivery  # pyright: ignore[reportPrivateUsage]
    unpacked = delivery.unpacked

    def slow(self: Any) -> Batch:
        for process in multiprocessing.active_children():
            process.kill()
        time.sleep(10)  # the signal ends it
        return unpacked(self)

    loader = make_loader(stream_of(world.plain, num_steps=40), workers=1)
    monkeypatch.setattr(delivery, "unpacked", slow)
    with pytest.raises(TransientError, match=r"loader process 0 of 1 \(pid \d+\): died while step 0, micro-batch 0"):
        list(loader)


def test_the_signal_of_a_dead_process_does_not_hide_its_name(world: World, monkeypatch: pytest.MonkeyPatch):
    """It may come while the other processes are shut down, after the error was raised."""
    iterator = dataloader._MultiProcessingDataLoaderIter  # pyright: ignore[reportPrivateUsage]
    shut_down = iterator._shutdown_workers  # pyright: ignore[reportPrivateUsage]

    def interrupted(self: Any) -> None:
        running = not self._shutdown
        shut_down(self)
        if running:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    monkeypatch.setattr(iterator, "_shutdown_workers", interrupted)
    loader = make_loader(stream_of(world.plain, _Trap(_die), num_steps=40), workers=2)
    with pytest.raises(TransientError, match=r"loader process [01] of 2 \(pid .*\): died while step"):
        list(loader)


def test_a_stuck_process_is_named(world: World):
    loader = make_loader(stream_of(world.plain, _Trap(_hang), num_steps=40), workers=1, timeout_s=2)
    start = time.monotonic()
    with pytest.raises(MgcdaError, match=r"process 0 of 1 \(pid \d+\): delivered nothing for 2 s while step \d+"):
        list(loader)
    assert time.monotonic() - start < 30


def test_a_killed_trainer_takes_its_loader_processes_with_it(world: World):
    """As long as one of them lives, the sockets that it has inherited keep other ranks waiting."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    trainer = context.Process(target=_train_for_ever, args=(world.plain, writer))
    trainer.start()
    (loader,) = reader.recv()
    assert trainer.pid is not None
    os.kill(trainer.pid, signal.SIGKILL)
    killed = time.monotonic()
    trainer.join()
    while psutil.pid_exists(loader) and psutil.Process(loader).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - killed < 4, "PyTorch itself looks every five seconds"
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [0, 1])
def test_unexpected_exceptions_keep_their_type(world: World, workers: int):
    with pytest.raises(ZeroDivisionError):
        list(make_loader(stream_of(world.plain, _Trap(_fail), num_steps=40), workers))


def test_a_finished_run_has_an_empty_stream(world: World):
    assert list(make_loader(world.stream(start_step=9, num_steps=0), workers=1)) == []


class _Trap:
    """A paste that does something unheard of at the 6th crop of its process."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act, self.crops = act, 0

    def __call__(self, image: Image, label: Label, generator: np.random.Generator) -> tuple[Image, Label]:
        self.crops += 1
        if self.crops == 6:
            self.act()
        return image, label


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(600)


def _train_for_ever(manifest: Manifest, writer: Connection) -> None:
    batches = iter(make_loader(stream_of(manifest, num_steps=40), workers=1))
    next(batches)
    writer.send(_children())
    time.sleep(600)


def _fail() -> None:
    raise ZeroDivisionError("a bug")


def _children() -> set[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return {int(pid) for pid in listed}
