"""A network that torch's compiler compiled, in DeepSpeed's engine, trains as the same network without.

Elsewhere in the tests it is traced and differentiated alone (`aot_eager`), since compilers take their time.
"""

from __future__ import annotations

import pytest
import torch

from mgcda_dist.models.compiling import compile_blocks
from tests.support.compiled import Deep, compiled_nodes
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import tiny_mgcda

_BATCH, _STEPS = 4, 3


def _losses(stage: int, *, compiled: bool) -> list[float]:
    """Losses of some steps of this rank."""
    model = tiny_mgcda(dtype=torch.float32)
    torch.manual_seed(0)
    model.segmenter = Deep()
    if compiled:
        compile_blocks(model.segmenter, (16, 24))
    engine = tiny_engine(model, batch=_BATCH, zero_stage=stage)
    losses = list[float]()
    for step in range(_STEPS):
        (batch,) = micro_batches(step, _BATCH)
        outcome = engine.forward(batch, 0.5, engine.model.count([batch]))
        assert bool(compiled_nodes(outcome.loss)) == compiled
        engine.backward(outcome.loss)
        engine.step(1.0)
        losses.append(float(outcome.loss))
    return losses


def _both(stage: int) -> tuple[list[float], list[float]]:
    return _losses(stage, compiled=False), _losses(stage, compiled=True)


@pytest.mark.extended
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_compiled_network_trains_as_without(stage: int) -> None:
    for eager, compiled in run_distributed(_both, 2, stage, timeout_s=600):
        assert compiled == pytest.approx(eager, rel=1e-4) and len(set(eager)) == _STEPS
