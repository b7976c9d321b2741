import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mgcda_dist.evaluation.codes import ancestors, code_is_tied, code_score, first_of_node, joined, order
from mgcda_dist.evaluation.ranks import anomaly_cuts, chunks, inlier_cuts

finite32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(num=st.integers(1, 5000), per_octave=st.integers(1, 600))
def test_inlier_chunks_are_small_against_what_ranks_above(num: int, per_octave: int) -> None:
    cuts = inlier_cuts(num, per_octave)
    ends = np.append(cuts[1:], num)
    assert cuts[0] == 0 and np.all(np.diff(cuts) > 0) and cuts[-1] < num
    sizes, above = ends - cuts, num - ends
    assert np.all((sizes == 1) | (sizes * per_octave <= above))
    assert cuts.size <= per_octave * (1 + max(0, np.ceil(np.log2(num / per_octave)))) + 1


@given(num=st.integers(1, 5000), parts=st.integers(1, 600))
def test_anomaly_chunks_are_of_one_size(num: int, parts: int) -> None:
    cuts = anomaly_cuts(num, parts)
    assert cuts[0] == 0 and cuts[-1] < num and cuts.size >= min(num, parts)


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 200), elements=finite32)
    | hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(allow_nan=False, allow_infinity=False))
    | hnp.arrays(np.float64, st.integers(1, 200), elements=st.integers(-900, 900).map(lambda k: 0.5 + k * 2.0**-53))
)
def test_rows_keep_order_ties_and_exact_scores(values: np.ndarray) -> None:
    scores = np.sort(values)
    codes, counts = chunks(scores, np.arange(scores.size, dtype=np.int64))
    distinct, expected = np.unique(scores + np.float32(0), return_counts=True)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(code_score(codes), distinct.astype(np.float64))
    assert np.all(code_is_tied(codes)) and np.all(first_of_node(codes))
    np.testing.assert_array_equal(order(codes), np.arange(len(codes)))
    assert codes.ndim == 1 or values.dtype == np.float64  # what single precision holds stays narrow


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(9, 300), elements=finite32 | st.just(0.25)),
    st.integers(1, 50),
    st.integers(-65, 64),
)
def test_narrow_and_wide_codes_move_alike(values: np.ndarray, parts: int, shift: int) -> None:
    scores = np.sort(values)
    narrow, _ = chunks(scores, anomaly_cuts(scores.size, parts))
    odd = np.nextafter(np.float64(0.5), 1)
    wide_one, _ = chunks(np.array([odd]), np.zeros(1, np.int64))
    assert narrow.ndim == 1 and wide_one.ndim == 2
    wide = joined([narrow, wide_one])[:-1]
    np.testing.assert_array_equal(code_score(wide), code_score(narrow))
    # A table that was narrow when it first moved ends where one ends that was wide from the start.
    moved = ancestors(joined([ancestors(narrow, shift), wide_one])[:-1], shift)
    np.testing.assert_array_equal(moved, ancestors(wide, shift))


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1.0, 2.5])),
    st.integers(1, 50),
)
def test_a_row_stands_between_its_lowest_and_highest_score(values: np.ndarray, parts: int) -> None:
    scores = np.sort(values)
    codes, counts = chunks(scores, anomaly_cuts(scores.size, parts))
    assert counts.sum() == scores.size
    ends = np.cumsum(counts)
    low, high, stands = scores[ends - counts], scores[ends - 1], code_score(codes)
    slack = 1e-12 * np.maximum(np.abs(low), np.abs(high)) + 1e-300
    assert np.all(stands >= low - slack) and np.all(stands <= high + slack)
    # No tie is cut: equal scores are in one row.
    assert np.all(low[1:] > high[:-1])
