"""A container's share of processors counts, not those of its host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mgcda_dist.processors import usable_processors

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),  # half of one is one
        ("max 100000\n", ALL),
        (f"{ALL + 5}00000 100000\n", ALL),
        ("", ALL),
    ],
)
def test_the_quota_of_a_container_is_a_bound(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_processors(tmp_path / "cpu.max") == expected


def test_without_a_quota_all_of_the_affinity(tmp_path: Path) -> None:
    assert usable_processors(tmp_path / "none") == ALL
