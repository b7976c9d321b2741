"""Sections of the network and of what learns of it, and how fast."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from mgcda_dist.choices import (
    DECODER_CHANNELS,
    SCORE,
    SCORES,
    Exported,
    NormMode,
    OptimizerKind,
    Schedule,
    ScoreKind,
    score_entry,
)
from mgcda_dist.config.fields import (
    FIXED,
    FREE,
    OVERRIDE,
    Count,
    NonNegative,
    Positive,
    Probability,
    Section,
    StageName,
    Triple,
)
from mgcda_dist.errors import near_or_all
from mgcda_dist.references import PATTERN

__all__ = ["BACKBONE_STAGES", "HeadConfig", "ModelConfig", "OptimConfig", "ParameterRule", "TapsConfig"]

_COUNT_OR_NULL: Any = {"type": ["integer", "null"], "minimum": 1}
BACKBONE_STAGES = ("stride4", "stride8", "stride16", "stride32", "embedding")
"""Stages that a timm backbone with the light decoder may have."""


def _known_score(name: str) -> str:
    if name not in SCORES and re.fullmatch(PATTERN, name) is None:
        raise ValueError(f"no such score; {near_or_all(name, SCORES, own='python:MODULE:NAME')}")
    return name


class TapsConfig(Section):
    """Layers of a network by path, as in `named_modules`; `path[3]`, `path[name]`: an entry of what the layer outputs.

    For `model.network`; null: as the network's own file says.
    """

    stages: dict[StageName, str] | None = Field(default=None, description="stage name → path, for mdat.stages")
    logits: str | None = Field(default=None, description="path of the inlier logits, best before any upsampling")
    embedding: str | None = Field(default=None, description="path of what is contrasted; null: what `logits` is given")
    backbone: str | None = Field(default=None, description="path of what learns with optim.lr_backbone")
    backbone_parts: list[str] | None = Field(
        default=None, description="paths of all that learns with optim.lr_backbone, first layers first; null: backbone"
    )
    extra: dict[StageName, str] | None = Field(
        default=None, description="name → path of further outputs, of any shape, that a loss or score of your own reads"
    )
    mean: Triple | None = Field(
        default=None, description="of RGB, in units of 0…1; null: the network's own, or ImageNet"
    )
    std: Triple | None = Field(
        default=None, description="of RGB, in units of 0…1; null: the network's own, or ImageNet"
    )
    multiple_px: Count | None = Field(default=None, description="images are padded to multiples of it; null: 32")


class HeadConfig(Section):
    """A module on a stage of the network; its output is an entry of `Prediction.extra`."""

    name: StageName = Field(description="of the entry")
    use: Annotated[str, Field(pattern=rf"^([a-z_]+|{PATTERN})$")] = Field(
        default="pixelwise",
        description="pixelwise (1×1 convolutions: outputs, widths, activation, norm, bias), or python:MODULE:NAME, a "
        "class that is called with the number of input channels and the arguments",
    )
    stage: StageName = Field(default="embedding", description="that it is given")
    arguments: dict[str, Any] = Field(default={}, description="of its class")
    kept: bool = Field(default=True, description="true: part of the exported network; false: of the training alone")
    detached: bool = Field(default=False, description="true: its gradient does not reach the network")


PartPath = Annotated[str, Field(min_length=1, pattern=r"^[\w.]+$")]


class CopyConfig(Section):
    """A part of the network that begins as a copy of another part of it."""

    source: PartPath = Field(description="path of a module or parameter, as model.safetensors has them")
    target: PartPath = Field(description="the same, of what is overwritten; with the same names and shapes within")


class ModelConfig(Section):
    """Any timm backbone with a light decoder, or a whole network of another library or of one's own."""

    backbone: str | None = Field(default=None, description="timm model name; null: see `network`")
    network: (
        Annotated[str, Field(pattern=r"^((torchvision|smp|timm|transformers):[A-Za-z0-9_.]+|python:[\w.]+:[\w.]+)$")]
        | None
    ) = Field(
        default=None,
        description="torchvision:NAME, smp:NAME, timm:NAME (a plain ViT), transformers:NAME, or "
        "python:MODULE:FUNCTION: that module is imported, and FUNCTION(num_classes=C, **arguments) called",
    )
    arguments: dict[str, Any] = Field(default={}, description="of the network's constructor")
    taps: TapsConfig | None = None
    weights: Annotated[str, Field(pattern=r"^(none|hub(@[\w./-]+)?|file:.+|package:.+|run:.+)$")] = Field(
        default="none",
        description="of the backbone: `none`, `hub` (timm), `hub@REVISION` (commit, tag or branch there), `file:PATH` "
        "(safetensors or state dict), `package:NAME` (installed); of the whole network: `run:PATH`, a run folder, "
        "checkpoint or exported model",
    )
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = Field(
        default=None, description="digest of the file of weights, which is compared before the run; null: not compared"
    )
    norm: NormMode = Field(
        default="frozen",
        description="batch norm of the backbone; `local` breaks world-size invariance and must be asked for",
    )
    head_norm: NormMode | None = Field(
        default=None,
        description="batch norm of `network` outside of its backbone; null: as `norm`. `group` suits an untrained head",
    )
    decoder_channels: Count = Field(default=DECODER_CHANNELS, description="D of the decoder that a backbone gets; ours")
    score: Annotated[ScoreKind | str, AfterValidator(_known_score), OVERRIDE] = Field(
        default=SCORE, description="anomaly score; python:MODULE:NAME: one of your own; plugin:NAME"
    )
    heads: Annotated[list[HeadConfig], FIXED] = Field(
        default=[], description="modules on stages whose outputs a loss or score of your own reads as extra[NAME]"
    )
    copies: Annotated[list[CopyConfig], FIXED] = Field(
        default=[],
        description="parts that begin as copies of others once the weights are there, at the first step of a phase: a "
        "new head as what the phase before has trained",
    )
    export: Annotated[Exported, FREE] = Field(
        default="student",
        description="which network is validated, exported and evaluated: the trained one, or the teacher's average",
    )
    compile: Annotated[bool, FREE] = Field(default=False, description="torch.compile of the segmenter, block by block")

    @property
    def shown(self) -> str:
        """The network's name, for messages."""
        return self.network or self.backbone or "?"

    @model_validator(mode="after")
    def _one_network(self) -> ModelConfig:
        if (self.backbone is None) == (self.network is None):
            raise ValueError(
                "backbone: give either a timm backbone, which gets a light decoder, or a whole network as `network`"
                + (": both are there" if self.backbone else "")
            )
        names = [head.name for head in self.heads]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"heads: two heads are named {name!r}")
        foreign = {"arguments": self.arguments, "taps": self.taps, "head_norm": self.head_norm}
        for name, value in foreign.items():
            if self.network is None and value:
                raise ValueError(f"{name}: is for `network`; a backbone takes none")
        if score_entry(self.score).calibrated:
            raise ValueError(
                f"score: {self.score!r} needs statistics of the trained network, and training scores pixels from its "
                "first step on; train with another one, then measure them with `mgcda calibrate RUN` and evaluate with "
                "this score"
            )
        if self.weights_sha256 is not None and not self.weights.startswith(("file:", "run:")):
            remedy = "; of a hub, name the commit: hub@COMMIT" if self.weights.startswith("hub") else ""
            raise ValueError(f"weights_sha256: is of a file: or run:, and weights is {self.weights!r}{remedy}")
        return self


