"""Comparisons: groups over seeds, intervals that hold what they say, and what is refused in words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.bootstrap import ImageTables, bootstrap, paired_difference, replicates_of
from mgcda_dist.reports.compare import Comparison, compare
from mgcda_dist.reports.groups import differing_params, group_runs
from mgcda_dist.reports.runs import RunRecord, find_runs
from mgcda_dist.reports.tables import as_json, findings, latex, markdown
from tests.support.runs import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations under three seeds, the second one better; and one run that hardly differs."""
    folder = tmp_path_factory.mktemp("compare")
    for seed in range(3):
        write_run(folder / f"base-s{seed}", skill=2.0 + 0.03 * seed, seed=seed, mdat={"enabled": False})
        write_run(folder / f"full-s{seed}", skill=2.4 + 0.03 * seed, seed=seed)
    write_run(folder / "even", skill=2.03, mdat={"enabled": False, "weight": 1.0})
    return folder


@pytest.fixture(scope="module")
def comparison(runs: Path) -> Comparison:
    return compare(_records(runs), reference="base", replicates=200)


def _records(*folders: Path) -> list[RunRecord]:
    return find_runs([str(folder) for folder in folders])[0]


def _tables(run: Path) -> ImageTables:
    return ImageTables.load(run / "evaluation" / "sets" / "road" / "frames.npz")


def _edit(run: Path, change: dict[str, Any], row: dict[str, Any] | None = None) -> Path:
    file = run / "evaluation" / "results.json"
    results = json.loads(file.read_text()) | change
    results["sets"]["road"] |= row or {}
    file.write_text(json.dumps(results))
    return run


def test_runs_that_differ_in_the_seed_are_a_group(runs: Path) -> None:
    groups = group_runs(_records(runs))
    assert [(g.name, g.seeds) for g in groups] == [
        ("base", ("0", "1", "2")),
        ("even", ("0",)),
        ("full", ("0", "1", "2")),
    ]
    assert differing_params(groups) == {"mdat.enabled": ["False", "False", "True"], "mdat.weight": ["–", "1", "–"]}


def test_numbers_written_in_two_ways_are_equal_and_workers_make_no_group(tmp_path: Path) -> None:
    write_run(tmp_path / "a-s0", optim={"lr": 1e-3}, scaling={"workers": 1})
    write_run(tmp_path / "a-s1", seed=1, optim={"lr": "0.0010"}, scaling={"workers": 2})
    (group,) = group_runs(_records(tmp_path))
    assert group.name == "a"


def test_one_run_each_is_the_paired_bootstrap(runs: Path) -> None:
    one, two = runs / "base-s0", runs / "full-s0"
    comparison = compare(_records(one, two), replicates=200)
    (road,) = comparison.sets
    assert [note for note in comparison.notes if note.startswith("Few frames: road (12).")]
    before, after = (replicates_of(_tables(each), replicates=200) for each in (one, two))
    expected = {metric: paired_difference(after[metric] - before[metric], 0.95) for metric in before}
    alone = bootstrap(_tables(one), replicates=200)
    for metric in ("ap", "auroc", "fpr95", "miou"):
        difference, cell = road.differences["full-s0"][metric], road.cells["base-s0"][metric]
        assert (difference.low, difference.high) == (expected[metric].low, expected[metric].high)
        assert difference.p_value == difference.p_corrected == expected[metric].p_value
        assert difference.value == pytest.approx(expected[metric].value, abs=1e-3)
        assert (cell.low, cell.high) == (alone[metric].low, alone[metric].high)
    assert road.differences["full-s0"]["ap"].verdict == "better"
    assert road.differences["full-s0"]["fpr95"].verdict == "better" and road.differences["full-s0"]["fpr95"].value < 0


