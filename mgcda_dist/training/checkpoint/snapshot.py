"""Snapshots of a training state: copies in host memory that later steps do not change, and their writers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["HostCopy", "own_copy", "write_state", "write_tensors"]


class HostCopy:
    """A copy of a state in host memory, to be written later.

    Args:
        write: writes a state to a path.
        state: copied by the constructor.
        earlier: an earlier copy that is written; its memory is reused.
    """

    def __init__(self, write: Callable[[Any, Path], None], state: Any, earlier: HostCopy | None = None) -> None:
        self._write = write
        self.state = own_copy(state, None if earlier is None else earlier.state)

    def __call__(self, path: Path) -> None:
        """Write the copy to a file."""
        self._write(self.state, path)


def own_copy(state: Any, reuse: Any = None) -> Any:
    """A deep copy of nested mappings, lists and tuples with all tensors on the host.

    A tensor that occurs twice in `state` is copied once; of a view only its own elements are copied. Other objects are
    shared, not copied: beside tensors, training engines keep numbers, texts and settings in their states.

    Args:
        reuse: an earlier copy that is not needed any more: its tensors of equal shape under the same keys are
            overwritten, which is many times faster than fresh memory.
    """
    devices = set[torch.device]()
    copied = _copied(state, reuse, {}, set(), devices)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()  # the copies were only started
    return copied


def _copied(state: Any, reuse: Any, seen: dict[int, Tensor], taken: set[int], devices: set[torch.device]) -> Any:
    """The copy; GPUs that copies are on their way from join `devices`."""
    if isinstance(state, Tensor):
        if state.device.type == "cuda":
            devices.add(state.device)
        if id(state) not in seen:
            # One tensor of the earlier copy may stand for two tensors now.
            seen[id(state)] = _on_host(state.detach(), None if id(reuse) in taken else reuse)
            taken.add(id(seen[id(state)]))
        return seen[id(state)]
    if isinstance(state, dict):
        mapping = copy.copy(state)  # keeps the type, and what torch attaches to a state dict
        earlier = reuse if isinstance(reuse, dict) else {}
        for key, value in state.items():
            mapping[key] = _copied(value, earlier.get(key), seen, taken, devices)
        return mapping
    if type(state) in (list, tuple):
        earlier = reuse if type(reuse) is type(state) and len(reuse) == len(state) else [None] * len(state)
        pairs = zip(state, earlier, strict=True)
        return type(state)(_copied(value, before, seen, taken, devices) for value, before in pairs)
    return state


def _on_host(tensor: Tensor, reuse: Any) -> Tensor:
    if not (isinstance(reuse, Tensor) and reuse.shape == tensor.shape and reuse.dtype == tensor.dtype):
        reuse = torch.empty_like(
            tensor, device="cpu", memory_format=torch.contiguous_format, pin_memory=tensor.device.type == "cuda"
        )
    return reuse.copy_(tensor, non_blocking=True)


def write_state(state: Any, path: Path) -> None:
    """Write a nested state with `torch.save`; equal states give equal bytes.

    Raises:
        OSError: the error of the file system; torch hides it in a RuntimeError.
    """
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors as safetensors.

    Raises:
        OSError: the error of the file system.
    """
    from safetensors.torch import save

    path.write_bytes(save(dict(tensors)))
