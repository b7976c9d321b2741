"""Results as Markdown and LaTeX in the habits of the field: per cent, two decimals, ↑ ↓, small intervals, best in bold.

Both take one `EvaluationResults` per subject, so that tables can be made of any evaluations later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mgcda_dist.choices import CONVENTIONS, METRICS
from mgcda_dist.evaluation.results import EvaluationResults, PartNumbers, SetNumbers

__all__ = ["latex_table", "markdown_table"]

_CONVENTION_TITLES: dict[str, str] = {**CONVENTIONS}
_NOT_SHOWN = ("best_f1",)
_LATEX_COLUMNS = ("ap", "fpr95", "miou", "mean_f1", "instance_ap")
_CONVENTION_COLUMNS = ("ap", "fpr95", "auroc", "best_f1")
_PART_COLUMNS = ("ap", "fpr95", "auroc")
_NO_NUMBERS = SetNumbers()


def markdown_table(every: Sequence[EvaluationResults]) -> str:
    """A table with a row per set and subject, what the numbers depend on, and the breakdowns."""
    found = {key for _, _, row in _rows(every) for key in row.metrics}
    columns = [key for key in METRICS if key in found and key not in _NOT_SHOWN]
    several = len(every) > 1
    lines = [_sentence(every), ""]
    head = [
        "set",
        *(["method"] if several else []),
        "frames",
        *(METRICS[key].heading for key in columns),
    ]
    lines += _markdown(head, [
        [name, *([_method(results)] if several else []), str(row.frames),
         *(_markdown_cell(row, column, _best(every, name, column)) for column in columns)]
        for name, results, row in _rows(every)
    ])  # fmt: skip
    lines += _conventions(every)
    for part, title, parts in (
        ("group", "Per group of frames", [row.groups for _, _, row in _rows(every)]),
        ("category", "Per category of anomaly, against all inliers", [row.categories for _, _, row in _rows(every)]),
    ):
        lines += _breakdown(every, part, title, parts)
    lines += ["", "What was evaluated:", ""]
    lines += [f"- **{_method(results)}**: {_depends_on(results)}" for results in every]
    lines += [f"- **{name}**: {text}" for name, text in _data_of(every).items()]
    return "\n".join(lines) + "\n"


def latex_table(every: Sequence[EvaluationResults]) -> str:
    r"""A `table` with a row per subject and a group of columns per set; needs `\usepackage{booktabs}`."""
    names = _set_names(every)
    groups = {
        name: [key for key in _LATEX_COLUMNS if any(key in r.sets.get(name, _NO_NUMBERS).metrics for r in every)]
        for name in names
    }
    groups = {name: columns for name, columns in groups.items() if columns}
    spans, start = list[str](), 2
    for columns in groups.values():
        spans.append(rf"\cmidrule(lr){{{start}-{start + len(columns) - 1}}}")
        start += len(columns)
    heads = [rf"\multicolumn{{{len(columns)}}}{{c}}{{{_escaped(name)}}}" for name, columns in groups.items()]
    arrows = [
        f"{METRICS[key].title} $\\{'downarrow' if METRICS[key].lower_is_better else 'uparrow'}$"
        for columns in groups.values()
        for key in columns
    ]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_escaped(_sentence(every))}}}",
        rf"  \begin{{tabular}}{{l{'c' * len(arrows)}}}",
        r"    \toprule",
        "    " + " & ".join(["", *heads]) + r" \\",
        "    " + " ".join(spans),
        "    " + " & ".join(["Method", *arrows]) + r" \\",
        r"    \midrule",
    ]
    for results in every:
        cells = [
            _latex_cell(results.sets.get(name, _NO_NUMBERS), column, _best(every, name, column))
            for name, columns in groups.items()
            for column in columns
        ]
        lines.append("    " + " & ".join([_escaped(_method(results)), *cells]) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _rows(every: Sequence[EvaluationResults]) -> list[tuple[str, EvaluationResults, SetNumbers]]:
    return [(name, r, r.sets[name]) for name in _set_names(every) for r in every if name in r.sets]


def _set_names(every: Sequence[EvaluationResults]) -> list[str]:
    return list(dict.fromkeys(name for results in every for name in results.sets))


def _method(results: EvaluationResults) -> str:
    return results.subject.name


def _best(every: Sequence[EvaluationResults], name: str, column: str) -> float | None:
    """The best value of a column, where there is something to compare."""
    rows = [r.sets[name].metrics for r in every if name in r.sets]
    values = [metrics[column] for metrics in rows if column in metrics]
    if len(values) < 2 or min(values) == max(values):
        return None
    return min(values) if METRICS[column].lower_is_better else max(values)


def _number(value: float) -> str:
    return f"{100 * value:.2f}"


def _interval(row: SetNumbers, column: str) -> tuple[str, str] | None:
    low_high = row.intervals.get(column)
    return None if low_high is None else (_number(low_high[0]), _number(low_high[1]))


def _markdown_cell(row: SetNumbers, column: str, best: float | None) -> str:
    if column not in row.metrics:
        return "–"
    text = _number(row.metrics[column])
    text = f"**{text}**" if row.metrics[column] == best else text
    interval = _interval(row, column)
    return text if interval is None else f"{text} <sub>{interval[0]}–{interval[1]}</sub>"


def _latex_cell(row: SetNumbers, column: str, best: float | None) -> str:
    if column not in row.metrics:
        return "--"
    text = _number(row.metrics[column])
    text = rf"\textbf{{{text}}}" if row.metrics[column] == best else text
    interval = _interval(row, column)
    return text if interval is None else rf"{text}{{\scriptsize\,[{interval[0]}, {interval[1]}]}}"


def _sentence(every: Sequence[EvaluationResults]) -> str:
    """What the numbers are, convention included."""
    conventions = sorted({results.settings.convention for results in every})
    named = "; ".join(f"{name}: {_CONVENTION_TITLES[name]}" for name in conventions)
    intervals = any(row.intervals for _, _, row in _rows(every))
    level = f" In small: {100 * every[0].interval_level:.0f} % bootstrap intervals over images." if intervals else ""
    spaces = {results.subject.class_space for results in every if results.subject.class_space}
    warning = f" mIoU is over different classes ({', '.join(sorted(spaces))})." if len(spaces) > 1 else ""
    return f"Per cent. Convention {named}.{level}{warning}"


def _conventions(every: Sequence[EvaluationResults]) -> list[str]:
    """The other conventions, if any were replayed."""
    rows: list[list[str]] = []
    for name, results, row in _rows(every):
        for convention, metrics in row.conventions.items():
            if len(row.conventions) > 1 and metrics:
                rows.append([name, _method(results), convention, *_values(metrics, _CONVENTION_COLUMNS)])
    if not rows:
        return []
    head = ["set", "method", "convention", *(METRICS[key].heading for key in _CONVENTION_COLUMNS)]
    return ["", "The same score maps under other conventions:", "", *_markdown(head, rows)]


def _breakdown(
    every: Sequence[EvaluationResults], part: str, title: str, parts: Sequence[Mapping[str, PartNumbers]]
) -> list[str]:
    rows = [
        [name, _method(results), part_name, str(numbers.frames), f"{numbers.anomaly_pixels:,}".replace(",", " "),
         *_values(numbers.metrics, _PART_COLUMNS)]
        for (name, results, _), found in zip(_rows(every), parts, strict=True)
        for part_name, numbers in found.items()
    ]  # fmt: skip
    if not rows:
        return []
    head = ["set", "method", part, "frames", "anomaly pixels", *(METRICS[key].heading for key in _PART_COLUMNS)]
    return ["", f"{title}:", "", *_markdown(head, rows)]


def _values(metrics: Mapping[str, float], columns: Sequence[str]) -> list[str]:
    return [_number(metrics[key]) if key in metrics else "–" for key in columns]


def _depends_on(results: EvaluationResults) -> str:
    subject, settings, network = results.subject, results.settings, results.settings.network
    parts = [f"{subject.kind} {subject.digest[:12]}", f"score {settings.score}"]
    if subject.class_space:
        parts.append(f"classes {subject.class_space}")
    if network is not None:
        shown = network.augmentation
        if network.height_px:
            parts.append(f"network input at height {network.height_px}")
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


def _markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    numeric = [title not in ("set", "method", "convention", "group", "category") for title in head]
    ruler = ["---:" if number else "---" for number in numeric]
    return ["| " + " | ".join(cells) + " |" for cells in (head, ruler, *rows)]


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(special.get(sign, sign) for sign in text)
