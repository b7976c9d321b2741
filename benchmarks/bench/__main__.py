"""Ratios of the system on processors, in about 20 minutes on two cores: `make bench`, `make bench-check`.

    python -m benchmarks.bench [--out build] [--only SECTION …] [--check [FILE]]

Both sides of a ratio are measured in turns, so that a busy machine moves them alike; medians and quartiles are over the
turns. Frames are generated. What it finds goes to bench.json and bench.md. Exit code: 0: every section gave its values,
whether they meet their targets or not; 1: a section failed, or, with --check, a ratio fell; 3: time was too short.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

from benchmarks.bench import loading, scaling, starts, steps
from benchmarks.bench.ratios import RATIOS, compare, found_in, read, summary
from benchmarks.bench.setting import ROOT, Setting
from benchmarks.sections import Result, Section, exit_code, page, run
from mgcda_dist.cluster.connect import KEEP_FREED_MEMORY
from mgcda_dist.tracking.provenance import processor_name

__all__ = ["COMMITTED", "SECTIONS", "check", "main"]

COMMITTED = ROOT / "benchmarks" / "results" / "bench.json"
SECTIONS = {
    "stack": Section("A step under the whole stack", steps.stack, 300),
    "price": Section("Price of the method", steps.price, 240),
    "memory": Section("Memory", steps.memory, 180),
    "weak": Section("Weak scaling", scaling.weak, 360),
    "strong": Section("Strong scaling", scaling.strong, 360),
    "loading": Section("Loader", loading.loader, 180),
    "starts": Section("Start and recovery", starts.starts, 400),
    "profiles": Section("Where the time of two ranks goes", scaling.profiles, 240),
}
"""By name, in their order."""
_SECONDS_ALONE = ("starts", "profiles")
"""Sections without a ratio: nothing of theirs is compared."""
_BUDGET_S = 1500.0
_HOW = """Medians over turns, in each of which both sides are measured one after the other, in any order. *Processor
time* is that of the process with all its threads (loader processes are others), which other work on the machine
stretches least; *wall time* contains what a step waits for. Networks have one thread; frames are generated, and the
configuration is that of the demo: tf_efficientnet_lite0, 8 crops of 192×256 a step on each worker, where nothing else
is said. Targets stand beside what was measured, and do not move."""
_OWN = {**KEEP_FREED_MEMORY, "OMP_NUM_THREADS": "1"}


def measure(setting: Setting, wanted: dict[str, Section], budget_s: float, out: Path) -> list[Result]:
    """Do the sections one after the other; after each the files in `out` hold what is known."""
    began, results = time.perf_counter(), list[Result]()
    out.mkdir(parents=True, exist_ok=True)
    for name, section in wanted.items():
        answers = setting.folder / "answers"
        answers.mkdir(exist_ok=True)
        result = run(section, setting, answers, budget_s - (time.perf_counter() - began))
        results.append(result)
        print(f"{name}: {result.status}, {result.seconds:.0f} s", file=sys.stderr, flush=True)
        write(results, setting, out)
    return results


def write(results: Sequence[Result], setting: Setting, out: Path) -> None:
    """Write bench.json and bench.md."""
    import torch

    load = os.getloadavg()
    facts = {
        "machine": f"{processor_name()}, {len(os.sched_getaffinity(0))} cores, no GPU",
        "load over 15 minutes, at the end": round(load[2], 1),
        "date": f"{date.today():%-d %B %Y}",
        "command": " ".join(["python -m benchmarks.bench", *sys.argv[1:]]),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "tiny": setting.tiny,
    }
    content = {**facts, "sections": [asdict(result) for result in results]}
    (out / "bench.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    intro = [f"`{facts['command']}`, {facts['date']}: {facts['machine']}; {facts['versions']}."]
    intro.append(f"Load over the last 15 minutes, this included: {load[2]:.1f}.")
    rest = [replace(r, tables={name: rows for name, rows in r.tables.items() if name != RATIOS}) for r in results]
    text = page("Ratios of the system", f"{' '.join(intro)}\n\n{_HOW}\n\n{summary(results)}", rest)
    (out / "bench.md").write_text(text, encoding="utf-8")


def check(results: Sequence[Result], committed: Path, wanted: Sequence[str]) -> int:
    """Print each committed ratio of these sections beside that of this run; 1 if one fell."""
    known = json.loads(committed.read_text(encoding="utf-8"))["sections"]
    titles = {SECTIONS[name].title for name in wanted}
    before = [section for section in known if section["title"] in titles]
    ended = {r.title: (r.reason.splitlines() or ["its section gave no value"])[-1] for r in results}
    reasons = {ratio.name: ended.get(s["title"], "") for s in before for ratio in found_in([s])}
    compared = compare(found_in(results), found_in(before), reasons)
    for each in compared:
        print(("FELL  " if each.fell else "      ") + each.text)
    return int(any(each.fell for each in compared))


def main(arguments: list[str] | None = None) -> int:
    """Measure, and compare where that is asked for; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="the smallest network, two turns: a trial of the benchmark")
    parser.add_argument("--budget", type=float, default=_BUDGET_S, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="FACTOR", help="on all limits of time, for a busy machine"
    )
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder; default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="SECTION", choices=SECTIONS, help=", ".join(SECTIONS))
    parser.add_argument(
        "--check", nargs="?", type=Path, const=COMMITTED, metavar="FILE", help="compare; default: the committed table"
    )
    options = parser.parse_args(arguments)
    names = options.only or [n for n in SECTIONS if options.check is None or n not in _SECONDS_ALONE]
    if options.check is not None:
        try:
            read(options.check)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    # As an interrupt is: the section that runs is ended with all its processes, and the folder is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        setting = Setting(options.tiny, Path(folder))
        setting.write_shards()
        wanted = {n: replace(SECTIONS[n], limit_s=options.patience * SECTIONS[n].limit_s) for n in names}
        results = measure(setting, wanted, options.patience * options.budget, options.out)
    print((options.out / "bench.md").read_text(encoding="utf-8") if options.check is None else summary(results))
    if options.check is not None:
        return check(results, options.check, names)
    return exit_code(results)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in _OWN.items()):
        # Of glibc, and of torch's threads: read when a process starts. What `mgcda train` gives to its own workers.
        command = [sys.executable, "-m", "benchmarks.bench", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **_OWN})
    sys.exit(main())
