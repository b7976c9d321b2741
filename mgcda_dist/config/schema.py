"""The configuration, typed and strict: one class per section, each field with its unit and its default's source.

This file knows no torch and no other part of the package; `build.py` turns it into objects. "ours" marks a default that
neither the paper nor another source gives and that was chosen here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

__all__ = [
    "CLASS_SPACES",
    "AugmentConfig",
    "BestConfig",
    "CaclConfig",
    "CheckpointConfig",
    "ClassSpaceConfig",
    "Config",
    "DataConfig",
    "DomainConfig",
    "ElasticConfig",
    "EngineConfig",
    "EvaluationConfig",
    "EvaluationSetConfig",
    "MdatConfig",
    "ModelConfig",
    "OptimConfig",
    "PasteConfig",
    "ScalingConfig",
    "SegmentationLossConfig",
    "SmoothingConfig",
    "StageConfig",
    "TapsConfig",
    "TrackingConfig",
]

CLASS_SPACES: dict[str, tuple[str, ...]] = {
    "road8": ("road", "pavement", "building", "vegetation", "sky", "vehicle", "person", "pole_sign"),
    "idd7": ("drivable", "non_drivable", "living_thing", "vehicle", "roadside_object", "far_object", "sky"),
    "cityscapes19": (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic_light", "traffic_sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
}  # fmt: skip
"""Names of the inlier classes of each class space; the position is the train id."""

BACKBONE_STAGES = ("stride4", "stride8", "stride16", "stride32", "embedding")
"""Stages that a timm backbone with the light decoder may have."""

ROAD_NAMES = ("road", "drivable", "drivable_area")
"""Classes that objects stand on unless the class space says otherwise."""

NO_CLASS = ("normal", "anomaly", "void")
"""What a pixel can be besides a class: evaluated as normal and never trained; anomaly; neither trained nor judged."""

PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+(?=@)")
"""User and password in a URL."""

StageName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Triple = tuple[float, float, float]
KnownClassSpace = Literal["road8", "idd7", "cityscapes19"]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, a value never changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class PasteConfig(Section):
    """AnomalyMix: objects pasted while streaming, labelled as anomaly (PEBAL, arXiv 2111.12264, section 3)."""

    objects: str = Field(description="folder of object shards (kind `objects`)")
    probability: Probability = Field(default=1.0, description="share of images that get objects; ours")
    include: list[str] = Field(default=[], description="categories of objects to paste; empty: all")
    exclude: list[str] = Field(default=[], description="categories of objects never to paste")
    min_objects: Count = 1
    max_objects: Count = Field(default=2, description="objects per image, drawn from min_objects … max_objects; ours")
    scale: tuple[Positive, Positive] = Field(
        default=(0.08, 0.6), description="longer side of an object as a share of the crop's shorter side; ours"
    )
    flip: Probability = Field(default=0.5, description="chance of a horizontal flip")
    colour_match: Probability = Field(
        default=0.5, description="chance that an object takes the scene's brightness; ours"
    )
    border: Literal["hard", "feather", "poisson"] = Field(
        default="feather",
        description="hard: as cut; feather: fades over feather_px; poisson: and has the scene's colours at its outline",
    )
    feather_px: NonNegative = Field(default=1.0, description="width of the faded border, pixels; ours")
    placement: Literal["anywhere", "road"] = Field(default="anywhere", description="where the object's foot may stand")


class DomainConfig(Section):
    """One domain: a set of shards that contributes a fixed number of images to every global batch."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    shards: str = Field(description="folder of frame shards, with its manifest")
    per_step: Count = Field(description="images of this domain in every global batch")
    labelled: bool = Field(
        default=True, description="false: all labels read as void, so only MDAT (and optionally CACL) learn"
    )
    paste: PasteConfig | None = Field(default=None, description="objects to paste; null: none")


class AugmentConfig(Section):
    """Random geometry and colour, keyed by (seed, step, slot)."""

    scale: tuple[Positive, Positive] = Field(
        default=(0.5, 2.0), description="resize factor before cropping; DeepLab practice"
    )
    reference_height_px: Count | None = Field(
        default=None, description="every frame is first brought to this height; null: as is"
    )
    flip: Probability = 0.5
    brightness: NonNegative = Field(default=0.3, description="± share, as torchvision ColorJitter")
    contrast: NonNegative = 0.3
    saturation: NonNegative = 0.3
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    blur: Probability = Field(default=0.1, description="chance of a Gaussian blur, σ 0.3 … 1.5 px; ours")


