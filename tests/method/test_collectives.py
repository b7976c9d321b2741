"""Collectives without a process group, and the arithmetic of shares; with processes: tests/multiprocess."""

from __future__ import annotations

import copy

import pytest
import torch

from mgcda_dist.method.collectives import Collectives, global_mean_share


def test_a_single_process_is_the_identity_and_pays_nothing():
    collectives = Collectives()
    assert (collectives.size, collectives.rank) == (1, 0)
    x = torch.arange(6.0, requires_grad=True)
    assert collectives.gather(x, "rows") is x
    total = collectives.start_sum(x, "sum").wait()
    assert torch.equal(total, x.detach()) and not total.requires_grad
    assert not collectives.account.calls and not collectives.account.num_bytes


def test_the_sum_does_not_alias_its_argument():
    x = torch.ones(3)
    pending = Collectives().start_sum(x, "sum")
    x.zero_()
    assert pending.wait().tolist() == [1.0, 1.0, 1.0] and pending.wait() is pending.wait()


def test_a_copied_module_talks_over_the_same_group():
    collectives = Collectives()
    assert copy.deepcopy(collectives) is collectives


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_the_mean_of_the_shares_is_the_global_value(num_ranks: int):
    # Unequal counts, a group one rank lacks, and a group nobody has.
    counts = torch.tensor([[3.0, 0.0, 5.0, 0.0], [1.0, 2.0, 0.0, 0.0], [7.0, 1.0, 1.0, 0.0]])[:num_ranks].double()
    sums = torch.tensor([[1.0, 0.0, -2.0, 0.0], [4.0, 3.0, 0.0, 0.0], [0.5, 0.25, 8.0, 0.0]])[:num_ranks].double()
    whole = counts.sum(dim=0)
    shares = [global_mean_share(row, whole, num_ranks) for row in sums]
    present = whole > 0
    expected = (sums.sum(dim=0)[present] / whole[present]).mean()
    assert torch.stack(shares).mean().item() == pytest.approx(expected.item(), abs=1e-15)


def test_without_any_group_the_share_is_a_zero_that_touches_the_sums():
    sums = torch.zeros(3, requires_grad=True)
    share = global_mean_share(sums, torch.zeros(3), 4)
    share.backward()
    assert share.item() == 0.0 and sums.grad is not None and not sums.grad.any()
