"""Tables of a benchmark, from MLflow's records of its sweep: NAME is the sweep's.

    python benchmarks/results.py synthetic_to_real
    python benchmarks/results.py synthetic_to_real_levels
    python benchmarks/results.py synthetic_to_real_source --reference source
    python benchmarks/results.py multi_source
    python benchmarks/results.py methods            # rows in pairs, NAME and NAME_mgcda

Replaces what stands between `<!-- tables -->` and `<!-- end -->` of benchmarks/results/NAME.md, and copies pictures
beside it. Tables, intervals and verdicts are those of `mgcda compare`; time, machine and commit come from each run's
record.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from PIL import Image

from mgcda_dist.choices import METRICS
from mgcda_dist.reports.compare import Comparison, Difference, compare
from mgcda_dist.reports.runs import RunRecord, find_runs
from mgcda_dist.reports.tables import VERDICT_MARKS, markdown
from mgcda_dist.tables import Column, Table
from mgcda_dist.tables import markdown as as_markdown

RESULTS = Path(__file__).parent / "results"
PICTURED = ("full", "baseline", "mdat", "source_aligned", "source")
"""Rows of which the page shows pictures, of the first seed."""
SHOWN = ("ap", "fpr95", "miou")
WITH = "_mgcda"
"""End of the name of a row that is compared with the one of the same name without it."""


def main() -> None:
    """Write the tables into the page and copy its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the sweep and its page")
    parser.add_argument("--reference", default="baseline", help="row that the others are compared with")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of MLflow's database")
    parser.add_argument("--mlflow", help="tracking server or database; default: RUNS/mlflow.db")
    arguments = parser.parse_args()
    # By its id in MLflow, which has the times at which a run began and ended; a name would find the sweep's folder.
    given = arguments.runs / arguments.name / "mlflow_run_id"
    word = given.read_text().strip() if given.is_file() else arguments.name
    records, notes = find_runs([word], runs=arguments.runs, mlflow_uri=arguments.mlflow)
    pictures = copy_pictures(records, RESULTS / "pictures", arguments.name)
    written = "\n\n".join(sections(records, notes, pictures, arguments.reference))
    page = RESULTS / f"{arguments.name}.md"
    text, num_places = re.subn(
        r"(<!-- tables -->\n).*(<!-- end -->)",
        lambda m: f"{m[1]}\n{written}\n\n{m[2]}",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if num_places != 1:
        raise SystemExit(f"{page}: {num_places} places for tables, where one is needed")
    page.write_text(text, encoding="utf-8")
    print(page)


def sections(records: Sequence[RunRecord], notes: Sequence[str], pictures: dict[str, str], reference: str) -> list[str]:
    """The parts of the page that come from records, as Markdown."""
    if any(row_of(record).endswith(WITH) for record in records):
        compared = ["## Each with MGCDA and without", pairs_table(records)]
    else:
        first = next((record.name for record in records if row_of(record) == reference), None)
        if first is None:
            raise SystemExit(f"--reference {reference}: no run of this row; rows: {sorted(set(map(row_of, records)))}")
        compared = [f"## Against {reference}", *tables(compare(records, reference=first))]
    written = [
        f"Tables written on {date.today():%-d %B %Y}.",
        *compared,
        *(f"## {title}\n\n![{title}]({path})" for title, path in pictures.items()),
        "## Run by run",
        " / ".join(METRICS[metric].title for metric in SHOWN),
        numbers_table(records),
        "## The runs",
        "Minutes of the training's steps alone, and from the first process to the last picture, beside another run.",
        runs_table(records),
    ]
    if notes:
        written.append("\n".join(f"- {note}" for note in notes))
    return written


def tables(comparison: Comparison) -> tuple[str, str]:
    """A table of the whole comparison, one line per row, and what it stands on."""
    rows: list[list[str]] = []
    for group in comparison.groups:
        row = [group.name]
        for one in comparison.sets:
            differences, values = one.differences.get(group.name, {}), one.cells.get(group.name, {})
            numbers = (
                f"{100 * values[metric].value:.2f}"
                + (f" {VERDICT_MARKS[differences[metric].verdict]}" if is_significant(differences.get(metric)) else "")
                for metric in SHOWN
                if metric in values
            )
            row.append(" / ".join(numbers))
        rows.append(row)
    first = Column(" / ".join(METRICS[metric].title for metric in SHOWN), align="left")
    summary = as_markdown(Table([first, *(Column(one.name) for one in comparison.sets)], rows))
    details = f"<details><summary>Intervals and differences, set by set</summary>\n\n{markdown(comparison)}\n</details>"
    return summary, details


def pairs_table(records: Sequence[RunRecord]) -> str:
    """A line per pair of rows and set: without → with, the interval of their difference, a mark if significant."""
    rows: list[list[str]] = []
    for name in dict.fromkeys(row_of(record) for record in records if row_of(record).endswith(WITH)):
        plain = name.removesuffix(WITH)
        pair = [record for record in records if row_of(record) in (name, plain)]
        if len({row_of(record) for record in pair}) < 2:
            continue  # a note says which run is not finished
        comparison = compare(pair, reference=next(record.name for record in pair if row_of(record) == plain))
        without, aligned = sorted((group.name for group in comparison.groups), key=lambda group: WITH in group)
        for one in comparison.sets:
            cells = [plain.replace("_", "-"), one.name]
            for metric in SHOWN:
                values = [one.cells[group][metric].value for group in (without, aligned) if metric in one.cells[group]]
                found = one.differences.get(aligned, {}).get(metric)
                cells.append(_change(values, found) if len(values) == 2 and found is not None else "–")
            rows.append(cells)
    titles = [Column("method", align="left"), Column("set", align="left")]
    return as_markdown(Table([*titles, *(Column(METRICS[metric].title) for metric in SHOWN)], rows))


def _change(values: Sequence[float], difference: Difference) -> str:
    before, after = (f"{100 * value:.1f}" for value in values)
    low, high = (f"{100 * edge:+.1f}" for edge in (difference.low, difference.high))
    mark = f" {VERDICT_MARKS[difference.verdict]}" if is_significant(difference) else ""
    return f"{before} → {after} [{low}, {high}]{mark}"


def is_significant(difference: Difference | None) -> bool:
    """A verdict that tables mark."""
    return difference is not None and difference.verdict in VERDICT_MARKS


def row_of(record: RunRecord) -> str:
    """Row of the sweep: the name without its seed."""
    return record.name.rpartition("-s")[0] or record.name


def numbers_table(records: Sequence[RunRecord]) -> str:
    """One line per run: its values on every set."""
    sets = list(dict.fromkeys(key.split("/")[1] for record in records for key in record.metrics if key.endswith("/ap")))
    rows: list[list[str | None]] = []
    for record in records:
        named = [[record.metrics.get(f"eval/{name}/{metric}") for metric in SHOWN] for name in sets]
        rows.append([record.name, *(" / ".join(f"{100 * v:.1f}" for v in of if v is not None) for of in named)])
    return as_markdown(Table([Column("run", align="left"), *map(Column, sets)], rows))


def runs_table(records: Sequence[RunRecord]) -> str:
    """One line per run: seed, steps, time, machine, commit."""
    columns = [
        Column("run", align="left"), Column("seed"), Column("steps"), Column("training"), Column("all"),
        Column("machine", align="left"), Column("commit", align="left"),
    ]  # fmt: skip
    rows: list[list[str | None]] = []
    for record in records:
        began, ended = record.started_s, record.ended_s
        minutes = (ended - began) / 60 if began is not None and ended is not None else math.nan
        tags, params = record.tags, record.params
        commit = tags.get("mlflow.source.git.commit", "")[:9]
        commit += "" if tags.get("mgcda.git_clean") == "true" else ", changed"
        _, seconds = record.history.get("time/step_s", ([], []))
        steps = params.get("optim.steps", "nan")
        training = float(steps) * sum(seconds) / len(seconds) / 60 if seconds else math.nan
        facts = [params.get("seed"), steps, f"{training:.1f}", f"{minutes:.1f}", tags.get("mgcda.hardware")]
        rows.append([record.name, *facts, commit])
    return as_markdown(Table(columns, rows))


def copy_pictures(records: Sequence[RunRecord], folder: Path, prefix: str) -> dict[str, str]:
    """Copy pictures of the first runs of `PICTURED`; returns titles and paths."""
    wanted = {
        "The domain gap before and after, {}": "alignment.png",
        "Losses and discriminators, {}": "history.png",
    }
    found: dict[str, str] = {}
    for title, name in wanted.items():
        for row in PICTURED:
            record = next((record for record in records if row_of(record) == row), None)
            source = record.file(f"pictures/{name}") if record is not None else None
            if source is None:
                continue
            # Half the bytes of a PNG; colour is not subsampled, so that legend and dots keep theirs.
            file = folder / f"{prefix}-{row}-{source.stem}.jpg"
            Image.open(source).convert("RGB").save(file, quality=82, subsampling=0)
            found[title.format(row)] = f"pictures/{file.name}"
    return found


if __name__ == "__main__":
    main()
