"""Results as Markdown and LaTeX in the habits of the field: per cent, two decimals, ↑ ↓, small intervals, best in bold.

Both take the contents of `results.json`, one per subject, so that tables can be made of any evaluations later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = ["latex_table", "markdown_table"]

Results = dict[str, Any]


class _Column(NamedTuple):
    key: str
    title: str
    higher_is_better: bool


_COLUMNS = (
    _Column("ap", "AP", True),
    _Column("fpr95", "FPR95", False),
    _Column("auroc", "AUROC", True),
    _Column("miou", "mIoU", True),
    _Column("siou", "sIoU", True),
    _Column("ppv", "PPV", True),
    _Column("mean_f1", "mean F1", True),
    _Column("instance_ap", "instance AP", True),
    _Column("instance_ap50", "instance AP50", True),
)
_LATEX_COLUMNS = ("ap", "fpr95", "miou", "mean_f1", "instance_ap")
_CONVENTION_TEXT = {
    "pooled": "all valid pixels of all frames pooled (as Fishyscapes)",
    "pooled_nearest": "pixels pooled, FPR95 at the ROC point nearest to a TPR of 0.95 (as PEBAL, RPL)",
    "per_image": "mean over the images that have anomalies (as pytorch-ood)",
    "smiyc": "binned per frame (as SegmentMeIfYouCan)",
    "skip_empty": "pixels pooled over frames with anomalies (as Mask2Anomaly)",
}


def markdown_table(every: Sequence[Results]) -> str:
    """A table with a row per set and subject, what the numbers depend on, and the breakdowns."""
    columns = [column for column in _COLUMNS if any(column.key in row for _, _, row in _rows(every))]
    several = len(every) > 1
    lines = [_sentence(every), ""]
    head = [
        "set",
        *(["method"] if several else []),
        "frames",
        *(f"{c.title} {'↑' if c.higher_is_better else '↓'}" for c in columns),
    ]
    lines += _markdown(head, [
        [name, *([_method(results)] if several else []), str(row["frames"]),
         *(_markdown_cell(row, column, _best(every, name, column)) for column in columns)]
        for name, results, row in _rows(every)
    ])  # fmt: skip
    lines += _conventions(every)
    for key, title in (
        ("groups", "Per group of frames"),
        ("categories", "Per category of anomaly, against all inliers"),
    ):
        lines += _breakdown(every, key, title)
    lines += ["", "What was evaluated:", ""]
    lines += [f"- **{_method(results)}**: {_depends_on(results)}" for results in every]
    lines += [f"- **{name}**: {text}" for name, text in _data_of(every).items()]
    return "\n".join(lines) + "\n"


def latex_table(every: Sequence[Results]) -> str:
    r"""A `table` with a row per subject and a group of columns per set; needs `\usepackage{booktabs}`."""
    names = _set_names(every)
    groups = {
        name: [c for c in _COLUMNS if c.key in _LATEX_COLUMNS and any(c.key in r["sets"].get(name, {}) for r in every)]
        for name in names
    }
    groups = {name: columns for name, columns in groups.items() if columns}
    spans, start = list[str](), 2
    for columns in groups.values():
        spans.append(rf"\cmidrule(lr){{{start}-{start + len(columns) - 1}}}")
        start += len(columns)
    heads = [rf"\multicolumn{{{len(columns)}}}{{c}}{{{_escaped(name)}}}" for name, columns in groups.items()]
    arrows = [
        f"{c.title} $\\{'uparrow' if c.higher_is_better else 'downarrow'}$"
        for columns in groups.values()
        for c in columns
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
            _latex_cell(results["sets"].get(name, {}), column, _best(every, name, column))
            for name, columns in groups.items()
            for column in columns
        ]
        lines.append("    " + " & ".join([_escaped(_method(results)), *cells]) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _rows(every: Sequence[Results]) -> list[tuple[str, Results, dict[str, Any]]]:
    return [(name, r, r["sets"][name]) for name in _set_names(every) for r in every if name in r["sets"]]


def _set_names(every: Sequence[Results]) -> list[str]:
    return list(dict.fromkeys(name for results in every for name in results["sets"]))


def _method(results: Results) -> str:
    return results["subject"]["name"]


def _best(every: Sequence[Results], name: str, column: _Column) -> float | None:
    """The best value of a column, where there is something to compare."""
    values = [r["sets"][name][column.key] for r in every if column.key in r["sets"].get(name, {})]
    if len(values) < 2 or min(values) == max(values):
        return None
    return max(values) if column.higher_is_better else min(values)


def _number(value: float) -> str:
    return f"{100 * value:.2f}"


def _interval(row: dict[str, Any], column: _Column) -> tuple[str, str] | None:
    low_high = row.get("intervals", {}).get(column.key)
    return None if low_high is None else (_number(low_high[0]), _number(low_high[1]))


def _markdown_cell(row: dict[str, Any], column: _Column, best: float | None) -> str:
    if column.key not in row:
        return "–"
    text = _number(row[column.key])
    text = f"**{text}**" if row[column.key] == best else text
    interval = _interval(row, column)
    return text if interval is None else f"{text} <sub>{interval[0]}–{interval[1]}</sub>"


def _latex_cell(row: dict[str, Any], column: _Column, best: float | None) -> str:
    if column.key not in row:
        return "--"
    text = _number(row[column.key])
    text = rf"\textbf{{{text}}}" if row[column.key] == best else text
    interval = _interval(row, column)
    return text if interval is None else rf"{text}{{\scriptsize\,[{interval[0]}, {interval[1]}]}}"


def _sentence(every: Sequence[Results]) -> str:
    """What the numbers are, convention included."""
    conventions = sorted({results["convention"] for results in every})
    named = "; ".join(f"{name}: {_CONVENTION_TEXT[name]}" for name in conventions)
    intervals = any("intervals" in row and row["intervals"] for _, _, row in _rows(every))
    level = f" In small: {100 * every[0]['interval_level']:.0f} % bootstrap intervals over images." if intervals else ""
    spaces = {results["subject"]["class_space"] for results in every if results["subject"]["class_space"]}
    warning = f" mIoU is over different classes ({', '.join(sorted(spaces))})." if len(spaces) > 1 else ""
    return f"Per cent. Convention {named}.{level}{warning}"


def _conventions(every: Sequence[Results]) -> list[str]:
    """The other conventions, if any were replayed."""
    rows: list[list[str]] = []
    for name, results, row in _rows(every):
        for convention, numbers in row["conventions"].items():
            if len(row["conventions"]) > 1 and numbers:
                values = [
                    _number(numbers[key]) if key in numbers else "–" for key in ("ap", "fpr95", "auroc", "best_f1")
                ]
                rows.append([name, _method(results), convention, *values])
    if not rows:
        return []
    head = ["set", "method", "convention", "AP ↑", "FPR95 ↓", "AUROC ↑", "best F1 ↑"]
    return ["", "The same score maps under other conventions:", "", *_markdown(head, rows)]


def _breakdown(every: Sequence[Results], key: str, title: str) -> list[str]:
    rows = [
        [name, _method(results), part, str(numbers["frames"]), f"{numbers['anomaly_pixels']:,}".replace(",", " "),
         *(_number(numbers[metric]) if metric in numbers else "–" for metric in ("ap", "fpr95", "auroc"))]
        for name, results, row in _rows(every)
        for part, numbers in row.get(key, {}).items()
    ]  # fmt: skip
    if not rows:
        return []
    head = [
        "set",
        "method",
        key[:-1] if key == "groups" else "category",
        "frames",
        "anomaly pixels",
        "AP ↑",
        "FPR95 ↓",
        "AUROC ↑",
    ]
    return ["", f"{title}:", "", *_markdown(head, rows)]


def _depends_on(results: Results) -> str:
    subject = results["subject"]
    parts = [f"{subject['kind']} {subject['digest'][:12]}", f"score {results['score']}"]
    if subject["class_space"]:
        parts.append(f"classes {subject['class_space']}")
    if results.get("height_px"):
        parts.append(f"network input at height {results['height_px']}")
    if results.get("scales", [1.0]) != [1.0]:
        parts.append("scales " + ", ".join(f"{scale:g}" for scale in results["scales"]))
    parts += [name for name in ("flip", "blur", "resize_maps") if results.get(name)]
    if results.get("window_px"):
        height, width = results["window_px"]
        parts.append(f"sliding window {width}×{height}, overlap {results['window_overlap']:.0%}")
    if results.get("components", "none") != "none":
        parts.append(f"components with the sizes of SMIYC's {results['components']} track")
    return ", ".join(parts) + f"; mgcda_dist {results['tool_version']}"


def _data_of(every: Sequence[Results]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, _, row in _rows(every):
        text = f"{row['dataset']} {row['split']}, manifest {row['manifest_digest'][:12]}"
        text += f", the first {row['max_frames']} frames" if "max_frames" in row else ""
        text += ", with pasted objects" if "paste" in row else ""
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
