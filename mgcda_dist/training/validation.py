"""The bare network with the weights of a step, and the measurement that chooses the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mgcda_dist.choices import HEADLINE_METRICS, METRICS, Exported
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.evaluation.job import EvaluationJob, run_job
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.models.pointwise import by_onednn
from mgcda_dist.training.checkpoint.store import MeasuredValidation
from mgcda_dist.training.engine import DeepSpeedEngine

__all__ = ["Validation", "measured"]


class Validation:
    """The bare network beside the one in training, on every rank.

    Evaluating does not touch the one in training: its parameters may lie sliced over the ranks, which would have to run
    it together, and ranks evaluate different numbers of frames.

    Args:
        engine: has the network in training.
        exported: the network in training, or its average.
        make_network: gives a bare network of the same architecture.
        job: the evaluation that measures a checkpoint; None: none does.
        metric: that chooses the best checkpoint; the set of the job must have it.
    """

    def __init__(
        self,
        engine: DeepSpeedEngine,
        exported: Exported,
        make_network: Callable[[], nn.Module],
        job: EvaluationJob | None,
        metric: str,
        world: Collectives,
        device: torch.device,
    ) -> None:
        self._exported: Exported = exported
        self._engine, self._make_network = engine, make_network
        self._job, self._metric = job, metric
        self._world, self._device = world, device
        self._network: nn.Module | None = None

    def network(self) -> nn.Module:
        """The bare network with the present weights, in evaluation mode; a collective. The next call changes it."""
        if self._network is None:
            self._network = self._make_network().to(self._device).eval()
            by_onednn(self._network, self._device)
        with self._engine.exported(self._exported) as network:
            self._network.load_state_dict(network.state_dict(), strict=True)
        return self._network

    def measure(self) -> dict[str, float]:
        """`validation/SET/METRIC` of the present weights; nothing where no set is configured. A collective.

        Raises:
            ConfigError: the set does not have what the metric needs.
        """
        if self._job is None:
            return {}
        results = run_job(self._job, self._world, self._device, network=self.network()).results
        own = {key: value for result in results for key, value in result.metrics().items() if key in HEADLINE_METRICS}
        numbers: dict[str, float] = self._world.from_first(own, "validation")  # all ranks choose the same checkpoint
        name = self._job.sets[0].name
        if self._metric not in numbers:
            has = f"it has {', '.join(numbers)}" if numbers else "it has none"
            raise ConfigError("checkpoint.best.metric", f"the set {name} gives no {self._metric}", has)
        return {f"validation/{name}/{key}": value for key, value in numbers.items()}


def measured(config: Config, numbers: dict[str, float]) -> MeasuredValidation | None:
    """The measurement that a checkpoint is compared by, for its manifest, from the numbers of `Validation.measure`."""
    best = config.checkpoint.best
    if best is None or not numbers:
        return None
    value = numbers[f"validation/{best.set.name}/{best.metric}"]
    better = "lower" if METRICS[best.metric].lower_is_better else "higher"
    return MeasuredValidation(best.set.name, best.metric, value, better)
