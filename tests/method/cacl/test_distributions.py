"""The memory as distributions: running moments against all rows so far, the bound against its formula."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.choices import Balance, Negatives
from mgcda_dist.method.cacl import CACL, Budget, PixelMetadata, Selection
from mgcda_dist.method.cacl.distributions import Distributions, contrast_expected, expected_similarity
from mgcda_dist.method.cacl.exchange import GatheredSample
from mgcda_dist.method.cacl.rows import pull, push_apart
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.reduce import known, local_mean, read_scalars
from tests.support import reference

pytestmark = pytest.mark.usefixtures("one_thread")

DOMAINS, CLASSES, DIM = 3, 2, 4
KINDS = st.lists(st.tuples(st.integers(0, CLASSES), st.integers(0, DOMAINS - 1)), max_size=14)  # (type, domain)


def rows_of(kinds: list[tuple[int, int]], seed: int) -> tuple[PixelMetadata, Tensor]:
    """Rows of the given (type, domain), and their embeddings."""
    generator = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(len(kinds), DIM, generator=generator, dtype=torch.float64), dim=1)
    of_type, domain = (torch.tensor([kind[i] for kind in kinds], dtype=torch.int64) for i in (0, 1))
    return PixelMetadata(of_type, domain, torch.zeros(len(kinds)), torch.arange(len(kinds))), z


def as_list(kinds: list[tuple[int, int]], z: Tensor) -> list[reference.Row]:
    return [reference.Row(z[i].tolist(), kind, domain, 0.0, i) for i, (kind, domain) in enumerate(kinds)]


@settings(max_examples=60, deadline=None)
@given(pushes=st.lists(KINDS, min_size=1, max_size=5), momentum=st.sampled_from([0.0, 0.7, 1.0]))
def test_running_moments_are_those_of_all_rows_by_age(pushes: list[list[tuple[int, int]]], momentum: float):
    distributions = Distributions(DOMAINS, CLASSES, DIM, momentum).double()
    expected = reference.Gaussians(momentum)
    for step, kinds in enumerate(pushes):
        rows, z = rows_of(kinds, step)
        distributions.update(rows, z)
        expected.push(as_list(kinds, z))
        for index in range(DOMAINS * (CLASSES + 1)):
            key = divmod(index, CLASSES + 1)
            known = key in expected.rows
            assert (distributions.weight[index] > 0) == known
            if known:
                mean, variance = expected.moments(key)
                assert distributions.mean[index].tolist() == pytest.approx(mean, abs=1e-12)
                assert distributions.variance[index].tolist() == pytest.approx(variance, abs=1e-12)
    assert float(distributions.signals()["distributions_known"]) == pytest.approx(len(expected.rows) / 9)


def contrasting(selection: Selection, temperature: float = 0.3, balance: Balance = "anchors") -> CACL:
    budget = Budget(CLASSES, 2, 1, 0.5, False)
    return CACL(
        6, DOMAINS, budget, selection, projection_dim=DIM, temperature=temperature, balance=balance,
        contrast="distribution", queue_shard=(0, 2),
    ).double()  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    memory=KINDS,
    batch=KINDS,
    cross_domain=st.booleans(),
    negatives=st.sampled_from(get_args(Negatives)),
    balance=st.sampled_from(get_args(Balance)),
    temperature=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_agrees_with_the_formula(
    memory: list[tuple[int, int]],
    batch: list[tuple[int, int]],
    cross_domain: bool,
    negatives: Negatives,
    balance: Balance,
    temperature: float,
):
    cacl = contrasting(Selection(cross_domain=cross_domain, negatives=negatives), temperature, balance)
    assert cacl.distributions is not None
    rows, z = rows_of(memory, 1)
    cacl.distributions.update(rows, z)
    gaussians = reference.Gaussians(1.0)
    gaussians.push(as_list(memory, z))
    rows, z = rows_of(batch, 2)
    total, count, _ = cacl.contrast(sample(rows, z), Collectives())
    terms = reference.contrastive_in_expectation(
        as_list(batch, z), gaussians, anomaly_type=CLASSES, temperature=temperature, cross_domain=cross_domain,
        negatives=negatives,
    )  # fmt: skip
    wanted = reference.mean_over_anchors(terms, CLASSES, balance)
    assert local_mean(total, count, 1).item() == pytest.approx(wanted, abs=1e-7)
    assert count.sum() == len(terms)


def sample(rows: PixelMetadata, z: Tensor) -> GatheredSample:
    return GatheredSample(rows, z, 50, 3, torch.tensor(0))


def test_gradient():
    cacl = contrasting(Selection())
    cacl.remember([sample(*rows_of([(0, 0), (0, 1), (0, 1), (2, 0), (2, 1), (2, 1), (1, 2)], 1))])
    rows, z = rows_of([(0, 0), (2, 1), (1, 2), (1, 0)], 2)
    assert torch.autograd.gradcheck(
        lambda z: cacl.contrast(sample(rows, z), Collectives())[0].sum(), z.requires_grad_()
    )


# ------------------------------------------------------------------------------------------------- what the bound means


def test_without_variance_it_is_the_loss_against_the_means():
    anchors, means = torch.randn(3, DIM).double(), torch.randn(5, DIM).double()
    positive = torch.tensor([True, True, False, False, False]).expand(3, 5)
    expected, log_expected = expected_similarity(anchors, means, torch.zeros(5, DIM), 0.5)
    bound = contrast_expected(expected, log_expected, positive, ~positive)
    torch.testing.assert_close(bound, pull(expected, positive, push_apart(expected, ~positive)))


def test_it_bounds_the_expected_loss_of_drawn_rows():
    generator = torch.Generator().manual_seed(0)
    anchor = F.normalize(torch.randn(1, DIM, generator=generator, dtype=torch.float64), dim=1)
    means = 0.5 * torch.randn(3, DIM, generator=generator, dtype=torch.float64)
    variance = 0.3 * torch.rand(3, DIM, generator=generator, dtype=torch.float64)
    drawn = means + variance.sqrt() * torch.randn(200_000, 3, DIM, generator=generator, dtype=torch.float64)
    similarity = drawn @ anchor[0] / 0.5
    expected, log_expected = expected_similarity(anchor, means, variance, 0.5)
    torch.testing.assert_close(similarity.mean(dim=0), expected[0], rtol=0, atol=0.01)
    torch.testing.assert_close(similarity.exp().mean(dim=0).log(), log_expected[0], rtol=0, atol=0.02)
    positive = torch.tensor([[True, False, False]])
    loss = pull(similarity, positive, push_apart(similarity, ~positive)).mean()
    bound = contrast_expected(expected, log_expected, positive, ~positive)
    assert loss < bound.item() < loss + 0.5


# ----------------------------------------------------------------------------------------------------------- the memory


def test_moments_move_once_per_step_whatever_its_micro_batches():
    kinds = [(0, 0), (0, 0), (2, 0), (0, 0), (2, 1), (0, 0)]
    whole, parts = contrasting(Selection()), contrasting(Selection())
    for step in range(3):
        rows, z = rows_of(kinds, step)
        whole.remember([sample(rows, z)])
        halves = [torch.arange(6) < 3, torch.arange(6) >= 3]
        parts.remember([sample(rows.where(half), z[half]) for half in halves])
    assert whole.distributions is not None and parts.distributions is not None
    for found, wanted in zip(parts.distributions.buffers(), whole.distributions.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_what_was_read_does_not_change_when_rows_enter():
    cacl = contrasting(Selection())
    rows, z = rows_of([(0, 0), (0, 1), (2, 0), (2, 1)], 1)
    cacl.remember([sample(rows, z)])
    z.requires_grad_()
    total, *_ = cacl.contrast(sample(rows, z), Collectives())
    (wanted,) = torch.autograd.grad(total.sum(), z, retain_graph=True)
    cacl.remember([sample(*rows_of([(0, 0), (2, 1)], 2))])
    (found,) = torch.autograd.grad(total.sum(), z)
    assert torch.equal(found, wanted)


def test_it_has_no_queue_and_keeps_its_moments_in_single_precision():
    cacl = contrasting(Selection()).bfloat16()
    assert cacl.queue.capacity == 0 and not cacl.queue.is_sharded
    assert cacl.distributions is not None
    assert {buffer.dtype for buffer in cacl.distributions.buffers()} == {torch.float32}
    assert list(known(read_scalars(cacl.signals(0, {"cacl/pairs": torch.tensor([[4, 1], [0, 0]])})))) == [
        "distributions_known",
        "crossing_inlier",
    ]
    assert {name for name in cacl.state_dict() if name.startswith("distributions.")} == {
        "distributions.weight", "distributions.mean", "distributions.variance",
    }  # fmt: skip
