"""All that follows the segmenter is one graph: `MGCDA.loss` is traced whole, in every family of configurations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mgcda_dist.method.batch import Batch, Prediction
from mgcda_dist.method.mgcda import MGCDA
from tests.support.tiny import lively, tiny_batch

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

FAMILIES: dict[str, dict[str, Any]] = {
    "default": {},
    "similarity": {
        "negatives_by": "similarity", "positives": "per_anchor", "balance": "sides", "queue_layout": "sharded",
        "unlabelled_confidence": 0.34, "max_rows": 40, "gather_dtype": "bf16", "target": "hard", "certainty": True,
    },
    "distribution": {
        "contrast": "distribution", "image_aware": False, "target": "uniform", "condition": "class",
        "smoothing": "adaptive_sample", "reach_px": (3, 9),
    },
    "teacher": {
        "teacher_decay": 0.7, "teacher_contrast": True, "teacher_outlier_weight": 0.1, "condition": "outer",
        "negatives": "other_type",
    },
}  # fmt: skip


class Graphs:
    """A compiler that runs what it is given as it stands, and counts."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        self.number += 1
        return graph.forward


def batch_of(step: int) -> Batch:
    batch = tiny_batch(step)
    told = batch.domain == 2
    return Batch(
        batch.image, batch.label, batch.domain, batch.slot, step, unlabelled=told, weak=batch.image[told]
    )  # fmt: skip


def played(model: MGCDA, loss: Any, step: int) -> list[torch.Tensor]:
    """Named sums of a step, and gradients of the prediction and of the method's own parameters."""
    batch = batch_of(step)
    counts, progress = model.count([batch]).start(), (step + 1) / 10
    counts.total()
    with torch.no_grad():
        prediction: Prediction = model.segmenter(batch.image)
    leaves = [x.detach().requires_grad_() for x in (prediction.logits, *prediction.stages.values())]
    stages = dict(zip(prediction.stages, leaves[1:], strict=True))
    model.zero_grad()
    outcome = loss(
        Prediction(leaves[0], stages, stages["embedding"]), batch, progress, counts, model.numbers(step, progress)
    )
    outcome.loss.backward()
    model.commit([outcome], model.total([outcome]))
    found = [x.grad for x in (*leaves, *model.parameters()) if x.grad is not None]
    return [outcome.sums[name] for name in sorted(outcome.sums)] + found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_method_is_one_graph(name: str):
    torch.compiler.reset()
    model, graphs = lively(**FAMILIES[name]), Graphs()
    twin = copy.deepcopy(model)
    traced = torch.compile(twin.loss, fullgraph=True, backend=graphs)
    for step in range(3 if name == "default" else 1):
        found, wanted = played(twin, traced, step), played(model, model.loss, step)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert graphs.number <= 2, "numbers of the step are inputs: one graph for the first, and one for all others"
