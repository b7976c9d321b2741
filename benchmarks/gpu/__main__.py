"""One GPU checked and measured in at most eight minutes: `make gpu-check`.

    python -m benchmarks.gpu [--out build/gpu_check] [--only SECTION …]

Needs torch, timm, NumPy, SciPy and OpenCV; with pydantic it measures the loader, with DeepSpeed the engine, too. No
network, no data. What it finds goes to gpu.json and gpu.md. Exit code: 0: all is well; 1: a section failed; 2: there is
no GPU; 3: time was too short for some. `--device cpu --tiny` is a trial of the check itself, on processors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path

import timm  # noqa: F401  # here, and not in every child
import torch

from benchmarks.gpu import flow, numbers, ranks, speed
from benchmarks.gpu.setting import Setting, bridge_older_torch
from benchmarks.sections import Result, Section, exit_code, page, run

MACHINE = "Machine"
_BUDGET_S = 470.0


def sections(setting: Setting) -> dict[str, Section]:
    """All sections by name, in their order: what takes a compiler's time comes last."""
    networks = setting.networks
    eager, compiled = (
        {
            f"{network.backbone}-{word}": Section(
                f"{network.backbone}, {word}",
                partial(speed.throughput, network, compiled=word == "compiled"),
                60 if word == "eager" else 150,
            )
            for network in order
        }
        for word, order in (("eager", networks), ("compiled", (*networks[1:2], *networks[:1], *networks[2:])))
    )
    return {
        "machine": Section(MACHINE, speed.machine, 90),
        "agreement": Section("Agreement with the host", numbers.agreement, 60),
        "repetition": Section("Repetition", numbers.repetition, 60),
        "norms": Section("Norms and precisions", numbers.norms, 60),
        "waits": Section("Waits and launches", speed.waits, 60),
        **eager,
        "engine": Section("Engine", ranks.engine, 120),
        "engine-waits": Section("Waits of the engine", ranks.waits, 60),
        "collectives": Section("Collectives, one rank", ranks.collectives, 40),
        "loading": Section("Loader", flow.loading, 60),
        "predicting": Section("Prediction", flow.predicting, 90),
        **compiled,
    }


def check(setting: Setting, wanted: dict[str, Section], budget_s: float, out: Path) -> list[Result]:
    """Do the sections one after the other; after each the files in `out` hold what is known.

    Where the first, the machine, has no GPU that was asked for, it is the last.
    """
    began, results = time.perf_counter(), list[Result]()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, section in wanted.items():
            result = run(section, setting, Path(folder), budget_s - (time.perf_counter() - began))
            results.append(result)
            print(f"{name}: {result.status}, {result.seconds:.1f} s", flush=True)
            for line in result.problems or (result.reason.splitlines()[-1:] if result.status != "passed" else []):
                print(f"  {line}", flush=True)
            write(results, setting, out)
            if lacks_gpu(setting, results):
                break
    return results


def lacks_gpu(setting: Setting, results: list[Result]) -> bool:
    """True where the machine has been looked at, and has no GPU that was asked for."""
    return setting.on_gpu and results[0].title == MACHINE and "card" not in results[0].facts


def write(results: list[Result], setting: Setting, out: Path) -> None:
    """Write gpu.json and gpu.md."""
    card = next((r.facts["card"] for r in results if "card" in r.facts), "no GPU: a trial of the check on processors")
    words = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    intro = f"`{words}`, {date.today():%-d %B %Y}."
    content = {"card": card, "device": str(setting.device), "tiny": setting.tiny, "date": f"{date.today()}"}
    content |= {"exit_code": exit_code(results), "sections": [asdict(result) for result in results]}
    (out / "gpu.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(page(f"One GPU, checked: {card}", intro, results), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Check and measure; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest networks and sizes")
    parser.add_argument("--budget", type=float, default=_BUDGET_S, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("build/gpu_check"), help="folder; default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections, besides `machine`")
    options = parser.parse_args(arguments)
    bridge_older_torch()
    setting = Setting(torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu"), options.tiny)
    known = sections(setting)
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(known)}")
    names = {"machine", *(options.only or known)}
    chosen = {name: section for name, section in known.items() if name in names}
    results = check(setting, chosen, options.budget, options.out)
    print(f"{options.out / 'gpu.md'}, {options.out / 'gpu.json'}")
    if lacks_gpu(setting, results):
        print("no GPU that torch can use; `--device cpu --tiny` tries the check itself on processors", file=sys.stderr)
        return 2
    return exit_code(results)


if __name__ == "__main__":
    # Whoever looks for a GPU here does it without CUDA: children are forked, and could not begin it again.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    sys.exit(main())
