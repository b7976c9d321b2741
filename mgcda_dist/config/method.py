"""Sections of the method: terms of the loss, network, optimizer."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from mgcda_dist.choices import (
    DECODER_CHANNELS,
    OUTLIER_LOSSES,
    SCORE,
    SCORES,
    SMOOTHING_MODES,
    Balance,
    CaclDefaults,
    Condition,
    Contrast,
    Exported,
    FeatureTarget,
    GatherDtype,
    LossDefaults,
    MaskWidth,
    MdatDefaults,
    Negatives,
    NegativesBy,
    NormMode,
    OptimizerKind,
    OutlierKind,
    Positives,
    QueueLayout,
    Schedule,
    ScoreKind,
    SmoothingMode,
    TeacherDefaults,
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
from mgcda_dist.references import PATTERN, PREFIX

__all__ = [
    "BACKBONE_STAGES",
    "CaclConfig",
    "MdatConfig",
    "ModelConfig",
    "OptimConfig",
    "SegmentationLossConfig",
    "SmoothingConfig",
    "StageConfig",
    "TapsConfig",
    "TeacherConfig",
]

_LIMITS = {name: value for loss in OUTLIER_LOSSES.values() for name, value in loss.limits.items()}

_COUNT_OR_NULL: Any = {"type": ["integer", "null"], "minimum": 1}
BACKBONE_STAGES = ("stride4", "stride8", "stride16", "stride32", "embedding")
"""Stages that a timm backbone with the light decoder may have."""


class StageConfig(Section):
    """A network stage that gets a discriminator."""

    name: Annotated[StageName, FIXED] = Field(
        description="stride4 … stride32: of the backbone; a name of model.taps.stages; embedding"
    )
    weight: Annotated[NonNegative, OVERRIDE] = Field(default=1.0, description="w_s of L_mdat; ours")


class SmoothingConfig(Section):
    """Dynamic label smoothing of the discriminator's target (method: MDAT)."""

    mode: SmoothingMode = Field(default=MdatDefaults.smoothing, description="how ε of a label is found; ours")
    epsilon: Probability = Field(
        default=MdatDefaults.epsilon,
        description=", ".join(f"{mode}: {entry.parameter}" for mode, entry in SMOOTHING_MODES.items()) + "; ours",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=MdatDefaults.momentum, description="of the running accuracy A_s; ours"
    )


class MdatConfig(Section):
    """Scene level: multi-source domain adversarial training."""

    enabled: Annotated[bool, FIXED] = Field(
        default=True, description="scene-level alignment, L_mdat; false: the network is trained without it"
    )
    weight: Annotated[NonNegative, OVERRIDE] = Field(
        default=MdatDefaults.weight, description="α of the total loss; ours"
    )
    warmup: Annotated[Probability, OVERRIDE] = Field(
        default=MdatDefaults.warmup, description="share of training over which α rises linearly"
    )
    lambda_max: Annotated[NonNegative, OVERRIDE] = Field(
        default=MdatDefaults.lambda_max, description="ceiling of λ(p); DANN (arXiv 1409.7495) uses 1; ours"
    )
    stages: Annotated[list[StageConfig], Field(min_length=1)] = Field(
        default=[StageConfig(name="stride16"), StageConfig(name="embedding")]
    )
    channels: Annotated[Count, FIXED] = Field(
        default=MdatDefaults.channels, description="width of a discriminator; ours"
    )
    smoothing: Annotated[SmoothingConfig, OVERRIDE] = SmoothingConfig()
    target: Annotated[FeatureTarget, OVERRIDE] = Field(
        default=MdatDefaults.target,
        description="what the features are trained towards: `smoothed`, as the discriminator and reversed; `hard`, the "
        "own domain, reversed (DANN); `uniform`, 1/M (domain confusion)",
    )
    condition: Annotated[Condition, FIXED] = Field(
        default=MdatDefaults.condition,
        description="`class`: a discriminator has one output per domain and class (FADA, arXiv 2007.09222); `outer`: "
        "it sees features ⊗ class probabilities (CDAN, arXiv 1705.10667)",
    )
    certainty: Annotated[bool, OVERRIDE] = Field(
        default=MdatDefaults.certainty, description="locations weigh (1 + e^{-H}) / 2, H of the prediction (CDAN+E)"
    )
    mask_anomalies: Annotated[bool, OVERRIDE] = Field(
        default=MdatDefaults.mask_anomalies,
        description="pasted anomalies and void pixels do not reach the discriminators",
    )
    mask_width: Annotated[MaskWidth, FIXED] = Field(
        default=MdatDefaults.mask_width,
        description="`receptive_field`: neither do locations that see an anomaly around them; measured at the start",
    )


