"""Batches copied ahead: the same ones in order, on a stream of their own; what a loader raises has its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from mgcda_dist.errors import ShardError
from mgcda_dist.method.batch import Batch
from mgcda_dist.training.ahead import CopiedAhead
from tests.support.pretended import DEVICE, PretendedStream, pretended_device
from tests.support.tiny import tiny_batch

CPU = torch.device("cpu")


def loaded(number: int, taken: list[int], end: Exception | None = None) -> Iterator[Batch]:
    """Some batches; `taken` says which have been asked for."""
    for step in range(number):
        taken.append(step)
        batch = tiny_batch(step)
        told = batch.domain == 2
        yield replace(batch, label=batch.label.to(torch.uint8), unlabelled=told, weak=batch.image[told])
    if end is not None:
        raise end


def is_same(found: Batch, wanted: Batch) -> bool:
    pairs = [(getattr(found, field.name), getattr(wanted, field.name)) for field in fields(Batch)]
    return all(torch.equal(a.cpu(), b) if isinstance(b, Tensor) else a == b for a, b in pairs)


def test_on_processors_nothing_is_taken_ahead():
    taken: list[int] = []
    ahead = CopiedAhead(loaded(2, taken), CPU)
    for step, wanted in enumerate(loaded(2, [])):
        ahead.fetch()
        assert taken == list(range(step))
        assert is_same(next(ahead), wanted)
    with pytest.raises(StopIteration):
        next(ahead)


def test_a_gpu_gets_the_same_batches_and_the_host_does_not_wait():
    taken: list[int] = []
    with pretended_device() as gpu:
        ahead = CopiedAhead(loaded(5, taken), DEVICE)
        for step, wanted in enumerate(loaded(5, [])):
            batch = next(ahead)
            if step == 1:
                ahead.fetch()
                ahead.fetch()
                assert taken == [0, 1, 2, 3], "one batch of two micro-batches ahead"
            assert not gpu.waits and batch.image.device == DEVICE
            assert is_same(batch, wanted)
            gpu.waits.clear()
        with pytest.raises(StopIteration):
            next(ahead)


@pytest.mark.parametrize("end", [None, ShardError("a", "b", "c"), RuntimeError("Caught")])
def test_what_a_loader_raises_comes_in_the_place_of_its_batch(end: Exception | None):
    with pretended_device():
        ahead = CopiedAhead(loaded(2, [], end), DEVICE)
        assert next(ahead).step == 0
        ahead.fetch()
        ahead.fetch()
        assert next(ahead).step == 1, "the step before it is trained"
        with pytest.raises(StopIteration if end is None else type(end)):
            next(ahead)


def test_the_streams_are_told_in_order():
    told: list[str] = []

    class Told(PretendedStream):
        def wait_stream(self, other: PretendedStream) -> None:
            told.append(f"wait for {other.handed_over > 0}")
            super().wait_stream(other)

    def recorded(batch: Batch, stream: PretendedStream) -> None:
        told.append(f"kept for the {'present' if stream is gpu.stream else 'other'} stream")

    def copied(batch: Batch, device: torch.device) -> Batch:
        told.append(f"copy on the {'present' if gpu.stream is main else 'other'} stream")
        return moved(batch, device)

    moved = Batch.to
    with (
        pretended_device() as gpu,
        patch.object(Batch, "record_stream", recorded),
        patch.object(Batch, "to", copied),
    ):
        main = gpu.stream = Told()
        ahead = CopiedAhead(loaded(2, []), DEVICE)
        ahead.fetch()
        next(ahead)
    assert told == ["copy on the other stream", "wait for True", "kept for the present stream"]


@pytest.mark.parametrize(
    ("without", "says"),
    [((PretendedStream, "wait_stream"), "before it is there"), ((Batch, "record_stream"), "another use by then")],
)
def test_the_pretended_device_finds_what_is_forgotten(without: tuple[type, str], says: str):
    forgotten: Callable[..., None] = lambda *_: None  # noqa: E731
    with pretended_device(), patch.object(*without, forgotten):
        ahead = CopiedAhead(loaded(2, []), DEVICE)
        ahead.fetch()
        batch = next(ahead)
        with pytest.raises(RuntimeError, match=says):
            batch.image.sum()
