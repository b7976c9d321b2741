"""The schedule of faults is a pure function of the seed."""

from __future__ import annotations

from collections import Counter

import pytest

from mgcda_dist.chaos.schedule import KINDS, schedule
from mgcda_dist.errors import ConfigError


def test_equal_seeds_give_equal_faults_in_the_order_of_their_steps() -> None:
    plan = schedule(3, 12, 60, 2)
    assert plan == schedule(3, 12, 60, 2) != schedule(4, 12, 60, 2)
    assert [fault.at_step for fault in plan] == sorted(fault.at_step for fault in plan)
    assert plan[0].at_step >= 6 and plan[-1].at_step < 60 - 7
    assert all(0 <= fault.delay_s <= 0.3 and fault.rank in (0, 1) for fault in plan)


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_is_used_before_one_is_used_again(seed: int) -> None:
    counts = Counter(fault.kind for fault in schedule(seed, 12, 100, 2))
    assert counts.keys() == KINDS.keys() and max(counts.values()) == 2


def test_unknown_kinds_and_short_runs_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown kind 'flood'"):
        schedule(0, 3, 60, 2, ("flood",))
    with pytest.raises(ConfigError, match="20 steps are too few for 12 faults"):
        schedule(0, 12, 20, 2)
