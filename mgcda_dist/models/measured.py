"""Heads that are measured on frames instead of trained: artefacts of a model that travel with its weights.

Their numbers are buffers, so a model with such a head is exported, loaded strictly, digested and traced like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.heads import AnySegmenter, HeadedSegmenter, Heads, HeadSpec
from mgcda_dist.references import PREFIX, resolve

__all__ = ["MeasuredHead", "Observation", "with_measured_head"]


class Observation(NamedTuple):
    """A frame as a head that is measured sees it.

    Attributes:
        features: N×c×h×w of the head's stage.
        prediction: the network's.
        label: N×H×W int64 train ids at any size: of the frame, not of the network's input.
    """

    features: Tensor
    prediction: Prediction
    label: Tensor


class MeasuredHead(Protocol):
    """Class of a head that is measured; its instances have an attribute `arguments`, of the constructor."""

    def measured(self, channels: int, observe: Callable[[], Iterable[Observation]], /, **arguments: Any) -> nn.Module:
        """The head, with what it measured in its buffers; every call of `observe` is a pass over the same frames."""
        ...


@torch.no_grad()
def with_measured_head(
    network: AnySegmenter,
    name: str,
    spec: HeadSpec,
    frames: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    where: str,
) -> tuple[HeadedSegmenter, dict[str, HeadSpec]]:
    """`network` with one head more, measured on frames, and the specifications of all its heads.

    Args:
        network: in evaluation mode; it is not changed.
        name: of the head's output among the extras.
        spec: its class, which has a method `measured`, its stage and arguments.
        frames: a pass over images N×3×H×W and labels N×H×W, on the network's device.
        where: name of the head in messages.

    Raises:
        ConfigError: a class that cannot be measured, an unknown stage, or a name that is taken.
    """
    headed = isinstance(network, HeadedSegmenter)
    specs = dict(cast(Mapping[str, HeadSpec], network.heads.specs)) if headed else {}
    stage, channels = spec["stage"], network.stage_channels
    if name in specs:
        raise ConfigError(f"{where}.name", f"the model has a head {name!r}", "another name, or the model without it")
    if stage not in channels:
        raise ConfigError(f"{where}.stage", f"the network has no stage {stage!r}", near_or_all(stage, channels))
    if not spec["use"].startswith(PREFIX):
        problem = f"{spec['use']!r} is trained, not measured"
        raise ConfigError(f"{where}.use", problem, "plugin:cdnp_bank, or python:MODULE:CLASS with a method `measured`")
    kind = resolve(f"{where}.use", spec["use"])
    if not callable(getattr(kind, "measured", None)):
        raise ConfigError(f"{where}.use", f"{spec['use']} has no method `measured`", "give a head that is measured")

    def observe() -> Iterator[Observation]:
        for image, label in frames():
            prediction: Prediction = network(image)
            yield Observation(prediction.stages[stage], prediction, label)

    arguments = spec.get("arguments", {})
    try:
        head: Any = cast(MeasuredHead, kind).measured(channels[stage], observe, **arguments)
    except TypeError as error:
        raise ConfigError(f"{where}.arguments", f"{spec['use']}: {error}", "see its own page") from error
    except ConfigError as error:
        inside = f"{where}.arguments.{error.where}" if error.where in arguments else error.where
        raise ConfigError(inside, error.problem, error.remedy) from None
    specs[name] = {"use": spec["use"], "stage": stage, "arguments": dict(head.arguments), "detached": True}
    modules = dict(network.heads.heads.items()) if headed else {}
    device = next(network.parameters()).device
    inner = network.segmenter if isinstance(network, HeadedSegmenter) else network
    return HeadedSegmenter(inner, Heads(modules | {name: head.to(device)}, specs)).eval(), specs