class ClassSpaceConfig(Section):
    """Classes of one's own: their names, and where each comes from.

    Wherever a class is named, `normal`, `anomaly` and `void` may stand, too.
    """

    names: Annotated[list[str], Field(min_length=1, max_length=253)] = Field(
        description="the classes; the position is the train id"
    )
    based_on: KnownClassSpace | None = Field(
        default=None, description="a known class space, whose label formats can then all be read"
    )
    map: dict[str, str] = Field(
        default={}, description="class of `based_on` → class here; one that has its name here needs no entry"
    )
    ids: dict[str, dict[Annotated[int, Field(ge=0, le=255)], str]] = Field(
        default={},
        description="label format → raw id → class here; before `based_on`. An id that is not listed is unknown",
    )
    road: list[str] = Field(
        default=[], description="classes that objects stand on; empty: those called road or drivable"
    )


def _kind_of_class_space(value: Any) -> str:
    return "own" if isinstance(value, (dict, ClassSpaceConfig)) else "known"


class DataConfig(Section):
    """What is streamed and how."""

    class_space: Annotated[
        Annotated[KnownClassSpace, Tag("known")] | Annotated[ClassSpaceConfig, Tag("own")],
        Discriminator(_kind_of_class_space),
    ] = Field(description="a known class space, or classes of one's own")
    crop_px: tuple[Count, Count] = Field(description="height, width of the training crop, pixels")
    domains: Annotated[list[DomainConfig], Field(min_length=1)]
    augment: AugmentConfig = AugmentConfig()
    window_shards: Count = Field(default=8, description="shards that are shuffled together, sample by sample")
    loader_workers: Annotated[int, Field(ge=0)] = Field(
        default=1, description="loader processes per rank; 0: in the trainer"
    )
    prefetch_steps: Count = Field(default=4, description="batches a loader process prepares ahead")
    loader_timeout_s: Positive = Field(
        default=120.0, description="longest wait for a batch before the loader process is reported as stuck, seconds"
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        default="error",
        description="a damaged image or label ends the run, or another sample of its domain stands in for it: counted, "
        "logged, and the same one at every number of workers",
    )
    max_bad_samples: Count = Field(default=100, description="`skip` ends the run when more were met, over all epochs")
    pin_memory: bool = Field(default=False, description="page-locked host memory; for GPUs")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Inlier class names in train-id order."""
        return CLASS_SPACES[self.class_space] if isinstance(self.class_space, str) else tuple(self.class_space.names)

    @property
    def road_classes(self) -> tuple[str, ...]:
        """The classes that objects stand on."""
        given = [] if isinstance(self.class_space, str) else self.class_space.road
        return tuple(given) or tuple(name for name in self.class_names if name in ROAD_NAMES)

    @property
    def global_batch(self) -> int:
        """Images per step over all ranks and domains."""
        return sum(domain.per_step for domain in self.domains)


class StageConfig(Section):
    """A network stage that gets a discriminator."""

    name: StageName = Field(description="stride4 … stride32: of the backbone; a name of model.taps.stages; embedding")
    weight: NonNegative = 1.0


class SmoothingConfig(Section):
    """Dynamic label smoothing of the discriminator's target (method: MDAT)."""

    mode: Literal["constant", "annealed", "adaptive_sample", "adaptive_stage"] = "adaptive_stage"
    epsilon: Probability = Field(
        default=0.2, description="constant: ε; annealed and adaptive_stage: ε_max; adaptive_sample: α. ours"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.95, description="of the running accuracy A_s; ours")


class MdatConfig(Section):
    """Scene level: multi-source domain adversarial training."""

    enabled: bool = True
    weight: NonNegative = Field(default=0.5, description="α of the total loss; ours")
    warmup: Probability = Field(default=0.0, description="share of training over which α rises linearly")
    lambda_max: NonNegative = Field(default=0.1, description="ceiling of λ(p); DANN (arXiv 1409.7495) uses 1; ours")
    stages: Annotated[list[StageConfig], Field(min_length=1)] = [
        StageConfig(name="stride16"),
        StageConfig(name="embedding"),
    ]
    channels: Count = Field(default=64, description="width of a discriminator; ours")
    smoothing: SmoothingConfig = SmoothingConfig()
    mask_anomalies: bool = Field(
        default=True, description="pasted anomalies and void pixels do not reach the discriminators"
    )


