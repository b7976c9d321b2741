"""Heads: small modules on stages of a segmenter, whose outputs are entries of `Prediction.extra`.

A kept head is part of the exported network and is loaded strictly with it; a dropped one leaves no key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal, NotRequired

from torch import Tensor, nn
from typing_extensions import TypedDict

from mgcda_dist.choices import LogitKind
from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.adapters import AdaptedSegmenter
from mgcda_dist.models.seeding import seeded
from mgcda_dist.models.segmenter import Segmenter
from mgcda_dist.references import PREFIX, resolve, told

__all__ = ["HEADS", "AnySegmenter", "HeadSpec", "HeadedSegmenter", "Heads", "Pixelwise", "make_heads"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU}


class HeadSpec(TypedDict):
    """One head, as configurations and `model.json` have it.

    Attributes:
        use: a name of `HEADS`, or a reference to a class of the user's own, which is called with the number of input
            channels and the arguments.
        stage: that it is given; `embedding`, or a name of the network's stages.
        arguments: of its class.
        detached: no gradient of the head reaches the network.
    """

    use: str
    stage: str
    arguments: NotRequired[dict[str, Any]]
    detached: NotRequired[bool]


class Pixelwise(nn.Module):
    """A perceptron at every pixel: 1×1 convolutions, N×channels×h×w → N×outputs×h×w.

    Args:
        channels: of its input.
        outputs: of its last layer.
        widths: of the hidden layers; none: the head is linear.
        activation: behind every hidden layer: relu, leaky_relu (slope 0.01) or gelu.
        norm: `group` normalises every image of the input with one group, and is followed by the activation: the head of
            DenseHybrid without statistics of a batch.
        bias: of the last layer.
    """

    def __init__(
        self,
        channels: int,
        outputs: int = 1,
        widths: Sequence[int] = (),
        activation: Literal["relu", "leaky_relu", "gelu"] = "relu",
        norm: Literal["none", "group"] = "none",
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ConfigError("activation", f"is {activation!r}", near_or_all(activation, _ACTIVATIONS))
        if norm not in ("none", "group"):
            raise ConfigError("norm", f"is {norm!r}", "none or group")
        layers: list[nn.Module] = []
        if norm == "group":
            layers += [nn.GroupNorm(1, channels), _ACTIVATIONS[activation]()]
        for width in widths:
            layers += [nn.Conv2d(channels, width, 1), _ACTIVATIONS[activation]()]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, outputs, 1, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.layers(x)


HEADS: dict[str, type[nn.Module]] = {"pixelwise": Pixelwise}
"""Heads of the package by name; those of others are `python:MODULE:NAME`."""


class Heads(nn.Module):
    """Heads by name, each on its stage: `Prediction` → `Prediction` with their outputs among its extras."""

    def __init__(self, heads: Mapping[str, nn.Module], specs: Mapping[str, HeadSpec]) -> None:
        super().__init__()
        self.heads, self.specs = nn.ModuleDict(heads), dict(specs)

    def forward(self, prediction: Prediction) -> Prediction:
        """The prediction with one entry more per head."""
        found = dict(prediction.extra)
        for name, head in self.heads.items():
            x = prediction.stages[self.specs[name]["stage"]]
            found[name] = head(x.detach() if self.specs[name].get("detached", False) else x)
        return prediction._replace(extra=found)


class HeadedSegmenter(nn.Module):
    """A segmenter with its kept heads.

    Attributes:
        stage_channels, logit_kind, example_size, columns: of the segmenter.
        backbone: path of its pretrained part within this module; empty: none.
        backbone_parts: paths of all that learns with the backbone's rate, within the segmenter.
    """

    def __init__(self, segmenter: Segmenter | AdaptedSegmenter, heads: Heads) -> None:
        super().__init__()
        self.segmenter, self.heads = segmenter, heads
        self.stage_channels, self.columns = segmenter.stage_channels, segmenter.columns
        self.logit_kind: LogitKind = segmenter.logit_kind
        self.example_size: tuple[int, int] = segmenter.example_size
        path = segmenter.backbone if isinstance(segmenter.backbone, str) else "backbone"
        self.backbone = f"segmenter.{path}" if path else ""
        self.backbone_parts = segmenter.backbone_parts

    def forward(self, image: Tensor) -> Prediction:
        """As the segmenter, with the outputs of the heads among the extras."""
        return self.heads(self.segmenter(image))


AnySegmenter = Segmenter | AdaptedSegmenter | HeadedSegmenter
"""A bare segmenter: what a run trains, exports and evaluates."""


def make_heads(specs: Mapping[str, HeadSpec], stage_channels: Mapping[str, int], seed: int, where: str) -> Heads:
    """Heads with initial parameters that are equal on every rank.

    Args:
        specs: by name.
        stage_channels: of the segmenter's stages, and of `embedding`.
        where: config path of the heads, for errors.

    Raises:
        ConfigError: an unknown head or stage, or arguments that do not fit.
    """
    return Heads(
        {name: _made(name, spec, stage_channels, seed, f"{where}.{name}") for name, spec in specs.items()}, specs
    )


def _made(name: str, spec: HeadSpec, stage_channels: Mapping[str, int], seed: int, where: str) -> nn.Module:
    stage, use, arguments = spec["stage"], spec["use"], spec.get("arguments", {})
    if stage not in stage_channels:
        raise ConfigError(f"{where}.stage", f"the network has no stage {stage!r}", near_or_all(stage, stage_channels))
    if use.startswith(PREFIX):
        function = resolve(f"{where}.use", use)
    elif use in HEADS:
        function = HEADS[use]
    else:
        remedy = near_or_all(use, HEADS, own="python:MODULE:NAME")
        raise ConfigError(f"{where}.use", f"no such head {use!r}", remedy)
    try:
        signature(function).bind(stage_channels[stage], **arguments)
    except (TypeError, ValueError) as error:
        remedy = "a head is called with its number of input channels, and `arguments`"
        raise ConfigError(f"{where}.arguments", f"{use}: {error}", remedy) from None
    try:
        with seeded(seed, "head", name):
            made = function(stage_channels[stage], **arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}.arguments.{error.where}", error.problem, error.remedy) from None
    except Exception as error:  # a user's code raises every kind
        problem = f"{use} cannot be made: {told(error)}"
        raise ConfigError(f"{where}.arguments", problem, "see its own page") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{where}.use", f"{use} is a {type(made).__name__}", "a head is a torch.nn.Module")
    return made
