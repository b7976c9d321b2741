"""A pretended GPU: tensors that say `cuda:0` and compute on the CPU, and an account of where the host waits for it.

A GPU works off what the host hands it, as long as the host does not ask: every value that is read, every shape that
depends on the content, and every copy out of pageable memory stops the host until the device has come so far. On the
pretended device such waits are counted by the function that causes them, and a tensor of the CPU among those of the
device is an error, as on a real one, and so is a product of integers. So is one of another stream whose work was not
waited for, or whose memory that stream might take back.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import mgcda_dist

__all__ = ["DEVICE", "DeviceTensor", "PretendedDevice", "PretendedStream", "pretended_device"]

DEVICE = torch.device("cuda", 0)
_DATA: Any = torch._C.TensorBase.data
_PACKAGE = str(Path(mgcda_dist.__file__).parent)
_PASSED_ON = ("method/collectives.py", "method/reduce.py", "method/batch.py")
"""Files whose functions copy for others: these are named."""
_READS = {"_local_scalar_dense", "equal", "is_nonzero"}
_SHAPES = {"nonzero", "masked_select", "_unique", "_unique2", "unique_consecutive", "unique_dim", "bincount"}
_PRODUCTS = {"addbmm", "addmm", "addmv", "baddbmm", "bmm", "convolution", "dot", "linear", "mm", "mv", "vdot"}
_INDEXED = {"index", "index_put", "_index_put_impl", "_unsafe_index", "_unsafe_index_put"}


class PretendedStream:
    """A queue of the device: how much was handed over to it, and of other queues, how much it has waited for."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.handed_over = 0
        self.waited_for: dict[PretendedStream, int] = {}

    def wait_stream(self, other: PretendedStream) -> None:
        for stream, number in {**other.waited_for, other: other.handed_over}.items():
            self.waited_for[stream] = max(number, self.waited_for.get(stream, 0))

    def synchronize(self) -> None:
        """The host waits for it: nothing is left of it, as of all that was handed over here."""


class DeviceTensor(Tensor):
    """A tensor of the pretended device. PyTorch's C++ takes it for one of `meta`, for which it has no queue either.

    Attributes:
        content: on the host.
        stream: that made it.
        number: of the stream's work that did.
        readers: other streams that its memory is kept for.
    """

    content: Tensor
    stream: PretendedStream
    number: int
    readers: set[PretendedStream]

    @staticmethod
    def __new__(cls, content: Tensor, stream: PretendedStream) -> DeviceTensor:
        layout = {"strides": content.stride(), "storage_offset": content.storage_offset(), "dtype": content.dtype}
        made: DeviceTensor = Tensor._make_wrapper_subclass(cls, content.shape, **layout, device=torch.device("meta"))
        made.content, made.stream, made.number, made.readers = content, stream, stream.handed_over, set()
        return made

    device = property(lambda self: DEVICE)  # pyright: ignore[reportAssignmentType]
    is_meta = property(lambda self: False)  # pyright: ignore[reportAssignmentType]
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _DATA.__get__(self)

    @data.setter
    def data(self, value: DeviceTensor) -> None:
        _DATA.__set__(self, value)
        self.content = value.content

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.tensor(data, dtype=dtype or self.dtype, device=DEVICE)

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the pretended device")


