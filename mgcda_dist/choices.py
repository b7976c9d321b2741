"""Closed lists, defaults and compatibility rules, each written once: a leaf without torch that every room may read.

A `Literal` names the members of a list. Where a member has properties, a table of the same names follows. A new score,
outlier loss or smoothing mode enters here: docs/add-a-loss.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, NamedTuple, cast, get_args

from mgcda_dist.errors import ConfigError, near_or_all

__all__ = [
    "ANOMALY",
    "CLASS_SPACES",
    "CONVENTIONS",
    "DECODER_CHANNELS",
    "HEADLINE_METRICS",
    "INLIER",
    "INTERVAL_LEVEL",
    "METRICS",
    "NO_CLASS",
    "OUTLIER_LOSSES",
    "OWN_LOSS",
    "OWN_SCORE",
    "PIPE",
    "REPLICATES",
    "ROAD_NAMES",
    "SCORE",
    "SCORES",
    "SMOOTHING_MODES",
    "VOID",
    "AtLeast",
    "AugmentDefaults",
    "Border",
    "CaclDefaults",
    "ComponentTrack",
    "Convention",
    "Exif",
    "ExitCode",
    "GatherDtype",
    "HeadlineMetric",
    "KnownClassSpace",
    "LoaderDefaults",
    "LogitKind",
    "LossDefaults",
    "MdatDefaults",
    "MetricEntry",
    "Needs",
    "Negatives",
    "NormMode",
    "OnBadSample",
    "OptimizerKind",
    "OutlierEntry",
    "OutlierKind",
    "PasteDefaults",
    "Placement",
    "Precision",
    "QueueLayout",
    "Schedule",
    "ScoreEntry",
    "ScoreKind",
    "ShardKind",
    "SmoothingEntry",
    "SmoothingMode",
    "SubmissionLayout",
    "TestTimeDefaults",
    "ZeroStage",
    "outlier_entry",
    "score_entry",
    "smoothing_cap",
]

# ------------------------------------------------------------------------------------------------------------- labels

ANOMALY = 254
"""Label of an anomalous pixel."""
VOID = 255
"""Label of a pixel that is neither trained nor evaluated."""
INLIER = 253
"""Label of a normal pixel whose class is unknown: evaluated as normal, never trained, not counted in mIoU."""

NO_CLASS = {"normal": INLIER, "anomaly": ANOMALY, "void": VOID}
"""Names of the three labels that are no class, the same in every class space."""

KnownClassSpace = Literal["road8", "idd7", "cityscapes19"]
CLASS_SPACES: dict[KnownClassSpace, tuple[str, ...]] = {
    "road8": ("road", "pavement", "building", "vegetation", "sky", "vehicle", "person", "pole_sign"),
    "idd7": ("drivable", "non_drivable", "living_thing", "vehicle", "roadside_object", "far_object", "sky"),
    "cityscapes19": (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic_light", "traffic_sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
}  # fmt: skip
"""Names of the inlier classes of each class space; the position is the train id."""

ROAD_NAMES = ("road", "drivable", "drivable_area")
"""Classes that objects stand on unless the class space names others."""

# --------------------------------------------------------------------------------------------------------------- data

Exif = Literal["upright", "stored"]
"""Use of the orientation mark of a picture: it is turned as viewers do, or left as it lies in the file."""

ShardKind = Literal["frames", "objects"]
"""Content of a shard folder: scenes with labels, or cutouts with alpha."""

MANIFEST, SHARD_TABLE = "manifest.json", "shards.npy"
"""Files of a shard folder: its manifest, and the table of its shards."""

PIPE = " pipe:"
"""Stands between a folder of shards and a command that streams them: `shards/theirs pipe:gsutil cat gs://bucket/{}`."""

Border = Literal[
    "hard",  # as cut
    "feather",  # fades over feather_px
    "poisson",  # as feather, and with the scene's colours at its outline (Pérez et al., SIGGRAPH 2003)
]
Placement = Literal["anywhere", "road"]
"""Where the foot of a pasted object may stand."""


class PasteDefaults:
    """Defaults of pasting objects; the section `paste` gives the meaning and the source of each."""

    probability: Final = 1.0
    min_objects: Final = 1
    max_objects: Final = 2
    scale: Final = (0.08, 0.6)
    flip: Final = 0.5
    colour_match: Final = 0.5
    border: Final[Border] = "feather"
    feather_px: Final = 1.0
    placement: Final[Placement] = "anywhere"


class AugmentDefaults:
    """Defaults of augmentation; the section `data.augment` gives the meaning and the source of each."""

    scale: Final = (0.5, 2.0)
    reference_height_px: Final[int | None] = None
    flip: Final = 0.5
    brightness: Final = 0.3
    contrast: Final = 0.3
    saturation: Final = 0.3
    hue: Final = 0.05
    blur: Final = 0.1
    class_mix: Final = 0.0
    style: Final = 0.0
    style_band: Final = 0.01


class LoaderDefaults:
    """Defaults of the loader processes; the section `data` gives the meaning of each."""

    prefetch_steps: Final = 4
    timeout_s: Final = 120.0


OnBadSample = Literal[
    "error",  # a damaged image or label ends the run
    "skip",  # another sample of its domain stands in for it, the same one at every number of workers
]

# ------------------------------------------------------------------------------------------------------------- network

NormMode = Literal[
    "frozen",  # pretrained statistics stay
    "sync",  # statistics over all ranks
    "group",  # GroupNorm: no statistics of a batch
    "local",  # statistics of one rank's images: breaks world-size invariance
]
DECODER_CHANNELS = 96
"""Width of the light decoder that a backbone gets; ours."""

LogitKind = Literal[
    "pixel",  # logits of a per-pixel classifier
    "mask",  # logarithms of class scores that masks add up to (Mask2Former)
]


class Needs(NamedTuple):
    """A condition on what something is combined with: one of `values`, the reason, and the remedy otherwise."""

    values: tuple[str, ...]
    reason: str
    remedy: str


class AtLeast(NamedTuple):
    """A lower bound on a limit of an outlier loss, the reason, and the remedy below it."""

    limit: str
    value: float
    reason: str
    remedy: str


# ------------------------------------------------------------------------------------------------------ outlier losses

OutlierKind = Literal[
    "energy_hinge",
    "entropy",
    "abstention",
    "rba_hinge",
    "none",
]


@dataclass(frozen=True)
class OutlierEntry:
    """An outlier loss; its function has the same name in models/outlier_losses.py.

    Attributes:
        meaning: what it does, and its source.
        limits: keyword arguments of its function with their defaults; each is a field of the section `loss`.
        columns: names of what the classifier has beside the inlier classes; each is an entry of `Prediction.extra`.
        classifies: its inlier side takes the place of cross-entropy.
        any_inlier: it has a side for inliers that needs no class of them.
        logits: kinds of logits that it can be trained on; None: all.
        on_masks: bounds of its limits on logits of masks.
    """

    meaning: str
    limits: Mapping[str, float] = field(default_factory=dict[str, float])
    columns: tuple[str, ...] = ()
    classifies: bool = False
    any_inlier: bool = True
    logits: Needs | None = None
    on_masks: tuple[AtLeast, ...] = ()


OUTLIER_LOSSES: dict[OutlierKind, OutlierEntry] = {
    "energy_hinge": OutlierEntry(
        "squared hinges on the energy of inliers and anomalies (Liu et al., arXiv 2010.03759, equation 9)",
        limits={"inlier_energy": -8.0, "outlier_energy": -3.0},
        on_masks=(
            AtLeast(
                "inlier_energy",
                -1.0,  # log 1 - 1: a mask network is taught a sum of class scores of 1, one mask of one class
                "the energy of a mask network is -log of its summed class scores, about 0 where one mask claims the "
                "pixel and above where none does",
                "for example loss.inlier_energy=0.1 loss.outlier_energy=2",
            ),
        ),
    ),
    "entropy": OutlierEntry(
        "cross-entropy to the uniform distribution on anomalies (Meta-OoD: Chan et al., arXiv 2012.06575)",
        any_inlier=False,
    ),
    "abstention": OutlierEntry(
        "one logit more; the term takes the place of cross-entropy (PEBAL: Tian et al., arXiv 2111.12264)",
        columns=("abstention",),
        classifies=True,
        any_inlier=False,
        logits=Needs(
            ("pixel",),
            "needs one more logit per pixel, but this network classifies masks",
            "loss.outlier=rba_hinge suits it, or energy_hinge with limits around 0",
        ),
    ),
    "rba_hinge": OutlierEntry(
        "squared hinges on the score of RbA (Nayal et al., arXiv 2211.14293)",
        limits={"inlier_rba": -0.9, "outlier_rba": -0.1},
    ),
    "none": OutlierEntry("cross-entropy alone", any_inlier=False),
}


OWN_LOSS = OutlierEntry("a loss of the user's own: `python:MODULE:NAME`", any_inlier=False)
"""Facts that hold for every loss that the package does not have."""


def outlier_entry(kind: str) -> OutlierEntry:
    """The entry of an outlier loss, or of a loss of the user's own."""
    return OWN_LOSS if kind.startswith("python:") else OUTLIER_LOSSES[cast(OutlierKind, kind)]


