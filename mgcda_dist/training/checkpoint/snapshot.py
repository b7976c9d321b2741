"""Copies of a state in host memory, and what writes them: a snapshot that training may not change any more."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["HostCopy", "own_copy", "write_state", "write_tensors"]


class HostCopy:
    """A state in host memory that waits to be written.

    Args:
        write: writes a state to a path.
        state: is copied now.
        earlier: one that is written already; its memory is taken over.
    """

    def __init__(self, write: Callable[[Any, Path], None], state: Any, earlier: HostCopy | None = None) -> None:
        self._write = write
        self.state = own_copy(state, None if earlier is None else earlier.state)

    def __call__(self, path: Path) -> None:
        """Write it."""
        self._write(self.state, path)


def own_copy(state: Any, reuse: Any = None) -> Any:
    """The same nested mappings, lists and tuples, with tensors of their own on the host.

    Tensors that are one in `state` are one in the copy; a view takes along only what it shows. Other objects are taken
    as they are: what training engines put into their states beside tensors is numbers, texts and settings.

    Args:
        state: what to copy.
        reuse: an earlier copy that nobody needs any more: tensors of equal shape at the same place give their memory,
            which is many times faster than memory that the system has yet to find.
    """
    copied = _copied(state, reuse, {}, set())
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the copies were only started
    return copied


def _copied(state: Any, reuse: Any, seen: dict[int, Tensor], taken: set[int]) -> Any:
    if isinstance(state, Tensor):
        if id(state) not in seen:
            # What was one tensor then may be two now.
            seen[id(state)] = _on_host(state.detach(), None if id(reuse) in taken else reuse)
            taken.add(id(seen[id(state)]))
        return seen[id(state)]
    if isinstance(state, dict):
        mapping = copy.copy(state)  # keeps the type, and what torch attaches to a state dict
        earlier = reuse if isinstance(reuse, dict) else {}
        for key, value in state.items():
            mapping[key] = _copied(value, earlier.get(key), seen, taken)
        return mapping
    if type(state) in (list, tuple):
        earlier = reuse if type(reuse) is type(state) and len(reuse) == len(state) else [None] * len(state)
        return type(state)(_copied(value, before, seen, taken) for value, before in zip(state, earlier, strict=True))
    return state


def _on_host(tensor: Tensor, reuse: Any) -> Tensor:
    if not (isinstance(reuse, Tensor) and reuse.shape == tensor.shape and reuse.dtype == tensor.dtype):
        reuse = torch.empty_like(
            tensor, device="cpu", memory_format=torch.contiguous_format, pin_memory=tensor.device.type == "cuda"
        )
    return reuse.copy_(tensor, non_blocking=True)


def write_state(state: Any, path: Path) -> None:
    """Write a nested state as torch does; equal states give equal bytes.

    Raises:
        OSError: what the disk said; torch has words of its own for it.
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
        OSError: what the disk said.
    """
    from safetensors.torch import save

    path.write_bytes(save(dict(tensors)))