class PretendedDevice(TorchDispatchMode):
    """Runs what concerns the device, and keeps the account.

    Attributes:
        waits: `PHASE FILE FUNCTION KIND` → how often the host waited there: for a value (read), for a shape that
            depends on the content (shape), for a copy to the device to end (copy), or for all of it (synchronize).
        phase: the present one.
        pinned: page-locked memory by its address.
        stream: the present one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.phase = ""
        self.pinned: dict[int, Tensor] = {}
        self.stream = PretendedStream()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        asked = kwargs.get("device")
        there = asked is not None and torch.device(asked).type in ("cuda", "meta")
        if not there and not any(isinstance(x, DeviceTensor) for x in tensors):
            is_pinned = kwargs.pop("pin_memory", False)
            out = func(*args, **kwargs)
            return self.pin(out) if is_pinned else out
        name = func._schema.name.partition("::")[2]
        if func is torch.ops.prim.device.default:
            return DEVICE
        if name.rstrip("_") in _PRODUCTS and (whole := {x.dtype for x in tensors if not x.is_floating_point()}):
            raise RuntimeError(f"{name} is not implemented for {whole.pop()} on a GPU")
        leaves = self._book(name.rstrip("_"), tensors, args, kwargs, there)
        if there:
            kwargs["device"] = torch.device("cpu")
        known = {id(x.content): x for x in tensors if isinstance(x, DeviceTensor)}
        self._hand_over(name, list(known.values()))
        real_args, real_kwargs = tree_map_only(DeviceTensor, lambda x: x.content, (args, kwargs))
        out = func(*real_args, **real_kwargs)
        if leaves:
            return out
        return tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else DeviceTensor(x, self.stream), out)

    def _hand_over(self, name: str, tensors: list[DeviceTensor]) -> None:
        """Put work on the present stream, which must have what it reads."""
        present = self.stream
        for tensor in tensors:
            if tensor.stream is not present and present.waited_for.get(tensor.stream, -1) < tensor.number:
                raise RuntimeError(f"{name} may read a tensor before it is there: wait_stream is missing")
            if tensor.stream is not present and present not in tensor.readers:
                raise RuntimeError(f"{name} may read memory that has another use by then: record_stream is missing")
        present.handed_over += 1

    def _book(self, name: str, tensors: list[Tensor], args: Any, kwargs: Any, there: bool) -> bool:
        """Count the waits of a call; True where its result is the host's."""
        on_host = [x for x in tensors if not isinstance(x, DeviceTensor)]
        if name in ("_to_copy", "copy"):
            target, source = (None, args[0]) if name == "_to_copy" else args[:2]
            asked = kwargs.get("device")
            to_device = isinstance(target, DeviceTensor) if target is not None else there or asked is None
            if isinstance(source, DeviceTensor) and not to_device:
                self._wait("read")
            elif not isinstance(source, DeviceTensor) and not self._is_async(source, args, kwargs):
                self._wait("copy")
            return not to_device
        if name in _READS:
            self._wait("read")
            return True
        if name in _SHAPES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self._wait("shape")
        elif name in _INDEXED:
            self._book_index(name, args)
            on_host = [x for x in on_host if not any(x is index for index in args[1])]
        elif name == "where" and on_host:
            self._wait("copy")
        if wrong := [tuple(x.shape) for x in on_host if x.dim() > 0 and name != "lift_fresh"]:
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} of one on the CPU, {wrong[0]}")
        return False

    def _book_index(self, name: str, args: Any) -> None:
        given = [index for index in args[1] if index is not None]
        if not isinstance(args[0], DeviceTensor):
            raise RuntimeError("Expected all tensors to be on the same device: an index on the GPU of one on the CPU")
        masks = [index for index in given if index.dtype in (torch.bool, torch.uint8)]
        is_filled = name != "index" and len(given) == 1 and args[2].numel() == 1  # that is masked_fill
        if masks and not is_filled:
            self._wait("shape")
        for index in given:
            if not isinstance(index, DeviceTensor) and index.dim() > 0:
                self._wait("copy")

    def _is_async(self, source: Tensor, args: Any, kwargs: Any) -> bool:
        asked = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        return asked and source.untyped_storage().data_ptr() in self.pinned

    def _wait(self, kind: str) -> None:
        self.waits[" ".join(filter(None, (self.phase, _place(), kind)))] += 1

    def wait_for_all(self) -> None:
        """The host waits for all streams."""
        self._wait("synchronize")

    @contextmanager
    def on(self, stream: PretendedStream) -> Generator[None]:
        """Work is put on that stream, within the block."""
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def pin(self, tensor: Tensor) -> Tensor:
        """The tensor, whose memory is page-locked by what the device knows."""
        self.pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor


def _place() -> str:
    """The innermost function of the package that is running, with its file; empty: there is none."""
    frame, found = sys._getframe(1), ""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_PACKAGE):
            file = code.co_filename[len(_PACKAGE) + 1 :]
            found = found or f"{file} {code.co_qualname}"
            if file not in _PASSED_ON:
                return f"{file} {code.co_qualname}"
        frame = cast(Any, frame.f_back)
    return found


@contextmanager
def pretended_device() -> Generator[PretendedDevice]:
    """There is a GPU, within the block."""
    mode, lifts_only_host = PretendedDevice(), torch._C._only_lift_cpu_tensors()
    with (
        patch.object(torch.cuda, "_lazy_init", lambda: None),
        patch.object(Tensor, "pin_memory", lambda tensor, *_: mode.pin(tensor.clone())),
        patch.object(torch.cuda, "Stream", PretendedStream),
        patch.object(torch.cuda, "stream", mode.on),
        patch.object(torch.cuda, "current_stream", lambda *_: mode.stream),
        patch.object(Tensor, "record_stream", lambda tensor, stream: tensor.readers.add(stream)),
        torch.autograd.set_multithreading_enabled(False),
    ):
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with mode:
                yield mode
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts_only_host)