class LossDefaults:
    """Defaults of L_seg; the limits of each outlier loss are in `OUTLIER_LOSSES`."""

    outlier: Final[OutlierKind] = "energy_hinge"
    outlier_weight: Final = 0.1


# -------------------------------------------------------------------------------------------------------------- scores

ScoreKind = Literal[
    "msp",
    "max_logit",
    "entropy",
    "energy",
    "rba",
    "rba_mask",
    "standardized_max_logit",
]


@dataclass(frozen=True)
class ScoreEntry:
    """An anomaly score, higher is more anomalous; its function has the same name in models/scores.py.

    Attributes:
        meaning: its formula, and its source.
        logits: kinds of logits that it is defined on; None: all.
        outlier: outlier losses that the network must have been trained with; None: any.
        calibrated: needs the class statistics that `mgcda calibrate` measures on a trained network.
    """

    meaning: str
    logits: Needs | None = None
    outlier: Needs | None = None
    calibrated: bool = False


SCORES: dict[ScoreKind, ScoreEntry] = {
    "msp": ScoreEntry("1 - max_k p_k (Hendrycks and Gimpel, arXiv 1610.02136)"),
    "max_logit": ScoreEntry("-max_k L_k (Hendrycks et al., arXiv 1911.11132)"),
    "entropy": ScoreEntry("-Σ_k p_k log p_k / log C (Meta-OoD: Chan et al., arXiv 2012.06575)"),
    "energy": ScoreEntry("-log Σ_k exp L_k (Liu et al., arXiv 2010.03759)"),
    "rba": ScoreEntry(
        "-Σ_k σ(L_k), logits of one-against-rest classifiers (Nayal et al., arXiv 2211.14293)",
        logits=Needs(
            ("pixel",),
            "reads one-against-rest logits of both signs; this network has logarithms of mask scores",
            "use 'rba_mask'",
        ),
        outlier=Needs(
            ("rba_hinge",),
            "adds up σ(L_k), but cross-entropy leaves the level of a pixel's logits free: adding a constant to all "
            "changes the score and not the loss",
            "train with loss.outlier=rba_hinge, which fixes the level, or use another score",
        ),
    ),
    "rba_mask": ScoreEntry(
        "-Σ_k tanh(exp L_k), RbA as published, for networks of masks (Nayal et al., arXiv 2211.14293)",
        logits=Needs(
            ("mask",),
            "reads class scores that masks add up to; these logits are per pixel",
            "use 'rba' with loss.outlier=rba_hinge, or another score",
        ),
    ),
    "standardized_max_logit": ScoreEntry(
        "-(max_k L_k - μ_k) / σ_k with k the predicted class (Jung et al., arXiv 2107.11264)", calibrated=True
    ),
}