class CaclConfig(Section):
    """Sample level: cross-domain anomaly-aware contrastive learning."""

    enabled: Annotated[bool, FIXED] = Field(
        default=True, description="sample-level contrast, L_cacl; false: the network is trained without it"
    )
    weight: Annotated[NonNegative, OVERRIDE] = Field(
        default=CaclDefaults.weight, description="β of the total loss; ours"
    )
    warmup: Annotated[Probability, OVERRIDE] = Field(
        default=CaclDefaults.warmup, description="share of training over which β rises linearly; ours"
    )
    temperature: Annotated[Positive, OVERRIDE] = Field(
        default=CaclDefaults.temperature, description="T; supervised contrastive learning (arXiv 2004.11362)"
    )
    projection_dim: Annotated[Count, FIXED] = Field(
        default=CaclDefaults.projection_dim, description="K; MoCo (arXiv 1911.05722)"
    )
    anomaly_pixels: Annotated[Count, OVERRIDE] = Field(
        default=CaclDefaults.anomaly_pixels, description="anomaly pixels sampled per image; ours"
    )
    inlier_pixels: Annotated[Count, OVERRIDE] = Field(
        default=CaclDefaults.inlier_pixels, description="pixels sampled per inlier class and image; ours"
    )
    hard_fraction: Annotated[Probability, OVERRIDE] = Field(
        default=CaclDefaults.hard_fraction, description="share drawn from the hardest; ours"
    )
    image_aware: Annotated[bool, OVERRIDE] = Field(
        default=CaclDefaults.image_aware, description="harder images of a micro-batch get more"
    )
    num_positives: Annotated[Count, OVERRIDE] = Field(
        default=CaclDefaults.num_positives, description="positives per anchor, other domains first; ours"
    )
    positives: Annotated[Positives, OVERRIDE] = Field(
        default=CaclDefaults.positives,
        description="shared: anchors of a type and domain have the same ones; per_anchor: each draws its own; ours",
    )
    balance: Annotated[Balance, OVERRIDE] = Field(
        default=CaclDefaults.balance,
        description="anchors: a mean over all; sides: over those of each side of anomaly/inlier, then over sides; ours",
    )
    num_negatives: Annotated[Count, OVERRIDE] = Field(
        default=CaclDefaults.num_negatives, description="negatives per side of anomaly/inlier; ours"
    )
    hard_negative_fraction: Annotated[Probability, OVERRIDE] = Field(
        default=CaclDefaults.hard_negative_fraction,
        description="share of the negatives that are the most difficult; the rest is random. ours",
    )
    negatives_by: Annotated[NegativesBy, OVERRIDE] = Field(
        default=CaclDefaults.negatives_by,
        description="the most difficult ones: by anomaly score, one set for all anchors; or the nearest to each anchor "
        "(semi-hard with a random share: arXiv 2101.11939)",
    )
    cross_domain: Annotated[bool, OVERRIDE] = Field(
        default=CaclDefaults.cross_domain, description="false: positives from the same domain first (ablation)"
    )
    negatives: Annotated[Negatives, OVERRIDE] = Field(
        default=CaclDefaults.negatives,
        description="what an anchor is pushed away from: the opposite side of anomaly/inlier; or all other types",
    )
    contrast: Annotated[Contrast, FIXED] = Field(
        default=CaclDefaults.contrast,
        description="rows of batch and memory; or a Gaussian per (domain, type) in their place, in closed form "
        "and without a queue: SePiCo (arXiv 2204.08808)",
    )
    distribution_momentum: Annotated[Probability, OVERRIDE] = Field(
        default=CaclDefaults.distribution_momentum,
        description="share of its weight that a distribution keeps per step; 1: all rows weigh alike (SePiCo); ours",
    )
    queue_rows: Annotated[int, Field(ge=0), FIXED] = Field(
        default=CaclDefaults.queue_rows, description="memory rows per (domain, side) ring; 0: no memory"
    )
    queue_rows_per_image: Annotated[Count | None, OVERRIDE] = Field(
        default=CaclDefaults.queue_rows_per_image,
        description="rows of each type that an image gives to the memory, drawn from those sampled; null: all. "
        "Few rows of many images make a memory of more than a step or two; ours",
    )
    queue_layout: Annotated[QueueLayout, FIXED] = Field(
        default=CaclDefaults.queue_layout,
        description="every rank holds all rows, or a W-th of them; same loss. Sharded pays from some 100 MB of rows on",
    )
    unlabelled_confidence: Annotated[Probability | None, OVERRIDE] = Field(
        default=CaclDefaults.unlabelled_confidence,
        description="pixels of unlabelled images whose top probability exceeds this count as inliers; null: none",
    )
    max_rows: Annotated[Count | None, OVERRIDE] = Field(
        default=CaclDefaults.max_rows,
        description="most rows of a global micro-batch, drawn from those sampled, the same at every number of workers; "
        "null: all. All rows of all workers cost every one of them memory and time: for hundreds of GPUs; ours",
    )
    gather_dtype: Annotated[GatherDtype, OVERRIDE] = Field(
        default=CaclDefaults.gather_dtype,
        description="bf16: rows are rounded to it, with one worker too, and travel in half the bytes",
    )

    @model_validator(mode="after")
    def _of_rows(self) -> CaclConfig:
        defaults = {
            "positives": CaclDefaults.positives,
            "negatives_by": CaclDefaults.negatives_by,
            "queue_layout": CaclDefaults.queue_layout,
        }
        for name, default in defaults.items():
            if self.contrast == "distribution" and getattr(self, name) != default:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is about rows, and `contrast: distribution` has none; leave it "
                    "out, or set contrast: rows"
                )
        return self