def test_groups_have_mean_spread_and_an_interval_over_images_and_runs(runs: Path, comparison: Comparison) -> None:
    (road,) = comparison.sets
    values = [json.loads((runs / f"base-s{s}" / "results.json").read_text())["sets"]["road"]["ap"] for s in range(3)]
    cell = road.cells["base"]["ap"]
    assert cell.value == pytest.approx(np.mean(values)) and cell.spread == pytest.approx(np.std(values, ddof=1))
    assert cell.low < cell.value < cell.high and cell.num_runs == 3
    assert math.isnan(road.cells["even"]["ap"].spread)
    assert road.differences["full"]["ap"].verdict == "better"
    assert road.differences["even"]["ap"].verdict == "not significant"
    assert road.differences["full"]["miou"].verdict == "better"
    assert "base" not in road.differences


def test_holm_over_the_rows_of_a_column(comparison: Comparison) -> None:
    (road,) = comparison.sets
    p = {name: row["ap"].p_value for name, row in road.differences.items()}
    corrected = {name: row["ap"].p_corrected for name, row in road.differences.items()}
    assert p["full"] < p["even"]
    assert corrected == {"full": pytest.approx(2 * p["full"]), "even": pytest.approx(max(2 * p["full"], p["even"]))}


def test_the_interval_of_a_group_has_the_width_of_a_mean_of_its_runs() -> None:
    """Drawing K - 1 of K runs: the variance of the drawn mean is s²/K, not (K - 1)/K of it."""
    values = np.array([0.1, 0.5, 0.2, 0.9])
    drawn = np.random.default_rng(0).choice(values, (200_000, values.size - 1)).mean(axis=1)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / values.size, rel=0.02)


@pytest.mark.parametrize(
    ("change", "row", "says"),
    [
        ({"convention": "smiyc"}, {}, "b is not compared with a: convention smiyc, not pooled"),
        ({}, {"manifest_digest": "e" * 64}, "other data of the same name (manifest digest eeeeeeee, not dddddddd)"),
        ({}, {"paste": {"objects_digest": "0"}}, "other objects were pasted"),
        ({}, {"pixels": {"anomaly": 1, "inlier": 2}}, "other labels on the same frames"),
    ],
)
def test_what_was_measured_in_another_way_is_not_subtracted(
    tmp_path: Path, change: dict[str, Any], row: dict[str, Any], says: str
) -> None:
    write_run(tmp_path / "a", lr=1)
    _edit(tmp_path / "a", {}, {"pixels": {"anomaly": 2, "inlier": 2}})
    _edit(write_run(tmp_path / "b", lr=2), {}, {"pixels": {"anomaly": 2, "inlier": 2}})
    _edit(tmp_path / "b", change, row)
    (road,) = compare(_records(tmp_path), replicates=100).sets
    assert road.differences == {} and set(road.cells) == {"a", "b"}
    assert any(says in mark for mark in road.marks), road.marks


def test_other_frames_are_not_subtracted_and_other_options_are_marked(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1)
    write_run(tmp_path / "b", lr=2, frames=10)
    _edit(write_run(tmp_path / "c", lr=3), {"blur": True})
    result = compare(_records(tmp_path), replicates=100)
    (road,) = result.sets
    assert set(road.differences) == {"c"}
    assert "road: b is not compared with a: other frames (2 missing, 0 more)." in findings(result)
    assert "road: c: evaluated in another way: blur True, not False." in findings(result)


def test_without_frames_there_are_values_and_no_verdicts(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1)
    write_run(tmp_path / "b", lr=2)
    (tmp_path / "b" / "evaluation" / "sets" / "road" / "frames.npz").unlink()
    result = compare(_records(tmp_path), replicates=100)
    (road,) = result.sets
    assert road.differences["b"]["ap"].verdict == "not tested" and math.isfinite(road.differences["b"]["ap"].value)
    assert road.marks == ["no intervals for b: the frames were not kept; evaluate again"]
    text = json.dumps(as_json(result), allow_nan=False)
    assert json.loads(text)["sets"]["road"]["differences"]["b"]["ap"]["p_value"] is None


