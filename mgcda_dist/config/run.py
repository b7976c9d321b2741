"""Sections of a run: engine, workers, checkpoints, tracking, evaluation."""

from __future__ import annotations

from math import inf
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mgcda_dist.choices import ComponentTrack, Convention, HeadlineMetric, Precision, TestTimeDefaults, ZeroStage
from mgcda_dist.config.data import PasteConfig, check_source
from mgcda_dist.config.fields import FIXED, FREE, OVERRIDE, Count, Name, Positive, Section, Side
from mgcda_dist.references import PATTERN

__all__ = [
    "BestConfig",
    "CallbackConfig",
    "CheckpointConfig",
    "ElasticConfig",
    "EngineConfig",
    "EvaluationConfig",
    "EvaluationSetConfig",
    "ScalingConfig",
    "TrackingConfig",
    "WandbConfig",
]


_COMPILING_S = _COLLECTIVE_S = 1800.0
_LATER_S = 300.0


class EngineConfig(Section):
    """DeepSpeed."""

    zero_stage: Annotated[ZeroStage, FIXED] = Field(
        default=0,
        description="what is spread over the ranks: 0 nothing, which is fastest where it fits, 1 optimiser states, 2 "
        "gradients, 3 parameters",
    )
    precision: Annotated[Precision, FIXED] = Field(
        default="fp32",
        description="of the forward and backward passes; fp16, on GPUs alone and from zero_stage 1 on: its loss is "
        "scaled so that small gradients are not lost, and a step whose gradients leave its range is left out, with a "
        "smaller scale for the next",
    )
    accumulation: Annotated[Count, OVERRIDE] = Field(
        default=1, description="micro-batches per step; each contrasts within itself and the memory"
    )
    overlap_comm: Annotated[bool | None, FREE] = Field(
        default=None,
        description="send gradients between the ranks while the backward pass goes on; null: on GPUs. From ZeRO 1 on "
        "DeepSpeed then waits for the GPU once a micro-batch. Sums are taken in another order",
    )
    bucket_mb: Annotated[Positive, FREE] = Field(
        default=25,
        description="megabytes of gradients that are sent at once, with overlap_comm; without it, all at once. torch's "
        "own default",
    )
    tf32: Annotated[bool, FREE] = Field(
        default=True, description="matrix products and convolutions of float32 on GPUs round their factors to 11 bits"
    )
    cudnn_benchmark: Annotated[bool, FREE] = Field(
        default=True,
        description="try the kernels of each convolution at its first size, and keep the fastest; not with "
        "deterministic. On GPUs",
    )
    deterministic: Annotated[bool, FREE] = Field(
        default=False,
        description="only kernels that give the same bits each time, on GPUs; logs/worker-*.log names operations that "
        "have none",
    )
    fused_optimizer: Annotated[bool | None, FREE] = Field(
        default=None, description="one kernel for the step of many parameters; null: on GPUs"
    )
    activation_checkpointing: Annotated[bool, FREE] = Field(
        default=False,
        description="compute the activations of the network's blocks again in the backward pass, in the place of "
        "keeping them: less memory for more time, the same bits. Networks of timm and transformers",
    )
    fold_norm: Annotated[bool, FREE] = Field(
        default=False,
        description="compute frozen batch norms within the convolutions before them, which rounds otherwise and is "
        "quicker; not with zero_stage 3, nor with model.compile, which fuses them itself",
    )
    export_masters: Annotated[bool | None, FREE] = Field(
        default=None,
        description="with bf16 or fp16, begin the float32 of the optimiser with the weights before they are rounded, "
        "and validate and export it; null: on GPUs",
    )

    @model_validator(mode="after")
    def _possible(self) -> EngineConfig:
        if self.precision == "fp16" and self.zero_stage == 0:
            raise ValueError("zero_stage: with 0 DeepSpeed does not scale the loss of fp16; set it to 1, 2 or 3")
        if self.fold_norm and self.zero_stage == 3:
            raise ValueError(
                "fold_norm: with zero_stage 3 a convolution does not have the parameters of its norm; set it to false"
            )
        return self

    def on(self, *, gpu: bool) -> EngineConfig:
        """The section with values where it says null, for workers on GPUs or on processors."""
        filled = {name: gpu for name in ("overlap_comm", "fused_optimizer", "export_masters") if not self._says(name)}
        benchmark = self.cudnn_benchmark and not self.deterministic
        return self.model_copy(update=filled | {"cudnn_benchmark": benchmark})

    def _says(self, name: str) -> bool:
        return getattr(self, name) is not None


class ElasticConfig(Section):
    """Fewest and most workers of a run that goes on with the nodes there are; stands before `scaling.workers`."""

    min: Count = Field(description="fewest workers that the run goes on with")
    max: Count = Field(description="most workers that it takes")
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


def _positive_or_auto() -> BeforeValidator:
    def check(value: Any) -> Any:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf):
            raise ValueError("neither a number above 0 nor `auto`")
        return value

    return BeforeValidator(check)


