"""The teacher: it labels unlabelled images, and is a moving average of the segmenter (arXiv 1703.01780).

    θ' ← γ_t·θ' + (1 - γ_t)·θ,   γ_t = min(γ, 1 - 1/(t+1))

Step t is counted from 0, so the average starts as the segmenter after the first step. Buffers of the segmenter, as the
running statistics of batch norm, are means already and are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mgcda_dist.choices import TeacherDefaults
from mgcda_dist.method.batch import VOID, Batch, Prediction, first_true, score_on_grid
from mgcda_dist.method.teacher.labels import Taught, taught_labels, teachable

__all__ = ["Teacher", "decay_at"]

_TORCH: Any = torch  # whose operations on many tensors its types do not list


class Teacher(nn.Module):
    """An averaged segmenter, in evaluation mode.

    Its state are buffers, one per tensor of the segmenter, equal on every rank and never narrower than float32: with
    bf16 parameters a step moves the average by less than bf16 resolves. Engines see these buffers and no parameters, so
    they neither slice, cast nor train them.

    Args:
        network: a second network of the segmenter's architecture; its tensors are replaced.
        segmenter: what is averaged; the average starts from it.
        decay: γ in [0, 1).
        confidence, score_quantile: see `taught_labels`.
    """

    def __init__(
        self,
        network: nn.Module,
        segmenter: nn.Module,
        decay: float = TeacherDefaults.decay,
        *,
        confidence: float = TeacherDefaults.confidence,
        score_quantile: float = TeacherDefaults.score_quantile,
    ) -> None:
        super().__init__()
        self.decay, self.confidence, self.score_quantile = decay, confidence, score_quantile
        network.load_state_dict(segmenter.state_dict(), strict=True)
        # A tuple is no submodule: a registered one would be trained, sliced and cast with the rest.
        self._hidden = (network.requires_grad_(False).eval(),)
        self._stand_in: Callable[[Tensor], Prediction] | None = None
        for name, tensor in network.state_dict().items():
            self.register_buffer(_buffer_name(name), _widened(tensor.detach().clone()))
        self._fill_network()

    @property
    def network(self) -> nn.Module:
        """The bare network with the averaged parameters; it shares memory with the buffers."""
        return self._hidden[0]

    @contextmanager
    def answered_by(self, network: Callable[[Tensor], Prediction]) -> Generator[None]:
        """Let a function answer in the network's place, within the block: its tensors are out of reach from outside."""
        self._stand_in = network
        try:
            yield
        finally:
            self._stand_in = None

    @torch.no_grad()
    def forward(self, batch: Batch, score: Callable[[Prediction], Tensor], size: tuple[int, int]) -> Taught:
        """Labels of the unlabelled images of this rank and micro-batch; no collective.

        Args:
            batch: the weak views of its unlabelled images are looked at, or where it has none the images themselves.
            score: prediction → N×h×w at any stride, higher is more anomalous.
            size: h and w of the logits.
        """
        label = batch.label.new_full((len(batch.label), *size), VOID, dtype=torch.int64)
        weight, inlier = self._floating().new_zeros(len(label)), torch.zeros_like(label, dtype=torch.bool)
        asked = _asked(batch)
        if len(asked):
            network = self.network if self._stand_in is None else self._stand_in
            prediction: Prediction = network(batch.image[asked] if batch.weak is None else batch.weak)
            logits, mask = prediction.logits, teachable(batch, size)[asked]
            limits = {"confidence": self.confidence, "score_quantile": self.score_quantile}
            taught = taught_labels(logits, score_on_grid(score(prediction), size), mask, **limits)
            label[asked], weight[asked], inlier[asked] = taught
        return Taught(label, weight, inlier)

    @torch.no_grad()
    def follow(self, segmenter: nn.Module, step: int) -> None:
        """Move the average after a step that was accepted.

        Args:
            segmenter: with all its parameters present, where an engine slices them.
            step: of training, from 0.
        """
        decay = decay_at(step, self.decay)
        alike: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        for name, tensor in segmenter.state_dict(keep_vars=True).items():
            average = self.get_buffer(_buffer_name(name))
            kind = isinstance(tensor, nn.Parameter), average.dtype, tensor.dtype
            alike.setdefault(kind, []).append((average, tensor.detach()))
        # All that are alike at once: a GPU has one kernel for them, where a network has hundreds.
        for (is_averaged, wide, narrow), pairs in alike.items():
            averages, given = [average for average, _ in pairs], [tensor for _, tensor in pairs]
            if wide != narrow:
                widened = [torch.empty_like(average) for average in averages]
                _TORCH._foreach_copy_(widened, given)
                given = widened
            if is_averaged:
                _TORCH._foreach_lerp_(averages, given, 1.0 - decay)
            else:
                _TORCH._foreach_copy_(averages, given)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Teacher:
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        for name, moved in self.named_buffers():
            if moved.is_floating_point() and moved.element_size() < 4:
                self._buffers[name] = exact[name].to(moved.device, torch.float32)
        self._fill_network()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # pyright: ignore[reportUnknownMemberType]
        self._fill_network()  # a copy of a parameter shares no memory with the copy of a buffer

    def _fill_network(self) -> None:
        """Let the network's tensors be the buffers, on their device."""
        buffers = {name: self.get_buffer(_buffer_name(name)) for name in self.network.state_dict()}
        floating = self._floating()
        self.network.to(floating.device, floating.dtype)  # what is in no state dict
        self.network.load_state_dict(buffers, strict=True, assign=True)

    def _floating(self) -> Tensor:
        """A buffer that is no integer: it tells device and dtype."""
        return next(tensor for tensor in self.buffers() if tensor.is_floating_point())


def _asked(batch: Batch) -> Tensor:
    """Indices of the unlabelled images, int64; of a batch without views on a GPU those of all images.

    There the host would have to wait for their number. Labelled images have nothing to teach.
    """
    if batch.weak is not None:
        return first_true(batch.is_unlabelled, len(batch.weak))[0]
    if batch.label.device.type == "cpu":
        return torch.nonzero(batch.is_unlabelled)[:, 0]
    return torch.arange(len(batch.label), device=batch.label.device)


def decay_at(step: int, decay: float) -> float:
    """γ_t of a step counted from 0: the first steps forget the untrained network."""
    return min(decay, 1.0 - 1.0 / (step + 1))


def _buffer_name(name: str) -> str:
    """Name of the buffer of a segmenter's tensor: a dot would be a submodule."""
    return "average/" + name.replace(".", "/")


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
