"""Objects: three disjoint sets of families, each a clean cut-out that stands on its last row."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import pytest

from mgcda_dist.demo_scenes.objects import FAMILIES, FamilySet, draw_object, pick_family

EVERY = [family for members in FAMILIES.values() for family in members]


def test_no_family_is_in_two_sets() -> None:
    assert set(FAMILIES) == set(get_args(FamilySet))
    for first, second in combinations(FAMILIES.values(), 2):
        assert not set(first) & set(second)
        assert not {draw for draw, _ in first.values()} & {draw for draw, _ in second.values()}


@pytest.mark.parametrize("family", EVERY)
def test_an_object_is_a_tight_cut_out(family: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        picture = draw_object(family, rng)
        rgba, solid = picture.rgba, picture.rgba[..., 3] > 127
        assert rgba.dtype == np.uint8 and rgba.shape[2] == 4
        assert solid[0].any() and solid[-1].any() and solid[:, 0].any() and solid[:, -1].any()
        assert 0.1 < solid.mean() < 1
        assert min(rgba.shape[:2]) >= 20 and max(rgba.shape[:2]) < 400
        assert 0.2 < picture.height_m < 2 and 0.1 < picture.width_m < 3
        assert rgba[..., :3][solid].std() > 2  # shaded, not a silhouette


def test_objects_of_a_family_differ() -> None:
    rng = np.random.default_rng(1)
    for family in EVERY:
        first, second = draw_object(family, rng), draw_object(family, rng)
        assert first.rgba.shape != second.rgba.shape or not np.array_equal(first.rgba, second.rgba)


def test_every_family_of_a_set_is_picked() -> None:
    rng = np.random.default_rng(2)
    for name, members in FAMILIES.items():
        assert {pick_family(name, rng) for _ in range(200)} == set(members)
