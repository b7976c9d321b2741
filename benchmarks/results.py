r"""A page of results: what the sweeps of configs/benchmark gave, read from the records of their runs.

    python benchmarks/results.py --sweep benchmark
    python benchmarks/results.py --sweep benchmark_parts benchmark_full long weight_03 weight_01 \
        --notes benchmarks/results_parts_notes.md --out docs/results_parts.md

A page has a section for each of three comparisons, if its runs are named: the four rows, the parts, runs outside of
sweeps, of which the first one named is what the others are compared with.
Tables, intervals and verdicts are those of `mgcda compare`; time, machine, commit and command come from each run's
record in MLflow. What no record can say (what was tried and did not help) is taken from the file of notes, as it is:
what stands above its line `---` on top of the page, the rest under the tables.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from PIL import Image

from mgcda_dist.reports.compare import Comparison, compare
from mgcda_dist.reports.runs import RunRecord, find_runs
from mgcda_dist.reports.tables import markdown

ROOT = Path(__file__).parents[1]
MAIN_ROWS = ("baseline", "mdat", "cacl", "full")
REFERENCE_OF_PARTS = "full_450"
PARENT_TAG = "mlflow.parentRunId"  # runs of a sweep have it
MARKS = {"better": " ▲", "worse": " ▼"}

PUBLISHED = """\
| method | network, input | RoadAnomaly AP ↑ / FPR95 ↓ | Fishyscapes Lost&Found val AP ↑ / FPR95 ↓ |
|---|---|---:|---:|
| PEBAL (arXiv 2111.12264) | DeepLabV3+ WideResNet38, full resolution | 45.10 / 44.58 | 58.81 / 4.77 |
| RPL+CoroCL (arXiv 2211.14512) | DeepLabV3+ WideResNet38, full resolution | 71.61 / 17.74 | 70.61 / – |
| MultiShiftSeg | DeepLabV3+, full resolution | 74.60 / 16.08 | – |
| Mask2Anomaly | Mask2Former, full resolution | 79.70 / 13.45 | – |
| RbA (arXiv 2211.14293) | Mask2Former Swin-L, full resolution | 90.28 / 4.92 | 80.35 / 4.58 |
| DetSeg-R+UNO | Swin-L, full resolution | 94.63 / 1.86 | 87.01 / 1.95 |"""


def main() -> None:
    """Write the page and copy its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of MLflow's database")
    parser.add_argument("--mlflow", help="tracking server or database; default: RUNS/mlflow.db")
    parser.add_argument(
        "--sweep", nargs="+", default=["benchmark"], help="names of the sweeps, such as benchmark_parts, and runs"
    )
    parser.add_argument("--notes", type=Path, default=ROOT / "benchmarks" / "results_notes.md")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    arguments = parser.parse_args()
    # By its id in MLflow, which knows when a run began and ended; by name the folder of the sweep would come first.
    ids = [arguments.runs / name / "mlflow_run_id" for name in arguments.sweep]
    words = [file.read_text().strip() if file.is_file() else file.parent.name for file in ids]
    records, notes = find_runs(words, runs=arguments.runs, mlflow_uri=arguments.mlflow)
    pictures = copy_pictures(records, arguments.out.parent / "pictures")
    text = page(records, notes, arguments.notes.read_text(encoding="utf-8"), pictures)
    arguments.out.write_text(text, encoding="utf-8")
    print(arguments.out)


