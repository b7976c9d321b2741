r"""Tables of the small benchmark, from the MLflow records of the sweeps of configs/benchmark.

    python benchmarks/results.py
    python benchmarks/results.py --sweep benchmark_parts benchmark_full long weight_03 weight_01 \
        --page benchmarks/results/parts.md

Replaces what stands between `<!-- tables -->` and `<!-- end -->` of the page, and copies pictures beside it. There is
a section for each of three comparisons, if its runs are named: the four rows, the parts, and runs outside of sweeps,
which are compared with the first one named. Tables, intervals and verdicts are those of `mgcda compare`; time, machine,
commit and command come from each run's record.
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

PAGE = Path(__file__).parent / "results" / "small_benchmark.md"
MAIN_ROWS = ("baseline", "mdat", "cacl", "full")
REFERENCE_OF_PARTS = "full_450"
PARENT_TAG = "mlflow.parentRunId"  # runs of a sweep have it
SHOWN = ("ap", "fpr95", "miou")


def main() -> None:
    """Write the tables into the page and copy its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of MLflow's database")
    parser.add_argument("--mlflow", help="tracking server or database; default: RUNS/mlflow.db")
    parser.add_argument("--sweep", nargs="+", default=["benchmark"], help="names of sweeps and of runs")
    parser.add_argument("--page", type=Path, default=PAGE, help="Markdown file that receives the tables")
    arguments = parser.parse_args()
    # By its id in MLflow, which has the times at which a run began and ended; a name would find the sweep's folder.
    ids = [arguments.runs / name / "mlflow_run_id" for name in arguments.sweep]
    words = [file.read_text().strip() if file.is_file() else file.parent.name for file in ids]
    records, notes = find_runs(words, runs=arguments.runs, mlflow_uri=arguments.mlflow)
    pictures = copy_pictures(records, arguments.page.parent / "pictures")
    written = "\n\n".join(sections(records, notes, pictures))
    text, num_places = re.subn(
        r"(<!-- tables -->\n).*(<!-- end -->)",
        lambda m: f"{m[1]}\n{written}\n\n{m[2]}",
        arguments.page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if num_places != 1:
        raise SystemExit(f"{arguments.page}: {num_places} places for tables, where one is needed")
    arguments.page.write_text(text, encoding="utf-8")
    print(arguments.page)


def sections(records: Sequence[RunRecord], notes: Sequence[str], pictures: dict[str, str]) -> list[str]:
    """The parts of the page that come from records, as Markdown."""
    main_rows = [record for row in MAIN_ROWS for record in records if row_of(record) == row]
    others = [record for record in records if row_of(record) not in MAIN_ROWS]
    parts = [record for record in others if PARENT_TAG in record.tags]
    alone = [record for record in others if PARENT_TAG not in record.tags]
    written = [f"Tables written on {date.today():%-d %B %Y}."]
    if main_rows:
        first = next(record for record in main_rows if row_of(record) == MAIN_ROWS[0])
        written += [
            "## The method against the same network without it",
            *tables(compare(main_rows, reference=first.name)),
        ]
    if parts:
        first = next(record for record in parts if row_of(record) == REFERENCE_OF_PARTS)
        written += [
            "## The parts",
            f"Half the steps, one seed; each row changes one thing of `{REFERENCE_OF_PARTS}`.",
            *tables(compare(parts, reference=first.name)),
        ]
    if alone:
        written += [
            "## Runs by themselves, with two workers",
            f"One seed; what changes in `{alone[0].name}` is twice the steps, or how much the contrast weighs.",
            *tables(compare(alone, reference=alone[0].name)),
        ]
    written += [f"## {title}\n\n![{title}]({path})" for title, path in pictures.items()]
    written += ["## The runs", "Minutes with the evaluation; one worker: two runs side by side.", runs_table(records)]
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


def is_significant(difference: Difference | None) -> bool:
    """A verdict that tables mark."""
    return difference is not None and difference.verdict in VERDICT_MARKS


def row_of(record: RunRecord) -> str:
    """Row of the sweep: the name without its seed."""
    return record.name.rpartition("-s")[0] or record.name


def runs_table(records: Sequence[RunRecord]) -> str:
    """One line per run: seed, steps, time, machine, commit, command."""
    columns = [
        Column("run", align="left"), Column("seed"), Column("steps"), Column("minutes"),
        Column("machine", align="left"), Column("commit", align="left"), Column("command", align="left"),
    ]  # fmt: skip
    rows: list[list[str | None]] = []
    for record in records:
        began, ended = record.started_s, record.ended_s
        minutes = (ended - began) / 60 if began is not None and ended is not None else math.nan
        tags, params = record.tags, record.params
        commit = tags.get("mlflow.source.git.commit", "")[:9]
        commit += "" if tags.get("mgcda.git_clean") == "true" else ", changed"
        command = f"`{tags.get('mgcda.command', '–')}`"
        if row_of(record) in MAIN_ROWS:
            switches = f"seed={params.get('seed')} scaling.workers={params.get('scaling.workers')}"
            command = f"`mgcda train configs/benchmark/{row_of(record)}.yaml {switches}`"
        elif PARENT_TAG in tags:
            command = "row of parts.yaml"
        facts = [params.get("seed"), params.get("optim.steps"), f"{minutes:.1f}", tags.get("mgcda.hardware")]
        rows.append([record.name, *facts, commit, command])
    return as_markdown(Table(columns, rows))


def copy_pictures(records: Sequence[RunRecord], folder: Path) -> dict[str, str]:
    """Copy the domain gap and the panel of the first run of the full method; returns titles and paths."""
    full = next((record for record in records if row_of(record) == "full"), None)
    wanted = {"The domain gap before and after": "alignment.png", "Discriminators against chance": "history.png"}
    found: dict[str, str] = {}
    for title, name in wanted.items():
        source = full.file(f"pictures/{name}") if full is not None else None
        if source is not None:
            # Half the bytes of a PNG; colour is not subsampled, so that legend and dots keep theirs.
            file = folder / f"{source.stem}.jpg"
            Image.open(source).convert("RGB").save(file, quality=88, subsampling=0)
            found[title] = f"pictures/{file.name}"
    return found


if __name__ == "__main__":
    main()