class CaclConfig(Section):
    """Sample level: cross-domain anomaly-aware contrastive learning."""

    enabled: bool = True
    weight: NonNegative = Field(default=0.1, description="β of the total loss; ours")
    warmup: Probability = Field(default=0.1, description="share of training over which β rises linearly; ours")
    temperature: Positive = Field(default=0.1, description="T; supervised contrastive learning (arXiv 2004.11362)")
    projection_dim: Count = Field(default=128, description="K; MoCo (arXiv 1911.05722)")
    anomaly_pixels: Count = Field(default=32, description="anomaly pixels sampled per image; ours")
    inlier_pixels: Count = Field(default=8, description="pixels sampled per inlier class and image; ours")
    hard_fraction: Probability = Field(default=0.5, description="share drawn from the hardest; ours")
    image_aware: bool = Field(default=True, description="harder images get a larger share of the step's budget")
    num_positives: Count = Field(default=32, description="positives per anchor, other domains first; ours")
    num_negatives: Count = Field(default=512, description="negatives per anchor; ours")
    hard_negative_fraction: Probability = Field(
        default=0.5, description="share of the negatives that are the most difficult; the rest is random. ours"
    )
    cross_domain: bool = Field(default=True, description="false: positives from the same domain first (ablation)")
    queue_rows: Annotated[int, Field(ge=0)] = Field(
        default=256, description="memory rows per (domain, side) ring; 0: no memory"
    )
    queue_layout: Literal["replicated", "sharded"] = Field(
        default="replicated",
        description="every rank holds all rows, or a W-th of them; same loss. Sharded pays from some 100 MB of rows on",
    )
    unlabelled_confidence: Probability | None = Field(
        default=None,
        description="pixels of unlabelled images whose top probability exceeds this count as inliers; null: none",
    )


class SegmentationLossConfig(Section):
    """Cross-entropy and the outlier exposure term."""

    enabled: bool = Field(default=True, description="false: L_seg is measured and not trained (ablation)")
    outlier: Literal["energy_hinge", "entropy", "abstention", "rba_hinge", "none"] = Field(
        default="energy_hinge",
        description="abstention (PEBAL): one logit more; the term takes the place of cross-entropy",
    )
    outlier_weight: NonNegative = Field(
        default=0.1, description="weight of the outlier term; energy: arXiv 2010.03759 uses 0.1"
    )
    inlier_energy: float = Field(default=-8.0, description="m_in of energy_hinge; ours")
    outlier_energy: float = Field(default=-3.0, description="m_out of energy_hinge; ours")
    inlier_rba: float = Field(default=-0.9, description="s_in of rba_hinge, in (-C, 0]; 0: anomalies only; ours")
    outlier_rba: float = Field(default=-0.1, description="s_out of rba_hinge, in (-C, 0); ours")


class TapsConfig(Section):
    """Layers of a network by path, as in `named_modules`; `path[3]`, `path[name]`: an entry of what the layer outputs.

    For `model.network`; null: as the network's own file says.
    """

    stages: dict[StageName, str] | None = Field(default=None, description="stage name → path, for mdat.stages")
    logits: str | None = Field(default=None, description="path of the inlier logits, best before any upsampling")
    embedding: str | None = Field(default=None, description="path of what is contrasted; null: what `logits` is given")
    backbone: str | None = Field(default=None, description="path of what learns with optim.lr_backbone")
    mean: Triple | None = Field(
        default=None, description="of RGB, in units of 0…1; null: the network's own, or ImageNet"
    )
    std: Triple | None = Field(
        default=None, description="of RGB, in units of 0…1; null: the network's own, or ImageNet"
    )
    multiple_px: Count | None = Field(default=None, description="images are padded to multiples of it; null: 32")


