"""Phases of a training, one after the other in one run: closed-set training, then outliers, for example.

    phases:
      - {name: closed_set, steps: 600, loss: {outlier: none}, mdat: {enabled: false}, cacl: {enabled: false}}
      - {name: outliers, steps: 200}

The sections of the file are those of the last phase; a phase before it says what differs. So what is exported,
evaluated and compared has one configuration, that of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from mgcda_dist.config.fields import FIXED, OVERRIDE, Count, Name, Section, merged

if TYPE_CHECKING:
    from mgcda_dist.config.schema import Config

__all__ = ["Phase", "PhaseConfig", "content_of", "with_total"]

_SECTIONS = ("data", "model", "loss", "mdat", "cacl", "teacher", "optim", "engine")
_NETWORK = ("backbone", "network", "arguments", "taps", "norm", "head_norm", "decoder_channels")
"""Keys of `model` that are the same in all phases, since each goes on with the network of the one before."""


class PhaseConfig(Section):
    """One phase of a training; its sections are merged into those of the file."""

    name: Annotated[Name, FIXED] = Field(description="in messages, and of the folder phases/NAME of its model")
    steps: Annotated[Count, OVERRIDE] = Field(description="optimiser steps; optim.steps is the sum over all phases")
    data: dict[str, Any] = Field(default={}, description="what differs: streams (as a whole), crop_px, augment, …")
    model: dict[str, Any] = Field(default={}, description="what differs: weights (first phase), heads, score, compile")
    loss: dict[str, Any] = Field(default={}, description="what differs")
    mdat: dict[str, Any] = Field(default={}, description="what differs")
    cacl: dict[str, Any] = Field(default={}, description="what differs")
    teacher: dict[str, Any] = Field(default={}, description="what differs")
    optim: dict[str, Any] = Field(default={}, description="what differs: rates, freeze, schedule, …")
    engine: dict[str, Any] = Field(default={}, description="what differs: accumulation, precision, …")

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """The sections that differ."""
        return {name: getattr(self, name) for name in _SECTIONS if getattr(self, name)}


@dataclass(frozen=True)
class Phase:
    """One phase as it is trained.

    Attributes:
        name: empty in a run without phases.
        config: of the phase; of the last one that of the run. `optim.steps` is `end_step`: steps count on.
        first_step, end_step: of the run, the latter not included.
    """

    name: str
    index: int
    config: Config
    first_step: int
    end_step: int
    is_last: bool


def with_total(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a configuration, with `optim.steps` the sum over its phases where that is left out."""
    phases, optim = content.get("phases"), content.get("optim") or {}
    if not isinstance(phases, list) or not phases or not isinstance(optim, dict) or optim.get("steps") is not None:
        return content
    steps: list[Any] = [phase.get("steps") if isinstance(phase, dict) else phase.steps for phase in phases]
    if not all(isinstance(number, int) for number in steps):
        return content  # the schema says what is wrong
    return {**content, "optim": {**optim, "steps": sum(steps)}}


def content_of(content: dict[str, Any], phases: list[PhaseConfig], index: int) -> dict[str, Any]:
    """The content of the configuration of one phase.

    Args:
        content: of the whole configuration.

    Raises:
        ValueError: a change that a phase cannot make.
    """
    phase, where = phases[index], f"phases.{index}"
    if index == len(phases) - 1 and phase.changes:
        raise ValueError(
            f"{where}.{next(iter(phase.changes))}: the last phase, {phase.name}, is what the sections of the file say; "
            "write it there, and in the phases before what differs in them"
        )
    if "steps" in phase.optim:
        raise ValueError(f"{where}.optim.steps: the steps of a phase are its own key; write {where}.steps")
    for key in _NETWORK:
        if key in phase.model and phase.model[key] != content["model"][key]:
            raise ValueError(
                f"{where}.model.{key}: a phase goes on with the network of the one before, so all have one; remove it"
            )
    if "class_space" in phase.data and phase.data["class_space"] != content["data"]["class_space"]:
        raise ValueError(f"{where}.data.class_space: the classes are the same in all phases; remove it")
    if index and "weights" in phase.model:
        raise ValueError(f"{where}.model.weights: this phase starts from the one before; only the first has others")
    whole = {key: value for key, value in content.items() if key != "phases"}
    for name, changes in phase.changes.items():
        whole[name] = merged(whole[name], changes)
    end = sum(each.steps for each in phases[: index + 1])
    whole["optim"] = {**whole["optim"], "steps": end}
    return whole
