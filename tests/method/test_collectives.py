"""Collectives without a process group; with processes: tests/multiprocess."""

from __future__ import annotations

import copy

import torch

from mgcda_dist.method.collectives import Collectives


def test_a_single_process_is_the_identity_and_pays_nothing():
    collectives = Collectives()
    assert (collectives.size, collectives.rank) == (1, 0)
    x = torch.arange(6.0, requires_grad=True)
    assert collectives.start_gather(x, "rows").wait() is x
    total = collectives.start_sum(x, "sum").wait()
    assert torch.equal(total, x.detach()) and not total.requires_grad
    assert not collectives.stats.calls and not collectives.stats.num_bytes


def test_the_sum_does_not_alias_its_argument():
    x = torch.ones(3)
    pending = Collectives().start_sum(x, "sum")
    x.zero_()
    assert pending.wait().tolist() == [1.0, 1.0, 1.0] and pending.wait() is pending.wait()


def test_a_copied_module_talks_over_the_same_group():
    collectives = Collectives()
    assert copy.deepcopy(collectives) is collectives
