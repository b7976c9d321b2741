"""Collectives of fixed shape: asynchronous sums, gathers, and a gather that gradients cross; identity without a group.

Laws 1 and 3 of the distributed form. Every rank makes every call at every step with the same shape; a rank that
lacks rows sends zeros under a mask. `CommStats` counts calls and payload bytes per label.
"""

from __future__ import annotations

import importlib
import pickle
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Collectives", "CommStats", "PendingGather", "PendingSum", "to_device", "to_host"]

# The functions of this module take as default the group that is there when it is imported, and hold it until the
# process ends. Imported by DDP or torch.compile after the group was made, it would keep gloo's threads alive past
# `destroy_process_group`; one that has a tensor to give back when Python ends aborts the process ("terminate called
# without an active exception"). So it is imported here, before there is a group.
if dist.is_available():
    importlib.import_module("torch.distributed.nn.functional")


Mergeable = TypeVar("Mergeable")


class _Mark:
    """A place in the work that a GPU was given; any thread may ask about it.

    The driver is asked with that GPU as the thread's own: else it would open a context on the first one, of half a GiB,
    for every rank of the node.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._event = device, torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(device))

    @classmethod
    def of(cls, tensor: Tensor) -> _Mark | None:
        """The place behind what computes `tensor`; None: the host does the work itself."""
        return cls(tensor.device) if tensor.is_cuda else None

    def is_reached(self) -> bool:
        """Tell whether the GPU has come to it."""
        return self.ask(self._event.query)

    def ask(self, question: Callable[[], bool]) -> bool:
        """The answer to a question about work of the GPU."""
        with torch.cuda.device(self._device):
            return question()


class _Open(NamedTuple):
    """A collective that the host has gone past, and perhaps the device has not."""

    label: str
    work: dist.Work
    mark: _Mark

    def is_done(self) -> bool:
        return self.mark.ask(self.work.is_completed)


@dataclass
class CommStats:
    """Statistics of one rank: calls and payload bytes of collectives per label, and the collective it waits in.

    gloo's `wait` holds the host until a collective is done. NCCL's holds the stream: the host goes on, and stands still
    where it next reads a value, which can be phases later. So collectives that are waited for and not done stay known.

    Attributes:
        calls, num_bytes: per label.
        waits: how often this rank has waited for the others.
    """

    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    num_bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    waits: int = 0
    _host_waits_in: str = ""
    _open: deque[_Open] = field(default_factory=deque[_Open])

    def add(self, label: str, tensor: Tensor) -> None:
        """Count one collective with `tensor` as this rank's payload."""
        self.calls[label] += 1
        self.num_bytes[label] += tensor.numel() * tensor.element_size()

    @contextmanager
    def waits_in(self, label: str) -> Generator[None]:
        """Record that this rank waits for the others, and in which collective."""
        self.waits += 1
        self._host_waits_in = label
        try:
            yield
        finally:
            self._host_waits_in = ""

    def wait(self, work: dist.Work, label: str, mark: _Mark | None) -> None:
        """Wait for a collective on the host, or on the device's stream where its backend does that.

        Args:
            mark: before the collective, in the work of this rank's device; None: it is done on the host.
        """
        with self.waits_in(label):
            work.wait()
        while self._open and self._open[0].is_done():
            self._open.popleft()
        if mark is not None:
            self._open.append(_Open(label, work, mark))

    @property
    def waiting(self) -> str:
        """Label of the collective that is waited for at this moment; empty: none. For any thread."""
        return self._host_waits_in or next((each.label for each in self._still_open()), "")

    @property
    def behind(self) -> int:
        """Number of collectives that the host has gone past and the device has not come to. For any thread."""
        return sum(not each.mark.is_reached() for each in self._still_open())

    def _still_open(self) -> list[_Open]:
        # Only the training thread takes entries away.
        return [each for each in tuple(self._open) if not each.is_done()]


@dataclass
class PendingSum:
    """A sum over ranks that is under way; `wait` returns it."""

    _value: Tensor
    _work: dist.Work | None
    _stats: CommStats = field(default_factory=CommStats)
    _label: str = ""
    _mark: _Mark | None = None

    def wait(self) -> Tensor:
        """The sum over ranks, for operations on its device; with gloo it has arrived."""
        if self._work is not None:
            self._stats.wait(self._work, self._label, self._mark)
            self._work = None
        return self._value


@dataclass
class PendingGather:
    """A gather that is under way; `wait` returns the rows of all ranks."""

    rows: Tensor
    work: dist.Work | None = None
    gradient: Tensor | None = None
    collectives: Collectives | None = None
    label: str = ""
    mark: _Mark | None = None
    num_rounded: int = 0
    dtype: torch.dtype = torch.float32

    def wait(self) -> Tensor:
        """The rows of all ranks in rank order; call it once."""
        return self.rows if self.collectives is None else _WaitGather.apply(self.rows, self)