def page(records: Sequence[RunRecord], notes: Sequence[str], own_words: str, pictures: dict[str, str]) -> str:
    """The page as Markdown."""
    main_rows = [record for row in MAIN_ROWS for record in records if row_of(record) == row]
    others = [record for record in records if row_of(record) not in MAIN_ROWS]
    parts = [record for record in others if PARENT_TAG in record.tags]
    alone = [record for record in others if PARENT_TAG not in record.tags]
    in_short, _, remarks = own_words.partition("\n---\n")
    sections = [
        f"# Results of the small benchmark, {date.today():%-d %B %Y}",
        "Written by `python benchmarks/results.py` from the records of the runs of configs/benchmark in MLflow: "
        "EfficientNet-Lite0 with ImageNet weights, trained on CamVid, COCO objects and unlabelled "
        "IDD-Lite. Percent; intervals over images and seeds (95 %, bootstrap); `▲`, `▼`: significant differences.",
        "`validation_…` were there to choose settings on, all others are test sets; what was in sight when settings "
        "were chosen stands under the tables.",
        "## In short",
        in_short.strip(),
    ]
    if main_rows:
        first = next(record for record in main_rows if row_of(record) == MAIN_ROWS[0])
        sections += [
            "## The method against the same network without it",
            *tables(compare(main_rows, reference=first.name)),
        ]
    if parts:
        first = next(record for record in parts if row_of(record) == REFERENCE_OF_PARTS)
        sections += [
            "## The parts",
            f"Half the steps, one seed; each row changes one thing of `{REFERENCE_OF_PARTS}`.",
            *tables(compare(parts, reference=first.name)),
        ]
    if alone:
        sections += [
            "## Runs by themselves, with two workers",
            f"One seed; what changes in `{alone[0].name}` is twice the steps, or how much the contrast weighs.",
            *tables(compare(alone, reference=alone[0].name)),
        ]
    sections += [f"## {title}\n\n![{title}]({path})" for title, path in pictures.items()]
    sections += ["## What helped, and what did not", remarks.strip()]
    sections += ["## The runs", "Minutes with the evaluation; one worker: two runs side by side.", runs_table(records)]
    if notes:
        sections.append("\n".join(f"- {note}" for note in notes))
    if main_rows:
        sections += [
            "## Published numbers, theirs",
            "On all 60 frames of RoadAnomaly, with networks that are 10 to 50 times as large, trained at full "
            "resolution on Cityscapes and COCO. For orientation: no comparison.",
            PUBLISHED,
        ]
    return "\n\n".join(sections) + "\n"


def tables(comparison: Comparison) -> tuple[str, str]:
    """A table of the whole comparison, one line per row, and what it stands on."""
    lines = ["| AP / FPR95 / mIoU | " + " | ".join(one.name for one in comparison.sets) + " |"]
    lines.append("|---|" + "---:|" * len(comparison.sets))
    for group in comparison.groups:
        cells: list[str] = []
        for one in comparison.sets:
            verdicts = {metric: d.verdict for metric, d in one.differences.get(group.name, {}).items()}
            values = one.cells.get(group.name, {})
            cells.append(
                " / ".join(
                    f"{100 * values[metric].value:.2f}{MARKS.get(verdicts.get(metric, ''), '')}"
                    for metric in ("ap", "fpr95", "miou")
                    if metric in values
                )
            )
        lines.append(f"| {group.name} | " + " | ".join(cells) + " |")
    details = f"<details><summary>Intervals and differences, set by set</summary>\n\n{markdown(comparison)}\n</details>"
    return "\n".join(lines), details


def row_of(record: RunRecord) -> str:
    """Row of the sweep: the name without its seed."""
    return record.name.rpartition("-s")[0] or record.name


def runs_table(records: Sequence[RunRecord]) -> str:
    """One line per run: seed, steps, time, machine, commit, command."""
    lines = [
        "| run | seed | steps | minutes | machine | commit | command |",
        "|---|---:|---:|---:|---|---|---|",
    ]
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
        lines.append(
            f"| {record.name} | {params.get('seed')} | {params.get('optim.steps')} | {minutes:.1f} "
            f"| {tags.get('mgcda.hardware', '–')} | {commit} | {command} |"
        )
    return "\n".join(lines)


def copy_pictures(records: Sequence[RunRecord], folder: Path) -> dict[str, str]:
    """Copy the domain gap and the panel of the first run of the full method; returns titles and paths."""
    full = next((record for record in records if row_of(record) == "full"), None)
    wanted = {"The domain gap before and after": "alignment.png", "Discriminators against chance": "history.png"}
    found: dict[str, str] = {}
    for title, name in wanted.items():
        source = full.file(f"pictures/{name}") if full is not None else None
        if source is not None:
            # Half the bytes of a PNG; colour is not subsampled, so that legend and dots keep theirs.
            file = folder / f"results-{source.stem}.jpg"
            Image.open(source).convert("RGB").save(file, quality=88, subsampling=0)
            found[title] = f"pictures/{file.name}"
    return found


if __name__ == "__main__":
    main()