class ModelConfig(Section):
    """Any timm backbone with a light decoder, or a whole network of another library or of one's own."""

    backbone: str | None = Field(default=None, description="timm model name; null: see `network`")
    network: (
        Annotated[str, Field(pattern=r"^((torchvision|smp|transformers):[A-Za-z0-9_]+|python:[\w.]+:\w+)$")] | None
    ) = Field(
        default=None,
        description="torchvision:NAME, smp:NAME, transformers:NAME, or python:MODULE:FUNCTION: "
        "that module is imported, and FUNCTION(num_classes=C, **arguments) called",
    )
    arguments: dict[str, Any] = Field(default={}, description="of the network's constructor")
    taps: TapsConfig | None = None
    weights: Annotated[str, Field(pattern=r"^(none|hub|file:.+|package:.+)$")] = Field(
        default="none",
        description="`none`, `hub` (timm), `file:PATH` (safetensors or state dict), `package:NAME` (installed)",
    )
    norm: Literal["frozen", "sync", "group", "local"] = Field(
        default="frozen",
        description="batch norm of the backbone; `local` breaks world-size invariance and must be asked for",
    )
    head_norm: Literal["frozen", "sync", "group", "local"] | None = Field(
        default=None,
        description="batch norm of `network` outside of its backbone; null: as `norm`. `group` suits an untrained head",
    )
    decoder_channels: Count = Field(default=96, description="D of the decoder that a backbone gets; ours")
    score: Literal["msp", "max_logit", "entropy", "energy", "rba", "rba_mask"] = Field(
        default="energy", description="anomaly score"
    )
    compile: bool = Field(default=False, description="torch.compile of the segmenter")

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
        foreign = {"arguments": self.arguments, "taps": self.taps, "head_norm": self.head_norm}
        for name, value in foreign.items():
            if self.network is None and value:
                raise ValueError(f"{name}: is for `network`; a backbone takes none")
        if self.compile and self.network:
            raise ValueError("compile: layers of a network are tapped by hooks, which torch.compile does not follow")
        return self


class OptimConfig(Section):
    """AdamW (or SGD), one learning rate per group, one schedule."""

    steps: Count
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr_backbone: Positive = 1e-4
    lr_heads: Positive = 1e-3
    lr_discriminators: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="sgd only")
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    warmup: Probability = Field(default=0.03, description="share of training with linearly rising rate")
    clip_norm: NonNegative = Field(default=5.0, description="global gradient norm; 0: no clipping")
    max_skipped_in_a_row: Count = Field(
        default=5, description="steps without a finite loss and gradient that are skipped before the run stops; ours"
    )


class EngineConfig(Section):
    """DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulation: Count = Field(
        default=1, description="micro-batches per step; each contrasts within itself and the memory"
    )


class ElasticConfig(Section):
    """Fewest and most workers of a run that goes on with the nodes there are; stands before `scaling.workers`."""

    min: Count
    max: Count
    every_s: Positive = Field(
        default=60, description="how often to look whether more workers find a place; Ray Train's"
    )

    def numbers(self, global_batch: int, accumulation: int) -> tuple[int, ...]:
        """The numbers of workers from `min` to `max` that share the global batch evenly, ascending."""
        return tuple(n for n in range(self.min, self.max + 1) if global_batch % (n * accumulation) == 0)


def _number_or_auto(least: int) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"neither a whole number from {least} on nor `auto`")
        return value

    return BeforeValidator(check)


class ScalingConfig(Section):
    """Ray Train workers. What is `auto` becomes a number when the cluster is known: `training.scaling`."""

    workers: Annotated[int | Literal["auto"], _number_or_auto(1)] = Field(
        default=1, description="auto: as many as find a place and can share the global batch"
    )
    gpus_per_worker: Annotated[int | Literal["auto"], _number_or_auto(0)] = Field(
        default=0, description="auto: 1 where the cluster has GPUs, else 0"
    )
    cpus_per_worker: Positive = Field(default=1, description="also the threads of a worker: torch takes no more")
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        default="PACK", description="workers on few nodes or on many; STRICT_: on one node, or one worker a node"
    )
    elastic: ElasticConfig | None = Field(
        default=None, description="go on with fewer workers when a node is lost, with more when one joins; null: never"
    )
    interface: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@-]+$")] | None = Field(
        default=None, description="network interface of gloo and NCCL; null: the one that has the node's Ray address"
    )
    max_failures: Annotated[int, Field(ge=-1)] = Field(
        default=3, description="restarts of the worker group without a new checkpoint between them; -1: no bound"
    )
    hang_timeout_s: Positive = Field(
        default=300,
        description="a worker that does not answer, or does not move in a step, for so long is killed and the group "
        "starts again; more than the slowest step and checkpoint take",
    )
    node_wait_s: Positive = Field(
        default=300, description="how long to wait for nodes that were lost, before the run ends with exit code 4"
    )

    @property
    def num_workers(self) -> int:
        """`workers` as a number."""
        assert self.workers != "auto", "resolved before anything asks"
        return self.workers

    @property
    def num_gpus(self) -> int:
        """`gpus_per_worker` as a number."""
        assert self.gpus_per_worker != "auto", "resolved before anything asks"
        return self.gpus_per_worker


class EvaluationSetConfig(Section):
    """One evaluation set."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    shards: str
    paste: PasteConfig | None = Field(default=None, description="paste held-out objects, the same ones every time")
    max_frames: Count | None = Field(default=None, description="first frames only; null: all")


