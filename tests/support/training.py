"""Plain training steps of what a configuration makes, in one process and without an engine."""

from __future__ import annotations

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.mgcda import MGCDA

__all__ = ["train"]


def train(config: Config, batches: list[Batch]) -> tuple[MGCDA, list[dict[str, float]]]:
    """The model after a step of each batch, and the terms of the steps."""
    model = build.mgcda(config).train()
    optimizer = build.optimizer(config, model)
    terms: list[dict[str, float]] = []
    for step, batch in enumerate(batches):
        outcome = model(batch, step / len(batches))
        optimizer.zero_grad()
        outcome.loss.backward()
        # Law 3: an engine waits for the gradient of each.
        assert not [name for name, x in model.named_parameters() if x.requires_grad and x.grad is None]
        optimizer.step()
        totals = model.total([outcome])
        model.commit([outcome], totals)
        terms.append(totals.scalars())
    return model, terms
