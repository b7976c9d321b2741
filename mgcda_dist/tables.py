"""Tables: one model, and back ends for Markdown, LaTeX (booktabs), the terminal (rich) and HTML.

A leaf beside `choices`, because evaluation, inference, reports, runs, the command line and benchmarks all write tables.
Cells hold values; how they look, and how special characters are escaped, is decided by the back end:

    table = Table([Column("method", align="left"), Column("FPR95", lower_is_better=True)], [["ours", Number(0.0989)]])
    print(markdown(best_in_bold(table)))
"""

from __future__ import annotations

import html as stdlib_html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeVar

from mgcda_dist.text import printable

if TYPE_CHECKING:
    from rich.console import Group

__all__ = [
    "Cell", "Column", "Number", "RunName", "Table", "best_in_bold", "html", "latex", "latex_comment",
    "markdown", "markdown_text", "terminal",
]  # fmt: skip

ABSENT = "–"
_Shown = TypeVar("_Shown")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", ABSENT: "--", "<": "$<$", ">": "$>$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "▲": r"$^{+}$", "▼": r"$^{-}$", "…": r"\dots{}", "×": r"$\times$",
    "\n": " ", "\t": " ", "Δ": r"$\Delta$",
}  # fmt: skip


@dataclass(frozen=True)
class Number:
    """A measured fraction, shown in per cent.

    Attributes:
        interval: its low and high end; None: not known.
        spread: standard deviation over runs; None: not known.
        mark: stands behind the number, for example ▲.
        best: emphasised.
    """

    value: float
    interval: tuple[float, float] | None = None
    spread: float | None = None
    mark: str = ""
    best: bool = False


@dataclass(frozen=True)
class RunName:
    """Name of the run with this index on a page, which HTML shows beside the colour of the run's curves."""

    text: str
    index: int


Cell = Number | RunName | str | int | None
"""None: the value does not exist, shown as a dash."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        align: left for names, right for numbers.
        lower_is_better: direction of a metric, shown as an arrow; None: no metric.
        digits: decimals of its numbers.
        interval_digits: decimals of the ends of intervals.
        wraps: its cells may be broken over lines, in the terminal.
        group: heading over neighbouring columns of the same group, in LaTeX.
    """

    title: str | RunName
    align: Literal["left", "right"] = "right"
    lower_is_better: bool | None = None
    digits: int = 2
    interval_digits: int = 2
    wraps: bool = True
    group: str = ""

    @property
    def heading(self) -> str:
        """The title with an arrow in the direction that is better."""
        arrow = "" if self.lower_is_better is None else " ↓" if self.lower_is_better else " ↑"
        return f"{_name(self.title)}{arrow}"


@dataclass(frozen=True)
class Table:
    """Columns, rows with a cell per column, and a caption."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


def best_in_bold(table: Table, within: int | None = None) -> Table:
    """Emphasise the best number of each metric where numbers differ, among rows with equal cells in column `within`."""
    rows: list[list[Cell]] = []
    for _, group in groupby(table.rows, key=lambda row: None if within is None else row[within]):
        alike = [list(row) for row in group]
        for index, column in enumerate(table.columns):
            values = [cell.value for row in alike if isinstance(cell := row[index], Number)]
            if column.lower_is_better is None or len(set(values)) < 2:
                continue
            best = min(values) if column.lower_is_better else max(values)
            for row in alike:
                cell = row[index]
                if isinstance(cell, Number):
                    row[index] = replace(cell, best=cell.value == best)
        rows += alike
    return replace(table, rows=rows)


def markdown(table: Table) -> str:
    """A table of GitHub's Markdown under its caption in bold, without a line end."""

    def show(cell: Cell, column: Column) -> str:
        number, interval = _parts(cell, column)
        number = number if isinstance(cell, Number) else markdown_text(number)
        number = f"**{number}**" if isinstance(cell, Number) and cell.best else number
        return f"{number} <sub>{interval}</sub>" if interval else number

    heads = [markdown_text(column.heading) for column in table.columns]
    rules = ["---" if column.align == "left" else "---:" for column in table.columns]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *_shown(table, show))]
    return "\n".join([f"**{markdown_text(table.caption)}**", "", *lines] if table.caption else lines)


def markdown_text(text: str) -> str:
    """Text in one line of Markdown, without HTML, pictures, links, code and cells that it would begin."""
    text = printable(text.replace("\n", " "))
    return re.sub(r"[|<`]", r"\\\g<0>", text).replace("](", "]\\(")