OWN_SCORE = ScoreEntry("a score of the user's own: `python:MODULE:NAME`")
"""Facts that hold for every score that the package does not have."""


def score_entry(kind: str) -> ScoreEntry:
    """The entry of an anomaly score, or of a score of the user's own.

    Raises:
        ConfigError: no such score.
    """
    if kind.startswith("python:"):
        return OWN_SCORE
    if kind not in SCORES:
        raise ConfigError("score", f"no such score {kind!r}", near_or_all(kind, SCORES, own="python:MODULE:NAME"))
    return SCORES[kind]


SCORE: ScoreKind = "energy"
"""Anomaly score of a run unless its configuration names another."""

# ---------------------------------------------------------------------------------------------------------------- MDAT

SmoothingMode = Literal[
    "constant",
    "annealed",
    "adaptive_sample",
    "adaptive_stage",
]


@dataclass(frozen=True)
class SmoothingEntry:
    """A smoothing mode; its function has the same name in method/mdat/smoothing.py.

    Attributes:
        meaning: the formula of ε, and its source.
        parameter: what `epsilon` stands for in it.
        reaches: ε becomes as large as the parameter, so a parameter over the cap is refused.
    """

    meaning: str
    parameter: str
    reaches: bool = True


SMOOTHING_MODES: dict[SmoothingMode, SmoothingEntry] = {
    "constant": SmoothingEntry("ε", "ε"),
    "annealed": SmoothingEntry("ε_max · p (environment label smoothing, ICLR 2023)", "ε_max"),
    "adaptive_sample": SmoothingEntry("α · softmax(D)_{d_i}, detached: per image", "α", reaches=False),
    "adaptive_stage": SmoothingEntry("ε_max · clip((A_s - 1/M) / (1 - 1/M), 0, 1): per stage", "ε_max"),
}


