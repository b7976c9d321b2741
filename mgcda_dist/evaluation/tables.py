"""Tables of evaluations, in the habits of the field: per cent, two decimals, ↑ ↓, small intervals, best in bold.

All take one `EvaluationResults` per subject, so that tables can be made of any evaluations later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mgcda_dist.choices import CONVENTIONS, HEADLINE_METRICS, METRICS
from mgcda_dist.evaluation.results import EvaluationResults, PartNumbers, SetNumbers
from mgcda_dist.tables import Cell, Column, Number, Table, best_in_bold, latex, markdown

__all__ = ["headline_table", "latex_table", "markdown_table", "metric_column", "metric_number"]

_CONVENTION_TITLES: dict[str, str] = {**CONVENTIONS}
_NOT_SHOWN = ("best_f1",)
_TERMINAL_COLUMNS = (*HEADLINE_METRICS, "mean_f1", "instance_ap")
_LATEX_COLUMNS = ("ap", "fpr95", "miou", "mean_f1", "instance_ap")
_CONVENTION_COLUMNS = ("ap", "fpr95", "auroc", "best_f1")
_PART_COLUMNS = ("ap", "fpr95", "auroc")
_SET, _METHOD, _FRAMES = Column("set", align="left"), Column("method", align="left"), Column("frames")


def markdown_table(every: Sequence[EvaluationResults]) -> str:
    """A table with a row per set and subject, what the numbers depend on, and the breakdowns."""
    shown = [key for key in METRICS if key not in _NOT_SHOWN]
    parts = [_sentence(every), markdown(_results_table(every, shown))]
    rows = _rows(every)
    breakdowns = (
        ("IoU of each class", _classes_table(every)),
        ("The same score maps under other conventions", _conventions_table(every)),
        ("Per group of frames", _parts_table(rows, "group", [row.groups for _, _, row in rows])),
        ("Per category of anomaly, against all inliers",
         _parts_table(rows, "category", [row.categories for _, _, row in rows])),
    )  # fmt: skip
    for title, table in breakdowns:
        parts += [f"{title}:", markdown(table)] if table.rows else []
    facts = [f"- **{results.subject.name}**: {_depends_on(results)}" for results in every]
    facts += [f"- **{name}**: {text}" for name, text in _data_of(every).items()]
    return "\n\n".join([*parts, "What was evaluated:", "\n".join(facts)]) + "\n"


def latex_table(every: Sequence[EvaluationResults]) -> str:
    r"""A `table` with a row per subject and a group of columns per set; needs `\usepackage{booktabs}`."""
    shown = [(name, key) for name in _set_names(every) for key in _LATEX_COLUMNS
             if any(name in r.sets and key in r.sets[name].metrics for r in every)]  # fmt: skip
    columns = [Column("Method", align="left"), *(metric_column(key, group=name) for name, key in shown)]
    rows = [
        [results.subject.name, *(metric_number(results.sets.get(name), key) for name, key in shown)]
        for results in every
    ]
    table = best_in_bold(Table(columns, rows, _sentence(every)))
    return f"% needs \\usepackage{{booktabs}}\n{latex(table)}\n"


def headline_table(every: Sequence[EvaluationResults]) -> Table:
    """The short table, without intervals: for the terminal, a run's description, a model card."""
    table = _results_table(every, _TERMINAL_COLUMNS)
    rows = [[replace(cell, interval=None) if isinstance(cell, Number) else cell for cell in row] for row in table.rows]
    return Table(table.columns, rows)


def metric_column(key: str, group: str = "") -> Column:
    """The column of a metric; one that `choices.METRICS` does not list has its key as title, and no direction."""
    entry = METRICS.get(key)
    if entry is None:
        return Column(key, group=group)
    return Column(entry.title, lower_is_better=entry.lower_is_better, group=group)


def metric_number(row: SetNumbers | None, key: str) -> Cell:
    """A metric of a set with its interval; None where it does not exist."""
    if row is None or key not in row.metrics:
        return None
    return Number(row.metrics[key], row.intervals.get(key))


def _results_table(every: Sequence[EvaluationResults], metrics: Sequence[str]) -> Table:
    """A row per set and subject, the best of each set emphasised; only metrics that exist."""
    found = {key for _, _, row in _rows(every) for key in row.metrics}
    shown = [key for key in metrics if key in found]
    method = [_METHOD] if len(every) > 1 else []
    rows = [
        [name, *([results.subject.name] if method else []), row.frames, *(metric_number(row, key) for key in shown)]
        for name, results, row in _rows(every)
    ]
    return best_in_bold(Table([_SET, *method, _FRAMES, *map(metric_column, shown)], rows), within=0)