class TeacherConfig(Section):
    """An exponential moving average of the segmenter, which labels the unlabelled images."""

    enabled: Annotated[bool, FIXED] = Field(
        default=False, description="an average of the network that labels the unlabelled images, L_teacher"
    )
    decay: Annotated[float, Field(ge=0, lt=1), OVERRIDE] = Field(
        default=TeacherDefaults.decay,
        description="γ of the average, of step t at most 1 - 1/(t+1); Mean Teacher (arXiv 1703.01780), DAFormer",
    )
    weight: Annotated[NonNegative, OVERRIDE] = Field(
        default=TeacherDefaults.weight,
        description="of the cross-entropy to its labels; DACS (arXiv 2007.08702); 0: the average alone",
    )
    outlier_weight: Annotated[NonNegative, OVERRIDE] = Field(
        default=TeacherDefaults.outlier_weight,
        description="of the outlier loss on all that it does not find anomalous (score_quantile), beside the "
        "cross-entropy; ours",
    )
    warmup: Annotated[Probability, OVERRIDE] = Field(
        default=TeacherDefaults.warmup, description="share of training over which those weights rise linearly"
    )
    confidence: Annotated[Probability, OVERRIDE] = Field(
        default=TeacherDefaults.confidence,
        description="τ: no label where its top probability is below; an image weighs as much as its share of others: "
        "DACS, DAFormer (arXiv 2111.14887)",
    )
    score_quantile: Annotated[Probability, OVERRIDE] = Field(
        default=TeacherDefaults.score_quantile,
        description="q: no label where its anomaly score is above this quantile of the image; 1: everywhere; ours",
    )
    contrast: Annotated[bool, OVERRIDE] = Field(
        default=TeacherDefaults.contrast,
        description="pixels that it labels enter CACL under their class, in the place of cacl.unlabelled_confidence",
    )

    @property
    def is_asked(self) -> bool:
        """True where something reads what it says of unlabelled images, beside the average itself."""
        return self.enabled and (self.weight > 0 or self.contrast)


