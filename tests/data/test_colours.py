"""Colours: known names have theirs however they are spelt, and no two classes look alike."""

from __future__ import annotations

import numpy as np

from mgcda_dist.choices import CLASS_SPACES
from mgcda_dist.data.colours import ANOMALY, UNKNOWN, class_colours, colour_of
from mgcda_dist.data.labels import FORMATS


def test_names_are_known_with_spaces_and_underscores() -> None:
    assert colour_of("traffic light") == colour_of("Traffic_Light") == (250, 170, 30)
    assert colour_of("unicorn") is None
    for names in (*CLASS_SPACES.values(), *(tuple(ids.values()) for ids in FORMATS.values())):
        assert all(colour_of(name) is not None for name in names), names


def test_classes_differ_from_each_other_and_from_anomalies() -> None:
    names = ["road", "drivable", *(f"thing {i}" for i in range(40))]
    colours = np.array([*class_colours(names), ANOMALY, UNKNOWN], int)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=2)
    assert (apart + 99 * np.eye(len(colours)) > 3).all()
    assert (apart[2:-2, -2:] > 60).all()
