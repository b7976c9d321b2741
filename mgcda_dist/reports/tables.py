"""A comparison as tables and sentences, and those as Markdown, LaTeX and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mgcda_dist.reports.compare import LOWER_IS_BETTER, Cell, Comparison, Difference

__all__ = ["TextTable", "as_json", "comparison_tables", "findings", "latex", "legend", "markdown"]

_NAMES = {"ap": "AP", "auroc": "AUROC", "fpr95": "FPR95", "miou": "mIoU", "best_f1": "best F1"}
_BETTER, _WORSE = "▲", "▼"
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", _BETTER: r"$^{+}$", _WORSE: r"$^{-}$", "…": r"\dots{}", "×": r"$\times$",
    "\n": " ", "Δ": r"$\Delta$",
}  # fmt: skip


@dataclass(frozen=True)
class TextTable:
    """A table of text; the first `num_labels` columns are names, the others numbers. A cell may have two lines."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    num_labels: int = 1


def comparison_tables(comparison: Comparison) -> list[TextTable]:
    """Parameters that differ, then per evaluation set the values and, with several groups, the differences."""
    tables: list[TextTable] = []
    names = [group.name for group in comparison.groups]
    if comparison.params:
        rows = [(key, *values) for key, values in comparison.params.items()]
        tables.append(TextTable("Parameters that differ", ("parameter", *names), rows, num_labels=1 + len(names)))
    counts = {group.name: len(group.runs) for group in comparison.groups}
    for one in comparison.sets:
        header = ("run", "runs", *(f"{_metric(metric)} {_direction(metric)}" for metric in one.metrics))
        rows: list[tuple[str, ...]] = []
        for name, cells in one.cells.items():
            differences = one.differences.get(name, {})
            rows.append((name, str(counts[name]), *(_value(cells.get(m), differences.get(m)) for m in one.metrics)))
        title = f"{one.name}: {one.frames} frames, convention {one.convention}, %"
        tables.append(TextTable(title, header, rows))
        rows = [
            (name, _metric(metric), *_difference(difference))
            for name, row in one.differences.items()
            for metric, difference in row.items()
        ]
        if rows:
            header = ("run", "metric", "Δ", f"{comparison.level:.0%} interval", "p", "p Holm", "verdict")
            tables.append(TextTable(f"{one.name}: minus {comparison.reference}, points", header, rows, num_labels=2))
    return tables


def findings(comparison: Comparison) -> list[str]:
    """What the differences say, one sentence per evaluation set, and then what keeps runs apart."""
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
    parts: list[str] = []
    for table in comparison_tables(comparison):
        rules = ["---" if i < table.num_labels else "---:" for i in range(len(table.header))]
        lines = [_row(table.header), _row(rules), *(_row(row) for row in table.rows)]
        parts.append(f"**{table.title}**\n\n" + "\n".join(lines))
    parts += ["\n".join(f"- {text}" for text in [*findings(comparison), *comparison.notes, *legend(comparison)])]
    return "\n\n".join(parts) + "\n"


def latex(comparison: Comparison) -> str:
    """The comparison as LaTeX tables; needs the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in comparison_tables(comparison):
        columns = "".join("l" if i < table.num_labels else "r" for i in range(len(table.header)))
        lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (table.header, *table.rows)]
        parts.append(
            "\n".join([
                r"\begin{table}", r"\centering", rf"\caption{{{_escaped(table.title)}}}",
                rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
                r"\end{tabular}", r"\end{table}",
            ])
        )  # fmt: skip
    parts += [f"% {text}" for text in [*findings(comparison), *comparison.notes]]
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
    """What the marks in the tables mean, if there are any."""
    verdicts = {d.verdict for one in comparison.sets for row in one.differences.values() for d in row.values()}
    if not verdicts & {"better", "worse"}:
        return []
    return [f"{_BETTER} better, {_WORSE} worse than {comparison.reference}, significantly."]


def _metric(name: str) -> str:
    return _NAMES.get(name, name)


def _direction(metric: str) -> str:
    return "↓" if metric in LOWER_IS_BETTER else "↑"


def _value(cell: Cell | None, difference: Difference | None) -> str:
    if cell is None:
        return "–"
    text = f"{100 * cell.value:.2f}"
    if math.isfinite(cell.spread):
        text += f" ± {100 * cell.spread:.2f}"
    text += {"better": f" {_BETTER}", "worse": f" {_WORSE}"}.get(difference.verdict if difference else "", "")
    if math.isfinite(cell.low):
        text += f"\n[{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    return text


def _difference(d: Difference) -> tuple[str, ...]:
    if not math.isfinite(d.low):
        return (_points(d.value), "–", "–", "–", d.verdict)
    interval = f"[{_points(d.low)}, {_points(d.high)}]"
    return (_points(d.value), interval, f"{d.p_value:.3f}", f"{d.p_corrected:.3f}", d.verdict)


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _plain(record: Cell | Difference) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(record).items()}