class BestConfig(Section):
    """The validation that every checkpoint is measured by, and that chooses the best one."""

    set: EvaluationSetConfig = Field(description="frames that are neither trained on nor of a test split")
    metric: Literal["ap", "auroc", "fpr95", "miou"] = Field(
        default="ap", description="pooled over pixels; of fpr95 the lowest is the best, of the others the highest"
    )


class CheckpointConfig(Section):
    """When to write checkpoints, and which stay."""

    every_steps: Count = 200
    keep: Count = Field(default=2, description="of the newest; the best one stays besides")
    asynchronous: bool = Field(default=True, description="write while training goes on, from a copy in host memory")
    best: BestConfig | None = Field(
        default=None, description="keep the best checkpoint, and take its network as the run's; null: the last"
    )
    resume: Literal["auto", "never", "must"] = Field(
        default="auto", description="what to do when the run folder has a checkpoint"
    )


class TrackingConfig(Section):
    """MLflow, and what is logged how often."""

    mlflow_uri: str | None = Field(default=None, description="null: sqlite in the runs folder; `none`: jsonl only")
    experiment: str = "mgcda"
    parent_run: str | None = Field(default=None, description="MLflow run to appear under; `mgcda sweep` sets it")
    register_model: Annotated[str, Field(pattern=r"^[^/:]+$")] | None = Field(
        default=None, description="registered model of MLflow that gets the trained network as its next version"
    )
    log_every_steps: Count = 10
    system_metrics: bool = True
    report: bool = Field(default=True, description="write report.html at the end, and log it under report/")
    preview_frames: Annotated[int, Field(ge=0)] = Field(
        default=3, description="frames of the first evaluation set that are drawn at every checkpoint; 0: none"
    )
    alignment_steps: Annotated[int, Field(ge=0)] = Field(
        default=3, description="global batches whose pixels are drawn in the picture of the domain gap; 0: no picture"
    )


class EvaluationConfig(Section):
    """What is evaluated at the end of training and by `mgcda evaluate`."""

    sets: list[EvaluationSetConfig] = []
    height_px: Count | None = Field(
        default=None, description="frames are resized to this height for the network; null: as is"
    )
    blur: bool = Field(default=False, description="7×7, σ = 1 blur of the score map; recorded with the numbers")
    scales: Annotated[list[Positive], Field(min_length=1)] = Field(
        default=[1.0], description="factors on the network's input size; logits are averaged over them"
    )
    flip: bool = Field(default=False, description="average logits over the frame and its mirror image, too")
    window_px: tuple[Count, Count] | None = Field(
        default=None, description="height, width of a sliding window for frames larger than memory; null: whole frames"
    )
    window_overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.25, description="share of a window that its neighbour covers too, at least; ours"
    )
    conventions: Annotated[
        list[Literal["pooled", "pooled_nearest", "per_image", "smiyc", "skip_empty"]], Field(min_length=1)
    ] = Field(default=["pooled"], description="how frames are pooled; the first is the one that tables show")
    components: Literal["none", "anomaly", "obstacle"] = Field(
        default="none", description="component metrics of SMIYC with the sizes of this track; reads every frame twice"
    )
    instances: bool = Field(default=False, description="instance AP of OoDIS; reads every frame twice")
    threshold: float | None = Field(
        default=None, description="score that separates anomalies for components; null: best F1 on the same set"
    )
    panel_frames: Annotated[int, Field(ge=0)] = Field(default=6, description="frames shown in the panel of pictures")
    kept_frames: Annotated[int, Field(ge=0)] = Field(
        default=4, description="pictures of this many worst and as many best frames are kept per set"
    )


