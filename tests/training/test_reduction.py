"""The gradients of two ranks are summed while the backward pass goes on, and nothing but the time changes by that."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.models.compiling import compile_blocks
from mgcda_dist.training.engine import DeepSpeedEngine
from mgcda_dist.training.reduction import GradientReduction
from tests.support.compiled import Deep, compiled_nodes
from tests.support.distributed import run_distributed
from tests.support.engine import micro_batches, tiny_engine
from tests.support.tiny import tiny_mgcda

_BATCH, _STEPS, _ACCUMULATION = 8, 2, 2
_BUCKET_MB = 0.001
Case = tuple[int, str, bool]
COMPILED: list[Case] = [(stage, "fp32", True) for stage in (0, 1)]
CASES: list[Case] = [(stage, precision, False) for stage in (0, 1, 2) for precision in ("fp32", "bf16")] + COMPILED
"""(ZeRO stage, precision, with a compiled network)."""


class _Seen(NamedTuple):
    """Of the last micro-batch of a step.

    Attributes:
        before: gradients that were there when each sum began.
        parts_done: parts of a compiled network that the backward pass was done with by then.
        parts: their number.
        gradients: of the network.
        parameters: after two steps.
        reserved: numbers that DeepSpeed keeps memory for in a bucket; 0: none.
    """

    before: list[int]
    parts_done: list[int]
    parts: int
    gradients: int
    parameters: list[Tensor]
    reserved: int


class _Sums(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.gradients, self.before, self.parts, self.parts_done = 0, list[int](), 0, list[int]()

    def begin(self, loss: Tensor) -> None:
        self.gradients, self.before, self.done, self.parts_done = 0, [], 0, []
        nodes = compiled_nodes(loss)
        self.parts = len(nodes)
        for node in nodes:
            node.register_hook(self._finish)

    def _finish(self, *_: Any) -> None:
        self.done += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and func._opname == "allreduce_":
            # Counts and values of the method travel in float64.
            sent = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            if sent[0].dtype != torch.float64 and sent[0].numel() > 100:
                self.before.append(self.gradients)
                self.parts_done.append(self.done)
        return func(*args, **(kwargs or {}))

    def count(self, _: Tensor) -> None:
        self.gradients += 1


def _step(engine: DeepSpeedEngine, step: int, watch: _Sums) -> None:
    batches = micro_batches(step, _BATCH, _ACCUMULATION)
    counts = engine.model.count(batches)
    for batch in batches:
        outcome = engine.forward(batch, 0.5, counts)
        watch.begin(outcome.loss)
        with watch:
            engine.backward(outcome.loss)
        engine.step(1.0)


def _train(case: Case, bucket_mb: float | None) -> _Seen:
    stage, precision, compiled = case
    model = tiny_mgcda(dtype=torch.float32)
    if compiled:
        torch.manual_seed(0)
        model.segmenter = Deep()
        assert len(compile_blocks(model.segmenter, (16, 24), backend="aot_eager")) == 4
    engine = tiny_engine(
        model,
        batch=_BATCH,
        zero_stage=stage,
        precision=precision,
        accumulation=_ACCUMULATION,
        bucket_mb=bucket_mb,
    )
    watch = _Sums()
    parameters = [p for p in engine.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(watch.count)
    for step in range(_STEPS):
        _step(engine, step, watch)
    reserved = getattr(engine._engine.optimizer, "reduce_bucket_size", 0)
    parameters = [p.detach().float().clone() for p in parameters]
    return _Seen(watch.before, watch.parts_done, watch.parts, len(parameters), parameters, reserved)


def _all() -> dict[Case, tuple[_Seen, _Seen]]:
    return {case: (_train(case, None), _train(case, _BUCKET_MB)) for case in CASES}


@pytest.fixture(scope="module")
def seen() -> list[dict[Case, tuple[_Seen, _Seen]]]:
    return run_distributed(_all, 2)


@pytest.mark.parametrize("case", CASES)
def test_the_sums_begin_during_the_backward_pass(seen: list[dict[Case, tuple[_Seen, _Seen]]], case: Case) -> None:
    for of_rank in seen:
        whole, overlapped = of_rank[case]
        assert min(whole.before) >= whole.gradients - 1, "without overlap, after the last gradient"
        # The network's own six come last; before them those of the discriminators, and of the rows that were gathered.
        assert overlapped.before[0] < overlapped.gradients - 5 and len(overlapped.before) >= 4
        numbers = sum(parameter.numel() for parameter in whole.parameters)
        assert whole.reserved in (0, numbers, numbers + 1), "not half a billion, whatever the network"


@pytest.mark.parametrize("case", COMPILED)
def test_so_do_those_of_a_compiled_network(seen: list[dict[Case, tuple[_Seen, _Seen]]], case: Case) -> None:
    """Gradients of one compiled part come all at its end."""
    for of_rank in seen:
        whole, overlapped = of_rank[case]
        assert overlapped.parts == 4
        assert set(whole.parts_done) == {4} and {1, 2, 3} & set(overlapped.parts_done), "a bucket has up to two blocks"


@pytest.mark.parametrize("case", CASES)
def test_both_orders_train_alike_on_both_ranks(seen: list[dict[Case, tuple[_Seen, _Seen]]], case: Case) -> None:
    """Two numbers have one sum in any order; the norm, which clips, is added up as before."""
    whole, overlapped = seen[0][case]
    for x, y, z in zip(whole.parameters, overlapped.parameters, seen[1][case][1].parameters, strict=True):
        assert torch.equal(x, y) and torch.equal(y, z)


def test_gradients_are_parts_of_what_is_sent() -> None:
    """Not copies of it, which would hold all of them a second time; one that no loss gives is 0."""
    network = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(4)))
    unused = torch.nn.Parameter(torch.ones(3))
    network(torch.ones(2, 8)).square().sum().backward()
    wanted = [p.grad for p in network.parameters()]
    network.zero_grad()
    reduction = GradientReduction([*network.parameters(), unused], 2 * 72 * 4, Collectives())
    reduction.begin(is_last=True)
    network(torch.ones(2, 8)).square().sum().backward()
    reduction.end()
    gradients = [p.grad for p in (*network.parameters(), unused)]
    torch.testing.assert_close(gradients, [*wanted, torch.zeros(3)], rtol=0, atol=0)
    assert len({x.untyped_storage().data_ptr() for x in gradients if x is not None}) == 3  # of 9
