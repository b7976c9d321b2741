"""Named sums come back under their names and shapes; a local mean is a share of the global one."""

from __future__ import annotations

import pytest
import torch

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.reduce import NamedSum, StepCounts, local_mean
from tests.support.distributed import run_distributed

ALONE = Collectives()


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_the_mean_of_the_shares_is_the_global_value(num_parts: int):
    # Unequal counts, a group one rank lacks, and a group nobody has.
    counts = torch.tensor([[3.0, 0.0, 5.0, 0.0], [1.0, 2.0, 0.0, 0.0], [7.0, 1.0, 1.0, 0.0]])[:num_parts].double()
    sums = torch.tensor([[1.0, 0.0, -2.0, 0.0], [4.0, 3.0, 0.0, 0.0], [0.5, 0.25, 8.0, 0.0]])[:num_parts].double()
    whole = counts.sum(dim=0)
    shares = [local_mean(row, whole, num_parts) for row in sums]
    present = whole > 0
    expected = (sums.sum(dim=0)[present] / whole[present]).mean()
    assert torch.stack(shares).mean().item() == pytest.approx(expected.item(), abs=1e-15)


def test_without_any_group_the_share_is_a_zero_that_touches_the_sums():
    sums = torch.zeros(3, requires_grad=True)
    share = local_mean(sums, torch.zeros(3), 4)
    share.backward()
    assert share.item() == 0.0 and sums.grad is not None and not sums.grad.any()


def test_a_scalar_is_one_group():
    assert local_mean(torch.tensor(6.0), torch.tensor(4), 3).item() == 4.5
    assert local_mean(torch.tensor(0.0), torch.tensor(0), 3).item() == 0.0


def test_names_and_shapes_come_back():
    local = {"loss/a": torch.tensor(1.5), "b": torch.arange(6).view(2, 3), "count": torch.tensor(7)}
    found = NamedSum(local, ALONE, "values")
    assert {name: (x.tolist(), x.dtype) for name, x in found.wait().items()} == {
        name: (x.double().tolist(), torch.float64) for name, x in local.items()
    }
    assert found.scalars() == {"loss/a": 1.5, "count": 7.0}


def test_large_counts_are_exact():
    half = torch.tensor(2**25 + 1)
    assert NamedSum({"n": half + half - 1}, ALONE, "counts").scalars() == {"n": 2.0**26 + 1}


def _sums_of_two_ranks() -> tuple[dict[str, list[float]], dict[str, float], dict[str, int]]:
    world = Collectives()
    counts = StepCounts({"pixels": torch.tensor([1.0, world.rank])}, 2, world)
    first = counts.sum_beside({"d": torch.tensor(10.0 * world.rank)}, "difficulty")
    second = counts.sum_beside({"d": torch.tensor(1.0)}, "difficulty")
    total = {name: x.tolist() for name, x in counts.total().items()}
    return total, {"first": first["d"].item(), "second": second["d"].item()}, dict(world.stats.calls)


def test_counts_travel_once_and_with_the_first_sum_beside_them():
    for total, beside, calls in run_distributed(_sums_of_two_ranks, 2):
        assert total == {"pixels": [2.0, 1.0]}
        assert beside == {"first": 10.0, "second": 2.0}
        assert calls == {"counts": 1, "difficulty": 1}
