"""A comparison as tables and sentences, and those as Markdown, LaTeX and JSON."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from mgcda_dist.choices import METRICS
from mgcda_dist.evaluation.tables import metric_column
from mgcda_dist.reports.compare import Comparison, Difference, GroupValue, SetComparison
from mgcda_dist.tables import Column, Number, Table, latex_comment, markdown_text
from mgcda_dist.tables import latex as latex_of
from mgcda_dist.tables import markdown as markdown_of

__all__ = [
    "VERDICT_MARKS",
    "as_json",
    "comparison_tables",
    "difference_tables",
    "findings",
    "latex",
    "legend",
    "markdown",
]

VERDICT_MARKS = {"better": "▲", "worse": "▼"}
"""Behind numbers that differ significantly from those of the reference."""


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Parameters that differ, then per evaluation set the values and, with several groups, the differences."""
    tables: list[Table] = []
    if comparison.params:
        columns = [Column(name, align="left") for name in ("parameter", *(group.name for group in comparison.groups))]
        rows = [(key, *values) for key, values in comparison.params.items()]
        tables.append(Table(columns, rows, "Parameters that differ"))
    for one in comparison.sets:
        tables.append(_value_table(comparison, one))
        tables += [_difference_table(comparison, one)] if one.differences else []
    return tables


def difference_tables(comparison: Comparison) -> list[Table]:
    """Per evaluation set the differences to the reference, where there are any."""
    return [_difference_table(comparison, one) for one in comparison.sets if one.differences]


def _difference_table(comparison: Comparison, one: SetComparison) -> Table:
    """A row per group and metric of a set: its difference to the reference."""
    titles = ("Δ", f"{comparison.level:.0%} interval", "p", "p Holm", "verdict")
    columns = [Column("run", align="left"), Column("metric", align="left"), *map(Column, titles)]
    rows = [
        (name, _metric(metric), *_difference(difference))
        for name, row in one.differences.items()
        for metric, difference in row.items()
    ]
    return Table(columns, rows, f"{one.name}: minus {comparison.reference}, points")


def _value_table(comparison: Comparison, one: SetComparison) -> Table:
    counts = {group.name: len(group.runs) for group in comparison.groups}
    metrics = [replace(metric_column(metric), interval_digits=1) for metric in one.metrics]
    rows = [
        (name, counts[name], *(_value(values.get(m), one.differences.get(name, {}).get(m)) for m in one.metrics))
        for name, values in one.cells.items()
    ]
    caption = f"{one.name}: {one.frames} frames, convention {one.convention}, %"
    return Table([Column("run", align="left"), Column("runs"), *metrics], rows, caption)


def findings(comparison: Comparison) -> list[str]:
    """Interpretation of the differences, one sentence per evaluation set, and reasons against comparing runs."""
    said: list[str] = []
    for one in comparison.sets:
        parts: list[str] = []
        for name, row in one.differences.items():
            for verdict in ("better", "worse"):
                found = [
                    f"{_metric(metric)} ({_points(d.value)} [{_points(d.low)}, {_points(d.high)}])"
                    for metric, d in row.items()
                    if d.verdict == verdict
                ]
                if found:
                    parts.append(f"{name} is {verdict} in {', '.join(found)}")
        tested = any(d.verdict != "not tested" for row in one.differences.values() for d in row.values())
        if parts:
            said.append(f"{one.name}, against {comparison.reference}: {'; '.join(parts)}.")
        elif tested:
            said.append(f"{one.name}: no difference to {comparison.reference} is significant.")
        said += [f"{one.name}: {mark}." for mark in one.marks]
    return said


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown, with GitHub's tables."""
    parts = [markdown_of(table) for table in comparison_tables(comparison)]
    said = [*findings(comparison), *comparison.notes, *legend(comparison)]
    parts += ["\n".join(f"- {markdown_text(text)}" for text in said)]
    return "\n\n".join(parts) + "\n"


def latex(comparison: Comparison) -> str:
    """The comparison as LaTeX tables; needs the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}", *(latex_of(table) for table in comparison_tables(comparison))]
    parts += [latex_comment(text) for text in [*findings(comparison), *comparison.notes]]
    return "\n".join(parts) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All numbers in full, as fractions; null where there is none."""
    return {
        "reference": comparison.reference,
        "groups": {
            group.name: [
                {"name": run.name, "seed": seed, "source": run.source, "mlflow_run_id": run.run_id}
                for run, seed in zip(group.runs, group.seeds, strict=True)
            ]
            for group in comparison.groups
        },
        "params": {
            key: dict(zip((group.name for group in comparison.groups), values, strict=True))
            for key, values in comparison.params.items()
        },
        "sets": {
            one.name: {
                "convention": one.convention,
                "frames": one.frames,
                "values": {name: {m: _plain(cell) for m, cell in row.items()} for name, row in one.cells.items()},
                "differences": {name: {m: _plain(d) for m, d in row.items()} for name, row in one.differences.items()},
                "marks": one.marks,
            }
            for one in comparison.sets
        },
        "findings": findings(comparison),
        "notes": comparison.notes,
        "bootstrap": {
            "replicates": comparison.replicates, "level": comparison.level, "seed": comparison.seed,
            "correction": "Holm, over the groups of one metric on one set",
        },
    }  # fmt: skip


def legend(comparison: Comparison) -> list[str]:
    """Meaning of the marks in the tables, if there are any."""
    verdicts = {d.verdict for one in comparison.sets for row in one.differences.values() for d in row.values()}
    if not verdicts & {"better", "worse"}:
        return []
    marks = ", ".join(f"{mark} {verdict}" for verdict, mark in VERDICT_MARKS.items())
    return [f"{marks} than {comparison.reference}, significantly."]


def _metric(key: str) -> str:
    return METRICS[key].title if key in METRICS else key


def _value(group: GroupValue | None, difference: Difference | None) -> Number | None:
    if group is None:
        return None
    return Number(
        group.value,
        interval=(group.low, group.high) if math.isfinite(group.low) else None,
        spread=group.spread if math.isfinite(group.spread) else None,
        mark=VERDICT_MARKS.get(difference.verdict, "") if difference else "",
    )


def _difference(d: Difference) -> tuple[str | None, ...]:
    if not math.isfinite(d.low):
        return (_points(d.value), None, None, None, d.verdict)
    interval = f"[{_points(d.low)}, {_points(d.high)}]"
    return (_points(d.value), interval, f"{d.p_value:.3f}", f"{d.p_corrected:.3f}", d.verdict)


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _plain(record: GroupValue | Difference) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(record).items()}