def test_an_evaluation_from_before_intervals_of_miou_is_not_tested_in_it(tmp_path: Path) -> None:
    old = write_run(tmp_path / "a", lr=1) / "evaluation" / "sets" / "road" / "frames.npz"
    write_run(tmp_path / "b", lr=2)
    with np.load(old) as file:
        content = {name: file[name] for name in file.files if name != "classes"}
    np.savez_compressed(old, **content)
    (road,) = compare(_records(tmp_path), replicates=100).sets
    assert road.differences["b"]["miou"].verdict == "not tested" and road.differences["b"]["ap"].verdict != "not tested"
    assert road.marks == ["no intervals of mIoU for a: an older evaluation; evaluate again"]


def test_a_run_that_is_still_going_on_is_left_out_and_named(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"base-s{seed}", seed=seed, lr=1)
        write_run(tmp_path / f"full-s{seed}", seed=seed, lr=2)
    for file in ("evaluation/results.json", "results.json"):
        (tmp_path / "full-s2" / file).unlink()
    result = compare(_records(tmp_path), replicates=100)
    assert [(group.name, group.seeds) for group in result.groups] == [("base", ("0", "1", "2")), ("full", ("0", "1"))]
    assert result.sets[0].differences["full"]["ap"].verdict != "not tested"
    assert "Left out, no results yet: full-s2." in result.notes
    with pytest.raises(MgcdaError, match="full-s2 has no results yet\n  → let it finish, or name another run"):
        compare(_records(tmp_path), reference="full-s2")


def test_sets_that_one_run_lacks_and_training_data_that_differs_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1)
    b = write_run(tmp_path / "b", lr=2)
    file = b / "evaluation" / "results.json"
    results = json.loads(file.read_text())
    results["sets"]["snow"] = {**results["sets"]["road"]}
    file.write_text(json.dumps(results))
    manifests = json.loads((b / "manifests.json").read_text())
    manifests["train/camvid"]["digest"] = "f" * 64
    (b / "manifests.json").write_text(json.dumps(manifests))
    result = compare(_records(tmp_path), replicates=100)
    assert [one.name for one in result.sets] == ["road", "snow"]
    assert "a was not evaluated on snow: compared with b" in result.sets[1].marks
    assert "The runs did not read the same training data under the same name: train/camvid." in result.notes


def test_errors_say_what_there_is(tmp_path: Path, runs: Path) -> None:
    records = _records(runs / "base-s0", runs / "full-s0")
    with pytest.raises(MgcdaError, match="none of the runs is called 'ful'\n  → one of base-s0, full-s0"):
        compare(records, reference="ful")
    with pytest.raises(MgcdaError, match="no run has it\n  → there are ap, auroc, best_f1, fpr95, miou"):
        compare(records, metrics=["aupr"])
    unfinished = write_run(tmp_path / "unfinished")
    (unfinished / "evaluation" / "results.json").unlink()
    (unfinished / "results.json").unlink()
    with pytest.raises(MgcdaError, match="none of the runs has results"):
        compare(_records(unfinished))
    cut = write_run(tmp_path / "cut")
    (cut / "evaluation" / "sets" / "road" / "frames.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(MgcdaError, match=r"frames\.npz: not readable"):
        compare(_records(cut))


def test_markdown_and_latex_hold_the_same_rows(comparison: Comparison) -> None:
    text, paper = markdown(comparison), latex(comparison)
    assert "| mdat.enabled | False | False | True |" in text and r"mdat.enabled & False & False & True \\" in paper
    assert "road, against base: full is better in AP" in text
    assert text.count("\n| full |") == paper.count("\n    full &") == 5
    assert "convention pooled, \\%" in paper and r"$\pm$" in paper and "±" not in paper.split("% road")[0]
    assert paper.count(r"\begin{table}") == paper.count(r"\end{table}") == 3
