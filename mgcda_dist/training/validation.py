"""The network as training has it at a step, bare and whole, and the measure that chooses the best checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mgcda_dist import build
from mgcda_dist.choices import HEADLINE_METRICS, METRICS
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.evaluation.job import EvaluationJob, run_job
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.engine import DeepSpeedEngine

__all__ = ["Validation", "choice"]


class Validation:
    """The bare network beside the one in training, on every rank.

    Evaluating does not touch the one in training: its parameters may lie sliced over the ranks, which would have to run
    it together, and ranks evaluate different numbers of frames.

    Args:
        engine: has the network in training.
        config: of the run.
        world: the ranks.
        device: where to run the network.
    """

    def __init__(self, engine: DeepSpeedEngine, config: Config, world: Collectives, device: torch.device) -> None:
        self._engine, self._config, self._world, self._device = engine, config, world, device
        self._network: nn.Module | None = None

    def network(self) -> nn.Module:
        """The bare network with the present weights, in evaluation mode; a collective. The next call changes it."""
        if self._network is None:
            self._network = build.segmenter(self._config, "none").to(self._device).eval()
        with self._engine.whole_parameters() as model:
            trained: nn.Module = model.segmenter  # pyright: ignore[reportAssignmentType]
            self._network.load_state_dict(trained.state_dict(), strict=True)
        return self._network

    def measure(self, step: int) -> dict[str, float]:
        """`validation/SET/METRIC` of the present weights; nothing where no set is configured. A collective.

        Raises:
            ConfigError: the set does not have what the metric needs.
        """
        best, config = self._config.checkpoint.best, self._config
        if best is None:
            return {}
        # What every evaluation of the run does, without what only pictures and the final tables need.
        options = {"sets": [best.set], "conventions": ["pooled"], "components": "none", "instances": False}
        section = config.evaluation.model_copy(update={**options, "panel_frames": 0, "kept_frames": 0})
        job = EvaluationJob.of_model(config.model_copy(update={"evaluation": section}), Path(config.runs) / config.name)
        job = job.model_copy(update={"digest": f"step {step}"})
        (result,) = run_job(job, self._world, self._device, network=self.network()).results
        numbers = {key: value for key, value in result.metrics().items() if key in HEADLINE_METRICS}
        if best.metric not in numbers:
            has = f"it has {', '.join(numbers)}" if numbers else "it has none"
            raise ConfigError("checkpoint.best.metric", f"the set {best.set.name} gives no {best.metric}", has)
        return {f"validation/{best.set.name}/{key}": value for key, value in numbers.items()}


def choice(config: Config, numbers: dict[str, float]) -> dict[str, Any] | None:
    """What a checkpoint is compared by, for its manifest, from what `measure` gave."""
    best = config.checkpoint.best
    if best is None or not numbers:
        return None
    value = numbers[f"validation/{best.set.name}/{best.metric}"]
    better = "lower" if METRICS[best.metric].lower_is_better else "higher"
    return {"set": best.set.name, "metric": best.metric, "value": value, "better": better}
