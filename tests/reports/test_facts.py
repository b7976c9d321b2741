"""The summary of a report says what a run was trained with."""

from __future__ import annotations

from mgcda_dist.reports.facts import fact_table
from mgcda_dist.reports.runs import RunRecord


def test_the_method_names_all_that_is_on() -> None:
    bare = {"mdat.enabled": "False", "cacl.enabled": "True", "cacl.weight": "0.3"}
    taught = bare | {
        "teacher.enabled": "True", "teacher.weight": "1.0", "teacher.outlier_weight": "0.1",
        "data.augment.class_mix": "0.5", "data.augment.style": "0.0",
    }  # fmt: skip
    runs = [RunRecord(name="a", source="a", params=params) for params in (bare, taught)]
    (method,) = (fact.values for fact in fact_table(runs) if fact.name == "method")
    assert method[0] == "no MDAT, CACL × 0.3"
    assert method[1] == f"{method[0]}, teacher × 1.0, its inliers in the outlier term × 0.1, class mix 0.5"
