"""The label tables: every raw id of every format lands where the datasets' papers say."""

from __future__ import annotations

import numpy as np
import pytest

from mgcda_dist.choices import CLASS_SPACES, KnownClassSpace
from mgcda_dist.data.labels import LABEL_FORMATS, SPACES, doubtful_labels, known_ids, lookup_table
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID

IDD7 = {
    "camvid": {3: 0, 4: 1, 9: 2, 10: 2, 8: 3, 2: 4, 6: 4, 7: 4, 1: 5, 5: 5, 0: 6, 11: VOID},
    "cityscapes_ids": {
        **dict.fromkeys([7, 9], 0),
        **dict.fromkeys([8, 10, 22], 1),
        **dict.fromkeys([24, 25], 2),
        23: 6,
        **dict.fromkeys(range(26, 34), 3),
        **dict.fromkeys([12, 13, 14, 17, 18, 19, 20], 4),
        **dict.fromkeys([11, 15, 16, 21], 5),
    },
    "idd_lite": {i: i for i in range(7)},
}
CITYSCAPES_TRAIN = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]


def test_class_spaces_are_the_configured_ones() -> None:
    assert set(SPACES) == set(CLASS_SPACES)
    for space, names in CLASS_SPACES.items():
        assert {i for i in SPACES[space].values() if i != INLIER} == set(range(len(names)))


@pytest.mark.parametrize("label_format", IDD7)
def test_common_seven_classes(label_format: str) -> None:
    expected = np.full(256, VOID)
    for raw, train in IDD7[label_format].items():
        expected[raw] = train
    np.testing.assert_array_equal(lookup_table(label_format, "idd7"), expected)


def test_cityscapes_ids_to_the_nineteen_classes() -> None:
    expected = np.full(256, VOID)
    expected[CITYSCAPES_TRAIN] = np.arange(19)
    np.testing.assert_array_equal(lookup_table("cityscapes_ids", "cityscapes19"), expected)
    np.testing.assert_array_equal(lookup_table("cityscapes_train_ids", "cityscapes19")[:19], np.arange(19))


def test_generated_labels_pass_unchanged() -> None:
    table = lookup_table("road8", "road8")
    np.testing.assert_array_equal(table[:8], np.arange(8))
    assert (table[254], table[255], table[8]) == (ANOMALY, VOID, VOID)


@pytest.mark.parametrize("space", CLASS_SPACES)
def test_anomaly_formats_are_the_same_in_every_space(space: str) -> None:
    assert lookup_table("road_anomaly", space)[:3].tolist() == [INLIER, VOID, ANOMALY]
    assert lookup_table("binary", space)[[0, 1, 255]].tolist() == [INLIER, ANOMALY, VOID]
    assert lookup_table("lost_and_found_ids", space)[[0, 1, 2, 200, 201]].tolist() == [
        VOID, INLIER, ANOMALY, ANOMALY, VOID
    ]  # fmt: skip


@pytest.mark.parametrize("space", CLASS_SPACES)
@pytest.mark.parametrize("label_format", LABEL_FORMATS)
def test_every_pair_gives_legal_values_and_unknown_ids_are_void(label_format: str, space: KnownClassSpace) -> None:
    table = lookup_table(label_format, space)
    assert table.dtype == np.uint8 and table.shape == (256,) and not table.flags.writeable
    legal = set(range(len(CLASS_SPACES[space]))) | {INLIER, ANOMALY, VOID}
    assert set(table.tolist()) <= legal
    unknown = sorted(set(range(256)) - known_ids(label_format))
    assert (table[unknown] == VOID).all()


@pytest.mark.parametrize(
    ("label_format", "ids", "named"),
    [
        ("binary", (0, 255), True),
        ("binary", (255,), True),
        ("binary", (0,), False),
        ("binary", (0, 1, 255), False),
        ("binary", (0, 3, 255), False),
        ("road_anomaly", (0, 255), True),
        ("lost_and_found_ids", (0, 255), True),
        ("binary_0_255", (0, 255), False),
        ("road8", (0, 255), False),
        ("cityscapes_train_ids", (0, 255), False),
        ("own", (0, 255), False),
        ("unlabelled", (), False),
    ],
)
def test_masks_of_0_and_255_are_recognised(label_format: str, ids: tuple[int, ...], named: bool) -> None:
    assert (doubtful_labels(label_format, dict.fromkeys(ids, 5)) is not None) == named


def test_train_ids_read_as_ids_of_cityscapes_are_recognised() -> None:
    """The ids of 0 to 18 are ids of both, and mean other classes."""
    found = doubtful_labels("cityscapes_ids", {0: 50, 8: 20, 18: 1, 255: 5})
    assert found is not None and "cityscapes_train_ids" in found[1]
    for whole in ({0: 5, 7: 50, 23: 9}, {0: 5, 7: 50, 23: 9, 255: 1}, {7: 50}):
        assert doubtful_labels("cityscapes_ids", whole) is None
    assert doubtful_labels("cityscapes_train_ids", {0: 50, 8: 20, 255: 5}) is None


@pytest.mark.parametrize(
    ("label_format", "inverted"),
    [("binary", {0: 5, 1: 95, 255: 400}), ("binary_0_255", {0: 5, 255: 95}), ("road_anomaly", {0: 2, 2: 98})],
)
def test_inverted_masks_are_recognised(label_format: str, inverted: dict[int, int]) -> None:
    found = doubtful_labels(label_format, inverted)
    assert found is not None and "of the judged pixels are anomalies" in found[0] and "inverted" in found[1]
    anomaly, normal = max(raw for raw in inverted if raw != 255 or label_format == "binary_0_255"), 0
    assert doubtful_labels(label_format, {**inverted, anomaly: 30, normal: 70}) is None


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean camvid\?; own or own_NAME are ids of your own"):
        lookup_table("camvod", "idd7")
    with pytest.raises(ConfigError, match="one of camvid, idd_lite"):
        lookup_table("xyzzy", "idd7")
    with pytest.raises(ConfigError, match="cityscapes19"):
        lookup_table("camvid", "cityscapes20")