def _one_gpu(value: int | Literal["auto"]) -> int | Literal["auto"]:
    if value != "auto" and value > 1:
        raise ValueError(
            f"{value}: a worker trains on one GPU, and the others would be reserved for nothing; set it to 1, and "
            "scaling.workers to the number of GPUs"
        )
    return value


class ScalingConfig(Section):
    """Ray Train workers. What is `auto` becomes a number when the cluster is known: `cluster.scaling`."""

    workers: Annotated[int | Literal["auto"], _number_or_auto(1)] = Field(
        default=1,
        description="auto: as many as find a place and can share the global batch; see also cpus_per_worker",
    )
    gpus_per_worker: Annotated[int | Literal["auto"], _number_or_auto(0), AfterValidator(_one_gpu)] = Field(
        default=0, description="1 or 0: a worker trains on one GPU; auto: 1 where the cluster has GPUs, else 0"
    )
    cpus_per_worker: Annotated[float | Literal["auto"], _positive_or_auto()] = Field(
        default=1,
        description="also the threads of a worker: torch takes no more; auto: as many as each can have. With workers: "
        "auto and without GPUs that is one worker a node with all of its processors, where threads are faster",
    )
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        default="PACK", description="workers on few nodes or on many; STRICT_: on one node, or one worker a node"
    )
    elastic: ElasticConfig | None = Field(
        default=None, description="go on with fewer workers when a node is lost, with more when one joins; null: never"
    )
    interface: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@-]+(,[A-Za-z0-9_.:@-]+)*$")] | None = Field(
        default=None,
        description="network interfaces of gloo and NCCL, with commas between them; null: the one that has the node's "
        "Ray address, and for NCCL the other cards that are as fast",
    )
    max_failures: Annotated[int, Field(ge=-1)] = Field(
        default=3, description="restarts of the worker group without a new checkpoint between them; -1: no bound"
    )
    hang_timeout_s: Positive = Field(
        default=300,
        description="a worker that does not answer, or does not move in a step, for so long is killed and the group "
        "starts again; more than the slowest step and checkpoint take",
    )
    first_step_timeout_s: Positive | None = Field(
        default=None,
        description="the same for the first step after a start, which compiles the network and tries out kernels; "
        "null: hang_timeout_s, and with model.compile 1800 or more",
    )
    node_wait_s: Positive = Field(
        default=300, description="how long to wait for nodes that were lost, before the run ends with exit code 4"
    )

    def first_step_s(self, *, compiles: bool) -> float:
        """`first_step_timeout_s` as a number."""
        if self.first_step_timeout_s is not None:
            return self.first_step_timeout_s
        return max(self.hang_timeout_s, _COMPILING_S) if compiles else self.hang_timeout_s

    def collective_s(self, *, compiles: bool) -> float:
        """Time limit of a collective: Ray's own, or later than the worker monitor has named a culprit."""
        return max(_COLLECTIVE_S, max(self.hang_timeout_s, self.first_step_s(compiles=compiles)) + _LATER_S)

    @property
    def num_workers(self) -> int:
        """`workers` as a number."""
        assert self.workers != "auto", "resolved before anything asks"
        return self.workers

    @property
    def num_cpus(self) -> float:
        """`cpus_per_worker` as a number."""
        assert self.cpus_per_worker != "auto", "resolved before anything asks"
        return self.cpus_per_worker

    @property
    def num_gpus(self) -> int:
        """`gpus_per_worker` as a number."""
        assert self.gpus_per_worker != "auto", "resolved before anything asks"
        return self.gpus_per_worker


class EvaluationSetConfig(Section):
    """One evaluation set."""

    name: Name = Field(description="in tables and files; no two sets share one")
    shards: str | None = Field(
        default=None, description="folder of frame shards, with its manifest; null: see `dataset`"
    )
    dataset: Annotated[str | None, Field(pattern=f"^{PATTERN}$")] = Field(
        default=None, description="python:MODULE:NAME, a Dataset of one's own, as of a stream"
    )
    dataset_arguments: dict[str, Any] = Field(
        default={}, description="of the class or function that `dataset` names, with paths as those of a stream"
    )
    label_format: str | None = Field(
        default=None, description="raw ids of the labels of `dataset`; null: train ids of the class space"
    )
    paste: PasteConfig | None = Field(default=None, description="paste held-out objects, the same ones every time")
    max_frames: Count | None = Field(default=None, description="first frames only; null: all")

    @model_validator(mode="after")
    def _one_source(self) -> EvaluationSetConfig:
        check_source(self.shards, self.dataset, self.dataset_arguments, self.label_format)
        return self


class BestConfig(Section):
    """The validation that every checkpoint is measured by, and that chooses the best one."""

    set: EvaluationSetConfig = Field(description="frames that are neither trained on nor of a test split")
    metric: HeadlineMetric = Field(
        default="ap", description="pooled over pixels; of fpr95 the lowest is the best, of the others the highest"
    )