def smoothing_cap(num_domains: int) -> float:
    """Largest ε of any mode: half of (M-1)/M. At the uniform label, ε = (M-1)/M, the discriminator gets no signal."""
    return 0.5 * (num_domains - 1) / num_domains


FeatureTarget = Literal[
    "smoothed",  # the discriminator's own target, reversed
    "hard",  # the own domain, reversed (DANN, arXiv 1409.7495)
    "uniform",  # 1/M, approached (domain confusion, arXiv 1510.02192)
]
"""Target of the features; smoothing is for the target of the discriminator."""
Condition = Literal[
    "none",  # the discriminator sees the features
    "class",  # it has one output per domain and class (FADA, arXiv 2007.09222)
    "outer",  # it sees features ⊗ class probabilities (CDAN, arXiv 1705.10667)
]
MaskWidth = Literal[
    "cell",  # cells that show anomalies and void in more than half of their pixels
    "receptive_field",  # and cells that see one around them
]


class MdatDefaults:
    """Defaults of MDAT; the section `mdat` gives the meaning and the source of each."""

    weight: Final = 0.5
    warmup: Final = 0.0
    lambda_max: Final = 0.1
    channels: Final = 64
    smoothing: Final[SmoothingMode] = "adaptive_stage"
    epsilon: Final = 0.2
    momentum: Final = 0.95
    target: Final[FeatureTarget] = "smoothed"
    condition: Final[Condition] = "none"
    certainty: Final = False
    mask_anomalies: Final = True
    mask_width: Final[MaskWidth] = "cell"


# ---------------------------------------------------------------------------------------------------------------- CACL

Negatives = Literal[
    "opposite_side",  # an anchor is pushed away from the opposite side of anomaly/inlier
    "other_type",  # from every other type: other inlier classes, too
]
Positives = Literal[
    "shared",  # one draw per step: anchors of a type and domain have the same positives
    "per_anchor",  # every anchor has its own, by a draw that no negative depends on
]
Contrast = Literal[
    "rows",  # anchors are contrasted with rows of the batch and of the memory
    "distribution",  # with a Gaussian per (domain, type), whose moments are the memory
]
NegativesBy = Literal[
    "difficulty",  # of each side the most difficult rows, the same for all anchors
    "similarity",  # of each anchor the rows of another kind that are nearest to it
]
Balance = Literal[
    "anchors",  # a mean over all anchors: three quarters of them are inliers
    "sides",  # a mean over the anchors of each side of anomaly/inlier, then over the sides that have one
]
QueueLayout = Literal[
    "replicated",  # every rank holds all rows of the memory
    "sharded",  # every rank holds a W-th of them; same loss
]


GatherDtype = Literal["fp32", "bf16"]
"""Type in which sampled embeddings travel between ranks; their gradients are summed as they are."""


class CaclDefaults:
    """Defaults of CACL; the section `cacl` gives the meaning and the source of each."""

    weight: Final = 0.1
    warmup: Final = 0.1
    temperature: Final = 0.1
    projection_dim: Final = 128
    anomaly_pixels: Final = 32
    inlier_pixels: Final = 8
    hard_fraction: Final = 0.5
    image_aware: Final = True
    num_positives: Final = 32
    positives: Final[Positives] = "shared"
    negatives_by: Final[NegativesBy] = "difficulty"
    balance: Final[Balance] = "anchors"
    num_negatives: Final = 512
    hard_negative_fraction: Final = 0.5
    cross_domain: Final = True
    negatives: Final[Negatives] = "opposite_side"
    contrast: Final[Contrast] = "rows"
    distribution_momentum: Final = 0.99
    queue_rows: Final = 256
    queue_rows_per_image: Final[int | None] = None
    queue_layout: Final[QueueLayout] = "replicated"
    unlabelled_confidence: Final[float | None] = None
    max_rows: Final[int | None] = None
    gather_dtype: Final[GatherDtype] = "fp32"


# ------------------------------------------------------------------------------------------------------------- teacher

Exported = Literal[
    "student",  # the segmenter in training
    "ema",  # the teacher: its average over training steps
]
"""Network that is validated, exported and evaluated."""


class TeacherDefaults:
    """Defaults of the teacher; the section `teacher` gives the meaning and the source of each."""

    decay: Final = 0.999
    weight: Final = 1.0
    warmup: Final = 0.0
    outlier_weight: Final = 0.0
    confidence: Final = 0.968
    score_quantile: Final = 0.95
    contrast: Final = False


# ------------------------------------------------------------------------------------------------------------ training