class Collectives:
    """The collectives the method uses, over one process group.

    Args:
        group: process group; None is the default group, or a single process when none is initialised.
        timeout: of groups of the same ranks that are made beside it; None: torch's.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, timeout: timedelta | None = None) -> None:
        self.group, self.timeout = group, timeout
        self.stats = CommStats()
        self._of_objects: dist.ProcessGroup | None = None

    @property
    def size(self) -> int:
        """Number of ranks W."""
        return dist.get_world_size(self.group) if dist.is_initialized() else 1

    @property
    def rank(self) -> int:
        """This rank, 0 … W-1."""
        return dist.get_rank(self.group) if dist.is_initialized() else 0

    def start_sum(self, value: Tensor, label: str, *, owned: bool = False) -> PendingSum:
        """Start the sum of `value` over ranks (no gradient); work done before `wait` overlaps with it.

        Args:
            value: any shape; the same on every rank.
            label: of the collective.
            owned: the caller gives `value` away, which the sum overwrites; otherwise it is copied.
        """
        total = value.detach() if owned else value.detach().clone()
        if self.size == 1:
            return PendingSum(total, None, self.stats, label)
        self.stats.add(label, total)
        mark = _Mark.of(total)
        work = dist.all_reduce(total, group=self.group, async_op=True)
        return PendingSum(total, work, self.stats, label, mark)

    def start_gather(self, rows: Tensor, label: str, num_rounded: int = 0) -> PendingGather:
        """Start to gather the rows of all ranks in rank order, n×… → W·n×…; n is the same on every rank.

        Gradients cross: the gradient of a row is the sum of its gradients from every rank's loss. A detached gather
        gives a pixel contrast whose gradient is off by about a half. Computation before `wait` overlaps with the
        gather, and its backward pass with the sum of the gradients.

        Args:
            rows: of this rank; n×c if some columns are rounded.
            label: of the collective.
            num_rounded: so many first columns hold numbers of bfloat16 and travel as such; gradients are never rounded.
        """
        if self.size == 1:
            return PendingGather(rows)
        pending = PendingGather(rows, num_rounded=num_rounded, dtype=rows.dtype)
        pending.rows = _StartGather.apply(rows, self, label, pending)
        return pending

    def sum_with_gradient(self, value: Tensor, label: str) -> Tensor:
        """Sum of `value` over ranks; its gradient is the sum of the gradients of all ranks' losses."""
        if self.size == 1:
            return value
        self.stats.add(label, value)
        return _Sum.apply(value, self, label)

    def gather_objects(self, value: Any, label: str) -> list[Any]:
        """One picklable object per rank, in rank order, on every rank; for rare use, and not for large ones."""
        if self.size == 1:
            return [value]
        # Pickled here, so that the size is known.
        mine = pickle.dumps(value)
        self._count(mine, label)
        everyone: list[Any] = [None] * self.size
        group = self._host_group()
        with self.stats.waits_in(label):
            dist.all_gather_object(everyone, mine, group=group)
        return [pickle.loads(theirs) for theirs in everyone]

    def meet(self, label: str) -> None:
        """Wait, on the host, until every rank is here."""
        self.gather_objects(None, label)

    def from_first(self, value: Any, label: str) -> Any:
        """Rank 0's object, on every rank; what the others give is not looked at."""
        if self.size == 1:
            return value
        sent, group = [pickle.dumps(value) if self.rank == 0 else None], self._host_group()
        if sent[0] is not None:
            self._count(sent[0], label)
        with self.stats.waits_in(label):
            dist.broadcast_object_list(sent, group=group, group_src=0)
        assert sent[0] is not None
        return pickle.loads(sent[0])

    def merge_to_first(
        self, value: Mergeable, merge: Callable[[Mergeable, Mergeable], object], label: str
    ) -> Mergeable | None:
        """Merge picklable objects of any size into rank 0's, in rank order.

        Along a binary tree, so that no rank holds more than two at a time and the time grows with log W.

        Args:
            merge: takes the objects of two runs of neighbouring ranks and adds the second to the first.

        Returns:
            The merged object on rank 0, None on the others, whose objects are spent.
        """
        group, rank, step = self._host_group(), self.rank, 1
        while step < self.size:
            if rank % (2 * step):
                self._send(value, rank - step, group, label)
                return None
            if rank + step < self.size:
                merge(value, self._receive(rank + step, group, label))
            step *= 2
        return value

    def _send(self, value: Any, to: int, group: dist.ProcessGroup | None, label: str) -> None:
        mine = pickle.dumps(value)
        self._count(mine, label)
        with self.stats.waits_in(label):
            dist.send(torch.tensor([len(mine)]), group=group, group_dst=to)
            dist.send(torch.frombuffer(bytearray(mine), dtype=torch.uint8), group=group, group_dst=to)

    def _receive(self, source: int, group: dist.ProcessGroup | None, label: str) -> Any:
        num_bytes = torch.zeros(1, dtype=torch.int64)
        with self.stats.waits_in(label):
            dist.recv(num_bytes, group=group, group_src=source)
            theirs = torch.empty(int(num_bytes), dtype=torch.uint8)
            dist.recv(theirs, group=group, group_src=source)
        return pickle.loads(theirs.numpy().tobytes())

    def _count(self, pickled: bytes, label: str) -> None:
        self.stats.calls[label] += 1
        self.stats.num_bytes[label] += len(pickled)

    def _host_group(self) -> dist.ProcessGroup | None:
        """The group for objects: NCCL would take them through the memory of every GPU.

        Every rank makes it at its first call for objects, which all of them make together.
        """
        if self.size == 1 or dist.get_backend(self.group) != "nccl":
            return self.group
        if self._of_objects is None:
            ranks = None if self.group is None else dist.get_process_group_ranks(self.group)
            made = dist.new_group(
                ranks, backend="gloo", timeout=self.timeout, use_local_synchronization=ranks is not None
            )
            assert isinstance(made, dist.ProcessGroup), "this rank is one of the group's"
            self._of_objects = made
        return self._of_objects

    def __deepcopy__(self, memo: dict[int, Any]) -> Collectives:
        # Process groups cannot be copied; a copied module talks over the same group.
        return self