def _rows(every: Sequence[EvaluationResults]) -> list[tuple[str, EvaluationResults, SetNumbers]]:
    return [(name, r, r.sets[name]) for name in _set_names(every) for r in every if name in r.sets]


def _set_names(every: Sequence[EvaluationResults]) -> list[str]:
    return list(dict.fromkeys(name for results in every for name in results.sets))


def _sentence(every: Sequence[EvaluationResults]) -> str:
    """Caption of a table: unit and convention of the numbers."""
    conventions = sorted({results.settings.convention for results in every})
    named = "; ".join(f"{name}: {_CONVENTION_TITLES[name]}" for name in conventions)
    intervals = any(row.intervals for _, _, row in _rows(every))
    level = f" In small: {100 * every[0].interval_level:.0f} % bootstrap intervals over images." if intervals else ""
    spaces = {results.subject.class_space for results in every if results.subject.class_space}
    warning = f" mIoU is over different classes ({', '.join(sorted(spaces))})." if len(spaces) > 1 else ""
    return f"Per cent. Convention {named}.{level}{warning}"


def _classes_table(every: Sequence[EvaluationResults]) -> Table:
    """The IoU of each class that occurs in a set or in the predictions."""
    rows = [(name, results, row) for name, results, row in _rows(every) if row.iou]
    classes = list(dict.fromkeys(name for _, _, row in rows for name in row.iou))
    values = [[name, results.subject.name, *_numbers(row.iou, classes)] for name, results, row in rows]
    return Table([_SET, _METHOD, *map(Column, classes)], values)


def _conventions_table(every: Sequence[EvaluationResults]) -> Table:
    """The metrics under each convention of the sets that were pooled in several ways."""
    rows = [
        [name, results.subject.name, convention, *_numbers(metrics, _CONVENTION_COLUMNS)]
        for name, results, row in _rows(every)
        for convention, metrics in row.conventions.items()
        if len(row.conventions) > 1 and metrics
    ]
    return Table([_SET, _METHOD, Column("convention", align="left"), *map(metric_column, _CONVENTION_COLUMNS)], rows)


def _parts_table(
    sets: Sequence[tuple[str, EvaluationResults, SetNumbers]], kind: str, parts: Sequence[Mapping[str, PartNumbers]]
) -> Table:
    """A row per part of a set: a group of frames, or a category of anomaly."""
    rows = [
        [name, results.subject.name, part, numbers.frames, f"{numbers.anomaly_pixels:,}".replace(",", " "),
         *_numbers(numbers.metrics, _PART_COLUMNS)]
        for (name, results, _), found in zip(sets, parts, strict=True)
        for part, numbers in found.items()
    ]  # fmt: skip
    metrics = map(metric_column, _PART_COLUMNS)
    return Table([_SET, _METHOD, Column(kind, align="left"), _FRAMES, Column("anomaly pixels"), *metrics], rows)


def _numbers(metrics: Mapping[str, float], keys: Sequence[str]) -> list[Cell]:
    return [Number(metrics[key]) if key in metrics else None for key in keys]


def _depends_on(results: EvaluationResults) -> str:
    subject, settings, network = results.subject, results.settings, results.settings.network
    parts = [f"{subject.kind} {subject.digest[:12]}", f"score {settings.score}"]
    if subject.class_space:
        parts.append(f"classes {subject.class_space}")
    if network is not None:
        shown = network.augmentation
        if network.height_px:
            parts.append(f"network input at height {network.height_px}")
        if network.longest_side_px:
            parts.append(f"network input with a longest side of {network.longest_side_px}")
        if shown.scales != (1.0,):
            parts.append("scales " + ", ".join(f"{scale:g}" for scale in shown.scales))
        parts += ["flip"] * shown.flip + ["blur"] * network.blur
        if shown.window_px:
            height, width = shown.window_px
            parts.append(f"sliding window {width}×{height}, overlap {shown.window_overlap:.0%}")
    if settings.resize_maps:
        parts.append("resize_maps")
    if settings.components != "none":
        parts.append(f"components with the sizes of SMIYC's {settings.components} track")
    return ", ".join(parts) + f"; mgcda_dist {results.tool_version}"


def _data_of(every: Sequence[EvaluationResults]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, _, row in _rows(every):
        data = row.data
        text = f"{data.dataset} {data.split}, manifest {data.manifest_digest[:12]}"
        text += f", the first {data.max_frames} frames" if data.max_frames is not None else ""
        text += ", with pasted objects" if data.paste is not None else ""
        if name in texts and text not in texts[name]:
            text = f"{texts[name]}; in another evaluation {text}"
        texts[name] = texts.get(name, "") if text in texts.get(name, "") else text
    return texts