PartName = Annotated[str, Field(min_length=1, pattern=r"^[^ ]+$")]


class ParameterRule(Section):
    """Settings of the parameters that a pattern names; null: as for their group."""

    match: PartName = Field(
        description="path of a module or parameter as model.safetensors has it, with `*` for anything; mdat.…, cacl.… "
        "and heads.… are the method's own and dropped heads"
    )
    lr: NonNegative | None = Field(default=None, description="highest learning rate")
    weight_decay: NonNegative | None = Field(default=None, description="of all weights but those of norms and biases")
    warmup: Probability | None = Field(default=None, description="share of training, behind hold, with rising rate")
    hold: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="share of training with rate 0, before the warm-up"
    )


class OptimConfig(Section):
    """AdamW (or SGD), one learning rate per group, one schedule."""

    steps: Annotated[Count, OVERRIDE, WithJsonSchema(_COUNT_OR_NULL)] = Field(
        description="optimiser steps of the whole run, each of one global batch; null: the sum over its phases"
    )
    optimizer: Annotated[OptimizerKind, FIXED] = Field(default="adamw", description="adamw or sgd; ours")
    lr_backbone: Annotated[NonNegative, OVERRIDE] = Field(
        default=1e-4, description="highest learning rate of the backbone; 0: it does not learn, as with freeze; ours"
    )
    lr_heads: Annotated[Positive, OVERRIDE] = Field(
        default=1e-3, description="highest learning rate of the decoder, the classifier and the projection; ours"
    )
    lr_discriminators: Annotated[Positive, OVERRIDE] = Field(
        default=1e-3, description="highest learning rate of MDAT's discriminators; ours"
    )
    weight_decay: Annotated[NonNegative, OVERRIDE] = Field(
        default=1e-4, description="of all weights but those of norms and biases; ours"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1), OVERRIDE] = Field(
        default=1.0,
        description="factor on the backbone's rate per block between a layer and the last one; BEiT (arXiv 2106.08254)",
    )
    freeze: Annotated[list[PartName], FIXED] = Field(
        default=[],
        description="parts of the network that do not learn and stay in evaluation mode: paths of modules or "
        "parameters as model.safetensors has them (`backbone`, `decoder.*.weight`)",
    )
    parameters: Annotated[list[ParameterRule], OVERRIDE] = Field(
        default=[], description="rates of their own for parts; the last rule that names a parameter decides"
    )
    momentum: Annotated[float, Field(ge=0, lt=1), OVERRIDE] = Field(default=0.9, description="sgd only")
    schedule: Annotated[Schedule, OVERRIDE] = Field(
        default="poly", description="fall of the rates after the warm-up; poly: (1 - q)^0.9 (DeepLab, arXiv 1606.00915)"
    )
    warmup: Annotated[Probability, OVERRIDE] = Field(
        default=0.03, description="share of training with linearly rising rate"
    )
    clip_norm: Annotated[NonNegative, OVERRIDE] = Field(default=5.0, description="global gradient norm; 0: no clipping")
    max_skipped_in_a_row: Annotated[Count, FREE] = Field(
        default=5, description="steps without a finite loss and gradient that are skipped before the run stops; ours"
    )

    def frozen_patterns(self, backbone_parts: Iterable[str]) -> list[str]:
        """`freeze`, and the paths of what learns with the backbone's rate where that is 0."""
        return [*self.freeze, *(backbone_parts if self.lr_backbone == 0 else [])]