class _StartGather(torch.autograd.Function):
    """Forward starts an all-gather; backward, the last to run, takes the gradients that `_WaitGather` has sent off."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, collectives: Collectives, label: str, pending: PendingGather) -> Tensor:
        ctx.pending = pending
        rows = _packed(rows, pending.num_rounded)
        collectives.stats.add(label, rows)
        gathered = rows.new_empty((collectives.size * rows.shape[0], *rows.shape[1:]))
        pending.collectives, pending.label, pending.mark = collectives, label, _Mark.of(rows)
        pending.work = dist.all_gather_single(gathered, rows.contiguous(), group=collectives.group, async_op=True)
        return gathered

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        pending: PendingGather = ctx.pending
        work, own, collectives = pending.work, pending.gradient, pending.collectives
        if work is None or own is None or collectives is None:
            raise RuntimeError("the gathered rows were used without `wait`")
        collectives.stats.wait(work, f"{pending.label}_backward", pending.mark)
        return own, None, None, None


class _WaitGather(torch.autograd.Function):
    """Forward waits for the all-gather; backward starts the sum over ranks of every rank's slice of the gradient."""

    @staticmethod
    def forward(ctx: Any, gathered: Tensor, pending: PendingGather) -> Tensor:
        ctx.pending = pending
        if pending.work is not None and pending.collectives is not None:
            pending.collectives.stats.wait(pending.work, pending.label, pending.mark)
        ctx.shape = gathered.shape
        return _unpacked(gathered, pending.num_rounded, pending.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        pending: PendingGather = ctx.pending
        collectives, (grad,) = pending.collectives, grad_outputs
        if collectives is None:
            raise RuntimeError("waited for a gather that was not started")
        pending.gradient = grad.new_empty((grad.shape[0] // collectives.size, *grad.shape[1:]))
        collectives.stats.add(f"{pending.label}_backward", grad)
        pending.mark = _Mark.of(grad)
        pending.work = dist.reduce_scatter_single(
            pending.gradient, grad.contiguous(), group=collectives.group, async_op=True
        )
        return grad.new_zeros(()).expand(ctx.shape), None  # for the shape alone: `_StartGather` returns what arrives


def _packed(rows: Tensor, num_rounded: int) -> Tensor:
    """Rows n×c as they travel: the first columns as bfloat16, of the others the bits, each two or four bfloat16."""
    if num_rounded == 0:
        return rows
    rounded, exact = rows[:, :num_rounded].to(torch.bfloat16), rows[:, num_rounded:].contiguous()
    return torch.cat([rounded, exact.view(torch.bfloat16)], dim=1)


def _unpacked(packed: Tensor, num_rounded: int, dtype: torch.dtype) -> Tensor:
    """The rows n×c that `_packed` was given, in this type."""
    if num_rounded == 0:
        return packed.view_as(packed)
    exact = packed[:, num_rounded:].contiguous().view(dtype)
    return torch.cat([packed[:, :num_rounded].to(dtype), exact], dim=1)


class _Sum(torch.autograd.Function):
    """all_reduce forward and backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, collectives: Collectives, label: str) -> Tensor:
        ctx.collectives, ctx.label = collectives, label
        total = value.clone()
        _all_reduce(total, collectives, label)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        collectives: Collectives = ctx.collectives
        grad = grad_outputs[0].clone()
        collectives.stats.add(f"{ctx.label}_backward", grad)
        _all_reduce(grad, collectives, f"{ctx.label}_backward")
        return grad, None, None


def _all_reduce(value: Tensor, collectives: Collectives, label: str) -> None:
    mark = _Mark.of(value)
    work = dist.all_reduce(value, group=collectives.group, async_op=True)
    assert work is not None
    collectives.stats.wait(work, label, mark)


def to_device(values: Sequence[float], device: torch.device) -> Tensor:
    """Numbers of the host as a vector on a device, float64; the host does not wait for a device that is busy."""
    vector = torch.tensor(values, dtype=torch.float64)
    return vector if device.type == "cpu" else vector.pin_memory().to(device, non_blocking=True)


def to_host(values: Tensor) -> list[float]:
    """The elements of a vector, in one transfer to the host."""
    return [float(value) for value in values.detach().cpu().numpy()]