class Config(Section):
    """One training run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="stable name: same name, same run"
    )
    seed: int = 0
    runs: str = Field(default="runs", description="folder that receives runs/NAME and the MLflow database")
    data: DataConfig
    model: ModelConfig
    loss: SegmentationLossConfig = SegmentationLossConfig()
    mdat: MdatConfig = MdatConfig()
    cacl: CaclConfig = CaclConfig()
    optim: OptimConfig
    engine: EngineConfig = EngineConfig()
    scaling: ScalingConfig = ScalingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def smoothing_cap(self) -> float:
        """Largest ε at which the discriminator still gets a signal: half of (M-1)/M."""
        num_domains = len(self.data.domains)
        return 0.5 * (num_domains - 1) / num_domains

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if isinstance(self.data.class_space, ClassSpaceConfig):
            _check_class_space(self.data.class_space)
        names = [domain.name for domain in self.data.domains]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"data.domains: two domains are named {name!r}")
        for i, domain in enumerate(self.data.domains):
            if domain.paste and not domain.labelled:
                raise ValueError(
                    f"data.domains.{i}.paste: objects on a domain that is not labelled would be the only thing with a "
                    "label; set labelled: true, or paste: null"
                )
        sets = [entry.name for entry in self.evaluation.sets]
        for name in sets:
            if sets.count(name) > 1:
                raise ValueError(f"evaluation.sets: two sets are named {name!r}")
        self._check_pastes()
        self._check_shares()
        _refuse_passwords(self.model_dump())
        if self.mdat.enabled and len(names) < 2:
            raise ValueError(
                "mdat.enabled: domain adversarial training needs at least two domains; set mdat.enabled=false"
            )
        if self.mdat.enabled and self.mdat.smoothing.epsilon > self.smoothing_cap:
            if self.mdat.smoothing.mode != "adaptive_sample":
                raise ValueError(
                    f"mdat.smoothing.epsilon: {self.mdat.smoothing.epsilon} is over the cap {self.smoothing_cap:.3f} "
                    f"(half of (M-1)/M with M = {len(names)} domains): at the uniform label the discriminator "
                    "learns nothing"
                )
        if not any(domain.labelled for domain in self.data.domains):
            raise ValueError(
                "data.domains: no domain is labelled, so the segmentation loss would have nothing to learn"
            )
        if self.cacl.queue_layout == "sharded" and self.cacl.temperature < 0.025:
            raise ValueError(
                f"cacl.temperature: {self.cacl.temperature} is under 0.025, where the sums over ranks of the sharded "
                "memory (e^{-2/T}) leave single precision; raise it, or set cacl.queue_layout=replicated"
            )
        stages = [stage.name for stage in self.mdat.stages]
        for i, stage in enumerate(stages):
            if self.model.backbone is not None and stage not in BACKBONE_STAGES:
                raise ValueError(
                    f"mdat.stages.{i}.name: no stage {stage!r} in a backbone; it has some of "
                    f"{', '.join(BACKBONE_STAGES)}"
                )
            if stages.count(stage) > 1:
                raise ValueError(f"mdat.stages: stage {stage!r} is listed twice")
        return self

    def _check_shares(self) -> None:
        """Global batch = workers × images × accumulation: say what would fit where it does not."""
        elastic, accumulation, batch = self.scaling.elastic, self.engine.accumulation, self.data.global_batch
        if elastic is not None and elastic.min > elastic.max:
            raise ValueError(f"scaling.elastic: min {elastic.min} is over max {elastic.max}")
        if elastic is not None and not elastic.numbers(batch, accumulation):
            fitting = [str(n) for n in range(1, batch + 1) if batch % (n * accumulation) == 0]
            raise ValueError(
                f"scaling.elastic: no number of workers from {elastic.min} to {elastic.max} shares {batch} images × "
                f"{accumulation} micro-batches evenly; {', '.join(fitting) or 'none at all'} would"
            )
        workers = 1 if self.scaling.workers == "auto" else self.scaling.workers
        shares = workers * accumulation
        if batch % shares == 0:
            return
        fitting = [n for n in range(1, batch + 1) if batch % (n * accumulation) == 0]
        below, above = (
            max((n for n in fitting if n < workers), default=0),
            next((n for n in fitting if n > workers), 0),
        )
        remedies = [f"scaling.workers={' or '.join(str(n) for n in (below, above) if n)}"] if fitting else []
        if batch % workers == 0:
            parts = batch // workers
            near = min((n for n in range(1, parts + 1) if parts % n == 0), key=lambda n: (abs(n - accumulation), n))
            remedies.append(f"engine.accumulation={near}")
        sums = dict.fromkeys((batch - batch % shares or shares, batch + shares - batch % shares))
        remedies.append(f"per_step values that add up to {' or '.join(map(str, sums))}")
        per_domain = " + ".join(f"{domain.name} {domain.per_step}" for domain in self.data.domains)
        raise ValueError(
            f"data.domains: {batch} images per step ({per_domain}) cannot be shared by {workers} workers × "
            f"{accumulation} micro-batches; choose {', or '.join(remedies)}"
        )

    def _check_pastes(self) -> None:
        ranges = {"data.augment.scale": self.data.augment.scale}
        for key, entries in (("data.domains", self.data.domains), ("evaluation.sets", self.evaluation.sets)):
            for i, entry in enumerate(entries):
                if entry.paste is None:
                    continue
                ranges[f"{key}.{i}.paste.scale"] = entry.paste.scale
                if entry.paste.min_objects > entry.paste.max_objects:
                    raise ValueError(
                        f"{key}.{i}.paste.min_objects: {entry.paste.min_objects} is over max_objects, "
                        f"{entry.paste.max_objects}"
                    )
                if entry.paste.placement == "road" and not self.data.road_classes:
                    raise ValueError(
                        f"{key}.{i}.paste.placement: no class is called {', '.join(ROAD_NAMES)}; name the classes that "
                        "objects stand on in data.class_space.road"
                    )
        for key, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"{key}: {low} is over {high}; the smaller one comes first")


def _refuse_passwords(value: Any, key: str = "") -> None:
    """Raise ValueError for a URL with a password: a configuration is written to the run's folder and to MLflow."""
    if isinstance(value, dict):
        for name, below in value.items():  # pyright: ignore[reportUnknownVariableType]
            _refuse_passwords(below, f"{key}.{name}" if key else str(name))  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list | tuple):
        for index, below in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            _refuse_passwords(below, f"{key}.{index}")
    elif isinstance(value, str) and PASSWORD.search(value):
        raise ValueError(
            f"{key}: the address holds a password, which would be written down with the configuration; set it in the "
            "environment of the nodes: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD, "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def _check_class_space(space: ClassSpaceConfig) -> None:
    """Raise ValueError, naming the field, unless every class has a source and every source a class."""
    where = "data.class_space"
    doubtful = [name for name in space.names if space.names.count(name) > 1 or name in NO_CLASS]
    if doubtful:
        raise ValueError(f"{where}.names: {doubtful[0]!r} is there twice, or one of {', '.join(NO_CLASS)}")
    allowed = f"one of {', '.join((*space.names, *NO_CLASS))}"
    targets = {f"map.{source}": name for source, name in space.map.items()}
    targets |= {f"ids.{form}.{raw}": name for form, table in space.ids.items() for raw, name in table.items()}
    for key, name in targets.items():
        if name not in space.names and name not in NO_CLASS:
            raise ValueError(f"{where}.{key}: no class {name!r}; give {allowed}")
    for name in space.road:
        if name not in space.names:
            raise ValueError(f"{where}.road: no class {name!r}; give some of {', '.join(space.names)}")
    known = CLASS_SPACES[space.based_on] if space.based_on else ()
    for source in space.map:
        if source not in known:
            choice = f"{space.based_on} has {', '.join(known)}" if known else "map needs based_on: a known class space"
            raise ValueError(f"{where}.map.{source}: no class to map; {choice}")
    left_out = [name for name in known if name not in space.map and name not in space.names]
    if left_out:
        raise ValueError(
            f"{where}.map: {space.based_on}'s classes {', '.join(left_out)} are neither mapped nor in names; "
            f"map each to {allowed}"
        )
    reached = {*targets.values(), *(name for name in known if name not in space.map)}
    empty = [name for name in space.names if name not in reached]
    if empty:
        raise ValueError(
            f"{where}.names: nothing is mapped to {', '.join(empty)}; complete map or ids, or leave the class out"
        )
