"""The summary of a report says what a run was trained with."""

from __future__ import annotations

from mgcda_dist.reports.facts import fact_table
from mgcda_dist.reports.histories import HISTORIES, matching_metrics
from mgcda_dist.reports.plots import history_plots
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


def test_the_time_names_the_use_of_a_gpu() -> None:
    history = {
        "time/images_per_s": ([0, 1, 2], [0.0, 20.0, 22.0]),
        "time/mfu": ([1, 2], [0.4, 0.42]),
        "time/busy_share": ([1, 2], [0.9, 0.95]),
        "time/launches": ([12], [812.0]),
        "gpu/peak_memory_gib": ([1, 2], [20.0, 21.5]),
    }
    run = RunRecord(name="a", source="a", read_history=lambda: history, started_s=0.0, ended_s=60.0)
    (words,) = (fact.values[0] for fact in fact_table([run]) if fact.name == "time")
    assert words.endswith(
        "median 22.0 images/s, median MFU 42%, median GPU busy 95%, median 812 launches a step, "
        "at most 21.5 GiB of a GPU's memory"
    )
    plots = {plot.title: list(matching_metrics(history, plot.pattern)) for plot in HISTORIES}
    assert plots["Use of a GPU"] == ["mfu", "busy share"] and plots["Peak memory of a GPU"] == ["peak memory"]


def test_accuracies_in_each_domain_have_a_plot_for_each_stage() -> None:
    """Lines of ten stages and domains in one plot would share colours."""
    names = [f"mdat/{stage}/domain/{domain}" for stage in ("stride16", "embedding") for domain in ("day", "night")]
    history = {name: ([0, 1], [0.1 * n, 0.5]) for n, name in enumerate(names)}
    plots = [plot for _, plot in history_plots([("a", history)])]
    assert {plot.title: [(line.label, line.colour) for line in plot.lines] for plot in plots} == {
        f"Discriminator accuracy in each domain: {stage}": [("day", 0), ("night", 1)]
        for stage in ("stride16", "embedding")
    }
    both = [plot.title for _, plot in history_plots([("a", history), ("b", history)])]
    assert both == [f"Discriminator accuracy in each domain: {name[5:].replace('/', ' ')}" for name in names]
