"""Tables: the same numbers in every back end, escaped as each needs it."""

from __future__ import annotations

import io
from html.parser import HTMLParser

from rich.console import Console

from mgcda_dist.tables import Column, Number, RunName, Table, best_in_bold, html, latex, markdown, terminal

EVIL = "a|b & 50 % <script>"
COLUMNS = (
    Column("set", align="left"),
    Column("method", align="left"),
    Column("FPR95", lower_is_better=True, group="pixels"),
    Column("AP", lower_is_better=False, interval_digits=1, group="pixels"),
    Column("frames"),
)
TABLE = Table(
    COLUMNS,
    [
        ["one", EVIL, Number(0.2), Number(0.75, (0.7, 0.8), spread=0.01, mark="▲"), 60],
        ["one", "ours", Number(0.1), None, 60],
        ["two", "ours", Number(0.3), Number(float("nan")), 5],
    ],
    caption="Per cent & more",
)


def test_the_best_is_emphasised_where_there_is_something_to_compare() -> None:
    def bold(table: Table) -> list[list[bool]]:
        return [[cell.best for cell in row if isinstance(cell, Number)] for row in table.rows]

    assert bold(best_in_bold(TABLE, within=0)) == [[False, False], [True], [False, False]]
    same = Table(COLUMNS[2:3], [[Number(0.1)], [Number(0.1)]])
    assert bold(best_in_bold(same)) == [[False], [False]]
    without_direction = Table([Column("n")], [[Number(0.1)], [Number(0.2)]])
    assert bold(best_in_bold(without_direction)) == [[False], [False]]


def test_markdown() -> None:
    lines = markdown(best_in_bold(TABLE, within=0)).splitlines()
    assert lines[0] == "**Per cent & more**" and lines[1] == ""
    assert lines[2:4] == ["| set | method | FPR95 ↓ | AP ↑ | frames |", "| --- | --- | ---: | ---: | ---: |"]
    assert lines[4] == r"| one | a\|b & 50 % \<script> | 20.00 | 75.00 ± 1.00 ▲ <sub>[70.0, 80.0]</sub> | 60 |"
    assert lines[5:] == ["| one | ours | **10.00** | – | 60 |", "| two | ours | 30.00 | – | 5 |"]


def test_latex_has_groups_of_columns() -> None:
    lines = [line.strip() for line in latex(best_in_bold(TABLE, within=0)).splitlines()]
    assert r"\caption{Per cent \& more}" in lines and r"\begin{tabular}{llrrr}" in lines
    assert lines[lines.index(r"\toprule") + 1 :][:2] == [
        r"&  & \multicolumn{2}{c}{pixels} &  \\",
        r"\cmidrule(lr){3-4}",
    ]
    assert r"set & method & FPR95 $\downarrow$ & AP $\uparrow$ & frames \\" in lines
    marked = r"75.00 $\pm$ 1.00 $^{+}${\scriptsize\,[70.0, 80.0]}"
    assert rf"one & a|b \& 50 \% $<$script$>$ & 20.00 & {marked} & 60 \\" in lines
    assert r"one & ours & \textbf{10.00} & -- & 60 \\" in lines


def test_the_terminal_shows_intervals_below_their_numbers() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100)
    console.print(terminal(TABLE))
    text = output.getvalue()
    assert "Per cent & more" in text and EVIL in text and "75.00 ± 1.00 ▲" in text and "[70.0, 80.0]" in text


def test_html_is_escaped_and_names_runs_as_the_page_wants() -> None:
    class Tags(HTMLParser):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.tags, self.words = list[str](), list[str]()
            self.feed(text)

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)

        def handle_data(self, data: str) -> None:
            self.words.append(data)

    parsed = Tags(html(best_in_bold(TABLE, within=0)))
    assert "script" not in parsed.tags and EVIL in parsed.words and "Per cent & more" in parsed.words
    assert parsed.tags.count("tr") == 4 and parsed.tags.count("td") == 9 and parsed.tags.count("strong") == 1
    assert "[70.0, 80.0]" in parsed.words
    runs = Table([Column("run", align="left"), Column(RunName("<b>", 1))], [[RunName("<a>", 0), "1"]])
    assert "<em>0</em>" in html(runs, run_name=lambda run: f"<em>{run.index}</em>")
    assert "&lt;a&gt;" in html(runs) and "&lt;b&gt;" in html(runs)