class CheckpointConfig(Section):
    """Times of checkpoints, and the ones that are kept."""

    every_steps: Count = Field(default=200, description="steps from one checkpoint to the next; ours")
    keep: Count = Field(default=2, description="of the newest; the best one stays besides")
    asynchronous: bool = Field(default=True, description="write while training goes on, from a copy in host memory")
    best: BestConfig | None = Field(
        default=None, description="keep the best checkpoint, and take its network as the run's; null: the last"
    )
    resume: Literal["auto", "never", "must"] = Field(
        default="auto", description="what to do when the run folder has a checkpoint"
    )
    start_over_steps: Count = Field(
        default=200,
        description="steps from which on a run whose checkpoints are all damaged does not begin again unasked",
    )
    room_wait_s: Annotated[float, Field(gt=0, le=1500)] = Field(
        default=600,
        description="how long a full disk is waited for at the end, when the model and the results are to be written; "
        "the other ranks wait no longer than 1500 s",
    )


class CallbackConfig(Section):
    """One callback; `python:MODULE:NAME` alone stands for one without arguments."""

    use: Annotated[str, Field(pattern=rf"^{PATTERN}$")] = Field(
        description="python:MODULE:NAME of a class or function, which is called with the arguments, or of an object"
    )
    arguments: dict[str, Any] = Field(default={}, description="by name")

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


class WandbConfig(Section):
    """Weights & Biases, beside the other trackers."""

    project: Annotated[str, Field(min_length=1)] = Field(default="mgcda", description="project there")
    mode: Literal["offline", "online"] = Field(
        default="offline",
        description="offline: files in the run folder, which `wandb sync` uploads; no request is made",
    )


class TrackingConfig(Section):
    """Trackers beside the run's own record, and what is logged how often."""

    mlflow_uri: str | None = Field(default=None, description="null: sqlite in the runs folder; `none`: jsonl only")
    experiment: str = Field(default="mgcda", description="MLflow experiment that the run belongs to")
    parent_run: str | None = Field(default=None, description="MLflow run to appear under; `mgcda sweep` sets it")
    register_model: Annotated[str, Field(pattern=r"^[^/:]+$")] | None = Field(
        default=None, description="registered model of MLflow that gets the trained network as its next version"
    )
    wait_s: Positive = Field(
        default=30,
        description="how long the end of a run may wait for MLflow; `mgcda sync` delivers what it lacks then",
    )
    tensorboard: bool = Field(default=False, description="event files in the run folder; needs the extra [tensorboard]")
    wandb: WandbConfig | None = Field(default=None, description="null: not used; needs the extra [wandb]")
    log_every_steps: Count = Field(default=10, description="steps from one line of metrics to the next")
    system_metrics: bool = Field(
        default=True, description="CPU, memory, disk, network and GPUs of each node, in MLflow"
    )
    profile_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="steps after the tenth that rank 0 profiles: a trace and a table in profile/; 0: none"
    )
    report: bool = Field(default=True, description="write report.html at the end, and log it under report/")
    preview_frames: Annotated[int, Field(ge=0)] = Field(
        default=3, description="frames of the first evaluation set that are drawn at every checkpoint; 0: none"
    )
    alignment_steps: Annotated[int, Field(ge=0)] = Field(
        default=3, description="global batches whose pixels are drawn in the picture of the domain gap; 0: no picture"
    )


class EvaluationConfig(Section):
    """Evaluation at the end of training and by `mgcda evaluate`."""

    sets: list[EvaluationSetConfig] = Field(
        default=[], description="what the trained network is evaluated on; empty: nothing"
    )
    height_px: Side | None = Field(
        default=None, description="frames are resized to this height for the network; null: as is"
    )
    longest_side_px: Side | None = Field(
        default=None, description="frames are resized so that their longer side is this; null: as height_px says"
    )
    blur: bool = Field(default=False, description="7×7, σ = 1 blur of the score map; recorded with the numbers")
    scales: Annotated[list[Annotated[float, Field(gt=0, le=8)]], Field(min_length=1, max_length=16)] = Field(
        default=list(TestTimeDefaults.scales),
        description="factors on the network's input size; logits are averaged over them",
    )
    flip: bool = Field(
        default=TestTimeDefaults.flip, description="average logits over the frame and its mirror image, too"
    )
    window_px: tuple[Side, Side] | None = Field(
        default=None, description="height, width of a sliding window for frames larger than memory; null: whole frames"
    )
    window_overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=TestTimeDefaults.window_overlap,
        description="share of a window that its neighbour covers too, at least; ours",
    )
    conventions: Annotated[list[Convention], Field(min_length=1)] = Field(
        default=["pooled"], description="how frames are pooled; the first is the one that tables show"
    )
    components: ComponentTrack = Field(
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

    @model_validator(mode="after")
    def _one_size(self) -> EvaluationConfig:
        if self.height_px is not None and self.longest_side_px is not None:
            raise ValueError(
                f"frames are brought to a height ({self.height_px}) or a longest side ({self.longest_side_px}), "
                "not to both: set height_px or longest_side_px to null"
            )
        return self