OptimizerKind = Literal["adamw", "sgd"]
Schedule = Literal[
    "poly",  # (1 - q)^0.9 (DeepLab, arXiv 1606.00915)
    "cosine",
    "constant",
]
Precision = Literal["fp32", "bf16", "fp16"]
ZeroStage = Literal[0, 1, 2, 3]
"""Stage of DeepSpeed's ZeRO (arXiv 1910.02054): nothing, optimizer states, gradients, parameters are partitioned."""

# ---------------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class MetricEntry:
    """A metric of an evaluation set; values are fractions, and are shown in per cent."""

    title: str
    lower_is_better: bool = False


METRICS: dict[str, MetricEntry] = {
    "ap": MetricEntry("AP"),
    "fpr95": MetricEntry("FPR95", lower_is_better=True),
    "auroc": MetricEntry("AUROC"),
    "best_f1": MetricEntry("best F1"),
    "miou": MetricEntry("mIoU"),
    "siou": MetricEntry("sIoU"),
    "ppv": MetricEntry("PPV"),
    "mean_f1": MetricEntry("mean F1"),
    "instance_ap": MetricEntry("instance AP"),
    "instance_ap50": MetricEntry("instance AP50"),
}
"""Metrics by their key in `results.json`, in the order of tables; docs/metrics.md defines them."""

HeadlineMetric = Literal["ap", "fpr95", "auroc", "miou"]
HEADLINE_METRICS: tuple[HeadlineMetric, ...] = get_args(HeadlineMetric)
"""Metrics that every table shows where they exist, and that a validation may choose a checkpoint by."""

INTERVAL_LEVEL = 0.95
"""Coverage of confidence intervals."""
REPLICATES = 1000
"""Draws of the bootstrap."""


class TestTimeDefaults:
    """Defaults of test-time augmentation; the section `evaluation` gives the meaning of each."""

    scales: Final = (1.0,)
    flip: Final = False
    window_overlap: Final = 0.25


Convention = Literal["pooled", "pooled_nearest", "per_image", "smiyc", "skip_empty"]
CONVENTIONS: dict[Convention, str] = {
    "pooled": "all valid pixels of all frames pooled (as Fishyscapes)",
    "pooled_nearest": "pixels pooled, FPR95 at the ROC point nearest to a TPR of 0.95 (as PEBAL, RPL)",
    "per_image": "mean over the images that have anomalies (as pytorch-ood)",
    "smiyc": "binned per frame (as SegmentMeIfYouCan)",
    "skip_empty": "pixels pooled over frames with anomalies (as Mask2Anomaly)",
}
"""How frames are pooled, and how FPR95 is read; docs/metrics.md has each one's definition and source."""

ComponentTrack = Literal[
    "none",  # no component metrics
    "anomaly",  # sizes of RoadAnomaly21
    "obstacle",  # sizes of RoadObstacle21
]
SubmissionLayout = Literal["fishyscapes", "smiyc"]
"""Benchmark in whose layout score maps are written."""

# ---------------------------------------------------------------------------------------------------------- run folder


class RunFile:
    """Names in a run folder, and in its models and checkpoints."""

    CONFIG: Final = "config.yaml"
    MANIFESTS: Final = "manifests.json"
    PROVENANCE: Final = "provenance.json"
    METRICS: Final = "metrics.jsonl"
    CALLS: Final = "record.jsonl"
    EVENTS: Final = "events.jsonl"
    RESULTS: Final = "results.json"
    RUN_ID: Final = "mlflow_run_id"
    LEDGER: Final = "mlflow.json"
    CHECKPOINTS: Final = "checkpoints"
    CHECKPOINT: Final = "checkpoint.json"
    COMMITTED: Final = f"step-*/{CHECKPOINT}"  # glob in the folder of checkpoints
    METADATA: Final = "model.json"
    WEIGHTS: Final = "model.safetensors"


DATABASE = "mlflow.db"
"""MLflow's database beside the run folders, where no server is configured."""

# -------------------------------------------------------------------------------------------------------- command line


class ExitCode(IntEnum):
    """Exit codes of the commands."""

    OK = 0
    FAILED = 1
    """The command ran, and what it was to do or to confirm failed."""
    REFUSED = 2
    """Nothing was started: a configuration, an option or a file that cannot be used."""
    STOPPED = 3
    """A run was asked to stop (Ctrl-C, SIGTERM) and left a checkpoint."""
    NODES_LOST = 4
    """The nodes of a run were gone for longer than it may wait; the checkpoint is there."""
    INTERRUPTED = 130
    """Ctrl-C in a command that leaves nothing to continue: 128 + SIGINT, as shells count."""
