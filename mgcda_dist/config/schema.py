"""The configuration, typed and strict: one class per section, each field with its unit and its default's source.

The sections are in `data.py`, `method.py` and `run.py` beside this file; here they become one configuration, and what
no section can know alone is checked. All of them know no torch and no other part of the package; `build` turns
them into objects. "ours" marks a default that neither the paper nor another source gives and that was chosen here.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, cast

from pydantic import Field, ValidationError, model_validator

from mgcda_dist.addresses import has_secret
from mgcda_dist.choices import CLASS_SPACES, NO_CLASS, ROAD_NAMES, SMOOTHING_MODES, outlier_entry, smoothing_cap
from mgcda_dist.config.data import ClassSpaceConfig, DataConfig, StreamConfig
from mgcda_dist.config.fields import FIXED, FREE, OVERRIDE, Name, Section
from mgcda_dist.config.method import CaclConfig, MdatConfig, SegmentationLossConfig, TeacherConfig
from mgcda_dist.config.model import BACKBONE_STAGES, ModelConfig, OptimConfig
from mgcda_dist.config.phases import Phase, PhaseConfig, content_of, with_total
from mgcda_dist.config.run import (
    CallbackConfig,
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    ScalingConfig,
    TrackingConfig,
)
from mgcda_dist.errors import counted, near_or_all

__all__ = ["Config"]


class Config(Section):
    """One training run."""

    name: Annotated[Name, FIXED] = Field(description="stable name: same name, same run")
    seed: Annotated[int, FIXED] = Field(default=0, description="of the first weights, the stream and every other draw")
    runs: Annotated[str, FREE] = Field(
        default="runs", description="folder that receives runs/NAME and the MLflow database"
    )
    data: DataConfig
    model: Annotated[ModelConfig, FIXED]
    loss: Annotated[SegmentationLossConfig, OVERRIDE] = SegmentationLossConfig()
    mdat: MdatConfig = MdatConfig()
    cacl: CaclConfig = CaclConfig()
    teacher: TeacherConfig = TeacherConfig()
    optim: OptimConfig
    engine: EngineConfig = EngineConfig()
    scaling: Annotated[ScalingConfig, FREE] = ScalingConfig()
    checkpoint: Annotated[CheckpointConfig, FREE] = CheckpointConfig()
    tracking: Annotated[TrackingConfig, FREE] = TrackingConfig()
    evaluation: Annotated[EvaluationConfig, FREE] = EvaluationConfig()
    phases: Annotated[list[PhaseConfig], FIXED] = Field(
        default=[],
        description="phases of the training, one after the other; the sections of this file are those of the last",
    )
    callbacks: Annotated[list[CallbackConfig], FREE] = Field(
        default=[], description="code of one's own that is called while the run trains: mgcda_dist.callbacks"
    )

    @property
    def compiles(self) -> bool:
        """True if a phase compiles the network, for which its first step has more time."""
        return any(phase.config.model.compile for phase in self.training_phases)

    @property
    def training_phases(self) -> list[Phase]:
        """The phases as they are trained; without any, the whole training as one."""
        if not self.phases:
            return [Phase("", 0, self, 0, self.optim.steps, is_last=True)]
        content, found = self.model_dump(), list[Phase]()
        for index, phase in enumerate(self.phases):
            first, is_last = found[-1].end_step if found else 0, index == len(self.phases) - 1
            config = self if is_last else Config.model_validate(content_of(content, self.phases, index))
            found.append(Phase(phase.name, index, config, first, config.optim.steps, is_last))
        return found

    @model_validator(mode="before")
    @classmethod
    def _sum_of_steps(cls, content: Any) -> Any:
        return with_total(cast(dict[str, Any], content)) if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if isinstance(self.data.class_space, ClassSpaceConfig):
            by_train_id = any(s.dataset and s.labelled and not s.label_format for s in self.data.streams)
            _check_class_space(self.data.class_space, by_train_id=by_train_id)
        names = [stream.name for stream in self.data.streams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"data.streams: two streams are named {name!r}")
        num_domains = len(self.data.domains)
        sets = [entry.name for entry in self.evaluation.sets]
        for name in sets:
            if sets.count(name) > 1:
                raise ValueError(f"evaluation.sets: two sets are named {name!r}")
        self._check_pastes()
        self._check_shares()
        self._check_class_weights()
        _refuse_unrecordable(self.model_dump())
        if self.mdat.enabled and num_domains < 2:
            raise ValueError(
                f"mdat.enabled: domain adversarial training needs at least two domains, and all streams show "
                f"{self.data.domains[0]}; set mdat.enabled=false, or name the domains of data.streams apart"
            )
        smoothing, cap = self.mdat.smoothing, smoothing_cap(num_domains)
        if self.mdat.enabled and smoothing.epsilon > cap and SMOOTHING_MODES[smoothing.mode].reaches:
            raise ValueError(
                f"mdat.smoothing.epsilon: {smoothing.epsilon} is over the cap {cap:.3f} (half of (M-1)/M with "
                f"M = {num_domains} domains): at the uniform label the discriminator learns nothing"
            )
        if not any(stream.labelled for stream in self.data.streams):
            raise ValueError(
                "data.streams: no stream is labelled, so the segmentation loss would have nothing to learn"
            )
        if self.model.export == "ema" and not self.teacher.enabled:
            raise ValueError(
                "model.export: ema is the average that a teacher keeps, and there is none; set teacher.enabled=true, "
                "or model.export=student"
            )
        if self.teacher.enabled and self.teacher.contrast and self.cacl.unlabelled_confidence is not None:
            raise ValueError(
                "teacher.contrast: the teacher and cacl.unlabelled_confidence would both name the classes of "
                "unlabelled pixels; set the one to false, or the other to null"
            )
        if self.cacl.queue_layout == "sharded" and self.cacl.temperature < 0.025:
            raise ValueError(
                f"cacl.temperature: {self.cacl.temperature} is under 0.025, where the sums over ranks of the sharded "
                "memory (e^{-2/T}) leave single precision; raise it, or set cacl.queue_layout=replicated"
            )
        if self.engine.fold_norm and self.model.compile:
            raise ValueError("engine.fold_norm: torch.compile fuses norms itself; set it or model.compile to false")
        self._check_phases()
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

    def _check_phases(self) -> None:
        """Raise ValueError for phases that do not add up, and for a configuration of one that is none."""
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"phases: two phases are named {name!r}")
        total = sum(phase.steps for phase in self.phases)
        if self.phases and total != self.optim.steps:
            raise ValueError(
                f"optim.steps: {self.optim.steps} is not the sum over the phases, {total}; leave it out (null, where a "
                "`base` has it), or change phases.*.steps"
            )
        from mgcda_dist.config.keys import near_key  # which looks keys up in this schema

        content = self.model_dump() if self.phases else {}
        for index, phase in enumerate(self.phases):
            try:
                Config.model_validate(content_of(content, self.phases, index))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in (f"phases.{index}", *first["loc"]))
                problem = first["msg"].removeprefix("Value error, ")
                if first["type"] == "extra_forbidden":
                    near = near_key(first["loc"])
                    problem = "unknown key" + (f"; did you mean {near!r}?" if near else "")
                raise ValueError(f"{key}: of phase {phase.name}: {problem}") from None

    def _check_class_weights(self) -> None:
        weights, classes = self.loss.class_weights or {}, self.data.class_names
        for name in weights:
            if name not in classes:
                raise ValueError(f"loss.class_weights: no class {name!r} here; {near_or_all(name, classes)}")
        if weights and outlier_entry(self.loss.outlier).classifies:
            raise ValueError(
                f"loss.class_weights: {self.loss.outlier} takes the place of the cross-entropy that they are factors "
                "of; remove them, or choose another loss.outlier"
            )

    def _check_shares(self) -> None:
        """Global batch = workers × images × accumulation: say what would fit where it does not."""
        elastic, accumulation, batch = self.scaling.elastic, self.engine.accumulation, self.data.global_batch
        if elastic is not None and elastic.min > elastic.max:
            raise ValueError(f"scaling.elastic: min {elastic.min} is over max {elastic.max}")
        if elastic is not None and not elastic.numbers(batch, accumulation):
            fitting = [str(n) for n in range(1, batch + 1) if batch % (n * accumulation) == 0]
            raise ValueError(
                f"scaling.elastic: no number of workers from {elastic.min} to {elastic.max} shares {batch} images × "
                f"{counted(accumulation, 'micro-batch')} evenly; {', '.join(fitting) or 'none at all'} would"
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
        per_stream = " + ".join(f"{stream.name} {stream.per_step}" for stream in self.data.streams)
        raise ValueError(
            f"data.streams: {batch} images per step ({per_stream}) cannot be shared by {counted(workers, 'worker')} × "
            f"{counted(accumulation, 'micro-batch')}; choose {', or '.join(remedies)}"
        )

    def _check_pastes(self) -> None:
        ranges = {"data.augment.scale": self.data.augment.scale}
        for key, entries in (("data.streams", self.data.streams), ("evaluation.sets", self.evaluation.sets)):
            for i, entry in enumerate(entries):
                if entry.paste is None:
                    continue
                ranges[f"{key}.{i}.paste.scale"] = entry.paste.scale
                if entry.paste.min_objects > entry.paste.max_objects:
                    raise ValueError(
                        f"{key}.{i}.paste.min_objects: {entry.paste.min_objects} is over max_objects, "
                        f"{entry.paste.max_objects}"
                    )
                if entry.paste.placement == "road" and isinstance(entry, StreamConfig) and not entry.labelled:
                    raise ValueError(
                        f"{key}.{i}.paste.placement: {entry.name} is not labelled: no label tells where the road is; "
                        "choose placement: anywhere"
                    )
                if entry.paste.placement == "road" and not self.data.road_classes:
                    raise ValueError(
                        f"{key}.{i}.paste.placement: no class is called {', '.join(ROAD_NAMES)}; name the classes that "
                        "objects stand on in data.class_space.road"
                    )
        for key, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"{key}: {low} is over {high}; the smaller one comes first")


def _refuse_unrecordable(value: Any, key: str = "") -> None:
    """Raise ValueError for what must not, or cannot, be written to the run folder and MLflow with the configuration.

    That is a URL with a password or token, and, in arguments of any type, a number that is not finite: JSON has none.
    """
    if isinstance(value, dict):
        for name, below in value.items():  # pyright: ignore[reportUnknownVariableType]
            _refuse_unrecordable(below, f"{key}.{name}" if key else str(name))  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list | tuple):
        for index, below in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            _refuse_unrecordable(below, f"{key}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}: {value} is not a finite number; write null or a word, and let the code read it so")
    elif isinstance(value, str) and has_secret(value):
        raise ValueError(
            f"{key}: the address holds a password or a token, which would be written down with the configuration; "
            "set it in the environment of the nodes: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "PGPASSWORD, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def _check_class_space(space: ClassSpaceConfig, *, by_train_id: bool) -> None:
    """Raise ValueError, naming the field, unless every class has a source and every source a class.

    Args:
        by_train_id: the labels of some stream hold train ids, which need no table.
    """
    where = "data.class_space"
    doubtful = [name for name in space.names if space.names.count(name) > 1 or name in NO_CLASS]
    if doubtful:
        raise ValueError(f"{where}.names: {doubtful[0]!r} is there twice, or one of {', '.join(NO_CLASS)}")
    allowed = (*space.names, *NO_CLASS)
    targets = {f"map.{source}": name for source, name in space.map.items()}
    targets |= {f"ids.{form}.{raw}": name for form, table in space.ids.items() for raw, name in table.items()}
    for key, name in targets.items():
        if name not in space.names and name not in NO_CLASS:
            raise ValueError(f"{where}.{key}: no class {name!r}; {near_or_all(name, allowed)}")
    for name in space.road:
        if name not in space.names:
            raise ValueError(f"{where}.road: no class {name!r}; {near_or_all(name, space.names)}")
    known = CLASS_SPACES[space.based_on] if space.based_on else ()
    for source in space.map:
        if source not in known:
            choice = f"{space.based_on} has {', '.join(known)}" if known else "map needs based_on: a known class space"
            raise ValueError(f"{where}.map.{source}: no class to map; {choice}")
    left_out = [name for name in known if name not in space.map and name not in space.names]
    if left_out:
        raise ValueError(
            f"{where}.map: {space.based_on}'s classes {', '.join(left_out)} are neither mapped nor in names; "
            f"map each to one of {', '.join(allowed)}"
        )
    reached = {*targets.values(), *(name for name in known if name not in space.map)}
    empty = [name for name in space.names if name not in reached]
    if empty and not by_train_id:
        raise ValueError(
            f"{where}.names: nothing is mapped to {', '.join(empty)}; complete map or ids, or leave the class out"
        )