def latex(table: Table) -> str:
    r"""A `table` environment, without a line end; needs `\usepackage{booktabs}`."""

    def show(cell: Cell, column: Column) -> str:
        number, interval = map(_latex_escaped, _parts(cell, column))
        number = rf"\textbf{{{number}}}" if isinstance(cell, Number) and cell.best else number
        return rf"{number}{{\scriptsize\,{interval}}}" if interval else number

    head = [" & ".join(_latex_escaped(column.heading) for column in table.columns) + r" \\"]
    rows = [" & ".join(row) + r" \\" for row in _shown(table, show)]
    body = [r"\toprule", *_latex_groups(table.columns), *head, r"\midrule", *rows, r"\bottomrule"]
    alignment = "".join(column.align[0] for column in table.columns)
    return "\n".join([
        r"\begin{table}", r"  \centering", rf"  \caption{{{_latex_escaped(table.caption)}}}",
        rf"  \begin{{tabular}}{{{alignment}}}", *(f"    {line}" for line in body), r"  \end{tabular}", r"\end{table}",
    ])  # fmt: skip


def terminal(table: Table, *, plain: bool = False) -> Group:
    """The caption and the table for rich's console; an interval stands below its number. `plain`: without lines."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    def show(cell: Cell, column: Column) -> Text:
        number, interval = _parts(cell, column)
        text = Text(number, style="bold" if isinstance(cell, Number) and cell.best else "")
        return text.append(f"\n{interval}", style="not bold") if interval else text

    shown = RichTable(box=None, pad_edge=False) if plain else RichTable()
    for column in table.columns:
        shown.add_column(Text(column.heading), justify=column.align, no_wrap=not column.wraps)
    for row in _shown(table, show):
        shown.add_row(*row)
    return Group(*([Text(printable(table.caption), style="bold")] if table.caption else []), shown)


def html(table: Table, style: str = "numbers", run_name: Callable[[RunName], str] | None = None) -> str:
    """A `table` element; everything in it is escaped.

    Args:
        table: the cells of its left-aligned leading columns become headings of their rows.
        style: class of the element.
        run_name: HTML of a run's name; default: the escaped text.
    """

    def named(text: str | RunName) -> str:
        if isinstance(text, RunName) and run_name is not None:
            return run_name(text)
        return stdlib_html.escape(_name(text))

    def show(cell: Cell, column: Column) -> str:
        if isinstance(cell, RunName):
            return named(cell)
        number, interval = map(stdlib_html.escape, _parts(cell, column))
        number = f"<strong>{number}</strong>" if isinstance(cell, Number) and cell.best else number
        return f"{number}<small>{interval}</small>" if interval else number

    num_labels = next((i for i, column in enumerate(table.columns) if column.align == "right"), 1)
    lines = [f'<table class="{style}">']
    lines += [f"<caption>{stdlib_html.escape(table.caption)}</caption>"] if table.caption else []
    heads = [named(c.title) if isinstance(c.title, RunName) else stdlib_html.escape(c.heading) for c in table.columns]
    labels = [' class="label"' if index < num_labels else "" for index in range(len(heads))]
    cells = (f'<th scope="col"{label}>{head}</th>' for label, head in zip(labels, heads, strict=True))
    lines.append(f"<thead><tr>{''.join(cells)}</tr></thead>")
    lines.append("<tbody>")
    for row in _shown(table, show):
        headings = "".join(f'<th scope="row">{cell}</th>' for cell in row[:num_labels])
        lines.append(f"<tr>{headings}{''.join(f'<td>{cell}</td>' for cell in row[num_labels:])}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])


def _shown(table: Table, show: Callable[[Cell, Column], _Shown]) -> list[list[_Shown]]:
    return [[show(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]


def _name(text: str | RunName) -> str:
    return printable(text.text if isinstance(text, RunName) else text, lines=True)


def _parts(cell: Cell, column: Column) -> tuple[str, str]:
    """Text of a cell, and its interval or nothing."""
    if cell is None:
        return ABSENT, ""
    if not isinstance(cell, Number):
        return printable(str(cell.text if isinstance(cell, RunName) else cell), lines=True), ""
    if not math.isfinite(cell.value):
        return ABSENT, ""
    text = f"{100 * cell.value:.{column.digits}f}"
    text += "" if cell.spread is None else f" ± {100 * cell.spread:.{column.digits}f}"
    text += f" {cell.mark}" if cell.mark else ""
    if cell.interval is None:
        return text, ""
    low, high = (f"{100 * end:.{column.interval_digits}f}" for end in cell.interval)
    return text, f"[{low}, {high}]"


def _latex_groups(columns: Sequence[Column]) -> list[str]:
    """The row of headings over groups of columns, and the rules below them; nothing without groups."""
    if not any(column.group for column in columns):
        return []
    heads, rules, start = list[str](), list[str](), 1
    for group, members in groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        heads.append(rf"\multicolumn{{{count}}}{{c}}{{{_latex_escaped(group)}}}" if group else " & ".join([""] * count))
        rules += [rf"\cmidrule(lr){{{start}-{start + count - 1}}}"] if group else []
        start += count
    return [" & ".join(heads) + r" \\", " ".join(rules)]


def _latex_escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text, lines=True))


def latex_comment(text: str) -> str:
    """A line that LaTeX passes over, whatever the text holds: a line end in it would begin a line that it runs."""
    return f"% {printable(text)}"