def _known_loss(name: str) -> str:
    if name not in OUTLIER_LOSSES and re.fullmatch(PATTERN, name) is None:
        raise ValueError(f"no such loss; {near_or_all(name, OUTLIER_LOSSES)}, or python:MODULE:NAME")
    return name


def _known_score(name: str) -> str:
    if name not in SCORES and re.fullmatch(PATTERN, name) is None:
        raise ValueError(f"no such score; {near_or_all(name, SCORES)}, or python:MODULE:NAME")
    return name


class SegmentationLossConfig(Section):
    """Cross-entropy and the outlier exposure term."""

    enabled: bool = Field(default=True, description="false: L_seg is measured and not trained (ablation)")
    outlier: Annotated[OutlierKind | str, AfterValidator(_known_loss), FIXED] = Field(
        default=LossDefaults.outlier,
        description="abstention (PEBAL): one logit more; the term takes the place of cross-entropy. "
        "python:MODULE:NAME: a loss of your own, an object or a class; plugin:NAME: a registered one",
    )
    arguments: dict[str, Any] = Field(default={}, description="of the class of a loss of your own")
    outlier_weight: NonNegative = Field(
        default=LossDefaults.outlier_weight,
        description="weight of the outlier term; energy: arXiv 2010.03759 uses 0.1. A loss of your own has its own",
    )
    class_weights: Annotated[dict[str, Positive] | None, AfterValidator(lambda given: given or {})] = Field(
        default={},
        description="class → factor of its pixels in the cross-entropy; a class that is not named: 1; null: none of a "
        "`base`; ours",
    )
    inlier_energy: float = Field(default=_LIMITS["inlier_energy"], description="m_in of energy_hinge; ours")
    outlier_energy: float = Field(default=_LIMITS["outlier_energy"], description="m_out of energy_hinge; ours")
    inlier_rba: float = Field(
        default=_LIMITS["inlier_rba"], description="s_in of rba_hinge, in (-C, 0]; 0: anomalies only; ours"
    )
    outlier_rba: float = Field(default=_LIMITS["outlier_rba"], description="s_out of rba_hinge, in (-C, 0); ours")

    @model_validator(mode="after")
    def _of_own(self) -> SegmentationLossConfig:
        if self.arguments and not self.outlier.startswith(PREFIX):
            raise ValueError(f"arguments: are for a loss of your own, python:MODULE:NAME; {self.outlier!r} takes none")
        return self


class TapsConfig(Section):
    """Layers of a network by path, as in `named_modules`; `path[3]`, `path[name]`: an entry of what the layer outputs.

    For `model.network`; null: as the network's own file says.
    """

    stages: dict[StageName, str] | None = Field(default=None, description="stage name → path, for mdat.stages")
    logits: str | None = Field(default=None, description="path of the inlier logits, best before any upsampling")
    embedding: str | None = Field(default=None, description="path of what is contrasted; null: what `logits` is given")
    backbone: str | None = Field(default=None, description="path of what learns with optim.lr_backbone")
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
    weights: Annotated[str, Field(pattern=r"^(none|hub|file:.+|package:.+|run:.+)$")] = Field(
        default="none",
        description="of the backbone: `none`, `hub` (timm), `file:PATH` (safetensors or state dict), `package:NAME` "
        "(installed); of the whole network: `run:PATH`, a run folder, checkpoint or exported model",
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
    export: Annotated[Exported, FREE] = Field(
        default="student",
        description="which network is validated, exported and evaluated: the trained one, or the teacher's average",
    )
    compile: Annotated[bool, FREE] = Field(default=False, description="torch.compile of the segmenter")

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
                "this `score`"
            )
        if self.weights_sha256 is not None and not self.weights.startswith(("file:", "run:")):
            raise ValueError(f"weights_sha256: is of a file: or run:, and weights is {self.weights!r}")
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

    def frozen_patterns(self, backbone: object) -> list[str]:
        """`freeze`, and the path of the backbone where it does not learn.

        Args:
            backbone: of the segmenter: the path of its pretrained part, or the part called `backbone`.
        """
        path = backbone.removeprefix("segmenter.") if isinstance(backbone, str) else "backbone"
        return [*self.freeze, *([path] if path and self.lr_backbone == 0 else [])]
