"""Shapes of a step do not depend on its data, and no number of it is read by the host, which a GPU would wait for.

On fake tensors, which have shapes and no content, whatever needs the content is an error.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from mgcda_dist.choices import Contrast
from mgcda_dist.method.batch import Batch, Prediction
from mgcda_dist.method.cacl import CACL, Budget, Selection
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.reduce import StepCounts

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, DOMAINS, DIM, IMAGES, STEP = 3, 2, 5, 4, 7


def energy(logits: Tensor) -> Tensor:
    return -logits.logsumexp(dim=1)


@pytest.mark.parametrize("shard", [None, (0, 1)])
@pytest.mark.parametrize(("rows_per_image", "max_rows"), [(None, None), (2, None), (None, 9)])
@pytest.mark.parametrize(
    ("selection", "contrast"),
    [
        (Selection(), "rows"),
        (Selection(negatives="other_type", cross_domain=False), "rows"),
        (Selection(positives="per_anchor"), "rows"),
        (Selection(positives="per_anchor", negatives_by="similarity"), "rows"),
        (Selection(), "distribution"),
    ],
)
def test_a_step_needs_no_content(
    selection: Selection,
    contrast: Contrast,
    rows_per_image: int | None,
    max_rows: int | None,
    shard: tuple[int, int] | None,
):
    budget = Budget(CLASSES, 4, 2)
    cacl = CACL(
        DIM, DOMAINS, budget, selection, projection_dim=8, queue_rows=6, contrast=contrast,
        queue_rows_per_image=rows_per_image, queue_shard=shard, unlabelled_confidence=0.9, max_rows=max_rows,
        gather_dtype="bf16" if max_rows else "fp32",
    )  # fmt: skip
    with FakeTensorMode(allow_non_fake_inputs=False) as fake:
        for module in cacl.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(fake.from_tensor(parameter)))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, fake.from_tensor(buffer))
        image, label = torch.empty(0), torch.zeros(IMAGES, 32, 32, dtype=torch.int64)
        slots = torch.arange(IMAGES)
        batch = Batch(image, label, slots % DOMAINS, slots, STEP)
        embedding = torch.zeros(IMAGES, DIM, 8, 8, requires_grad=True)
        prediction = Prediction(torch.zeros(IMAGES, CLASSES, 8, 8), {}, embedding)
        counts = StepCounts({"pixels": torch.zeros(())}, 1, Collectives())
        term, sample = cacl(cacl.start(prediction, batch, lambda seen: energy(seen.logits), counts), counts)
        term.local_loss.backward()
        cacl.remember([sample])
        assert sample.z.shape == (max_rows or budget.max_rows(IMAGES), 8)
        assert embedding.grad is not None


def test_what_needs_the_content_is_an_error():
    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException):
        torch.nonzero(torch.zeros(3))
