"""`mgcda chaos`: a short training with injected faults, compared with the same training without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mgcda_dist.choices import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from mgcda_dist.chaos.run import ChaosResult
    from mgcda_dist.config.schema import Config

__all__ = ["chaos"]

_DEFAULTS = {"tracking.log_every_steps": "1", "scaling.hang_timeout_s": "20", "checkpoint.keep": "3",
             "data.loader_workers": "1", "checkpoint.resume": "auto"}  # fmt: skip
"""Defaults of a chaos run: every step is logged, and a frozen worker is detected soon. Overrides take precedence."""


def chaos(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a short run")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it")] = None,
    seed: Annotated[int, typer.Option(help="seed of the schedule: equal seeds, equal faults at equal steps")] = 0,
    faults: Annotated[int, typer.Option(min=1, help="number of faults")] = 12,
    kinds: Annotated[str, typer.Option(help="comma-separated kinds of faults; empty: all")] = "",
) -> None:
    """Train twice on this machine, once with faults, and compare the final states; exit code 1 if a byte differs."""
    from mgcda_dist.extras import TRAINING, need

    need("mgcda chaos", *TRAINING)
    from mgcda_dist.chaos.run import run_chaos
    from mgcda_dist.chaos.schedule import KINDS, schedule
    from mgcda_dist.chaos.storage import obstacle
    from mgcda_dist.cli.console import Console
    from mgcda_dist.errors import MgcdaError

    console = Console()
    given = {word.partition("=")[0] for word in overrides or []}
    words = [*(f"{key}={value}" for key, value in _DEFAULTS.items() if key not in given), *(overrides or [])]
    name = _load(config, words).name
    runs = [[*words, f"name={name}-{kind}-{seed}"] for kind in ("calm", "chaos")]
    undisturbed, disturbed = ((_load(config, changes), [str(config), *changes]) for changes in runs)
    chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    for kind, reason in ((kind, obstacle(kind)) for kind in chosen or KINDS):
        if reason and chosen:
            raise MgcdaError("kinds", f"{kind} is impossible here: {reason}", "leave it out")
        if reason:
            console.print(f"left out: {kind} ({reason})", soft_wrap=True)
    chosen = chosen or [kind for kind in KINDS if not obstacle(kind)]
    plan = schedule(seed, faults, undisturbed[0].optim.steps, undisturbed[0].scaling.num_workers, chosen)
    for fault in plan:
        console.print(f"planned: {fault.kind} at step {fault.at_step}, {fault.delay_s * 1000:.0f} ms later")
    result = run_chaos(undisturbed, disturbed, plan, seed, lambda text: console.print(text, soft_wrap=True))
    folder = Path(disturbed[0].runs) / disturbed[0].name
    result.save(folder / "chaos.json")
    _show(result, console)
    console.print(f"report     {folder / 'chaos.json'}", soft_wrap=True)
    raise typer.Exit(ExitCode.OK if result.survived else ExitCode.FAILED)


def _load(file: Path, words: list[str]) -> Config:
    """The configuration with numbers where it says `auto`, as `mgcda train` on this machine will have it."""
    from mgcda_dist.cluster.connect import node_resources
    from mgcda_dist.cluster.scaling import is_open, resolve
    from mgcda_dist.config.load import load_config

    loaded = load_config(file, words)
    loaded.check_files()
    return resolve(loaded.config, node_resources()) if is_open(loaded.config) else loaded.config


def _show(result: ChaosResult, console: Console) -> None:
    from mgcda_dist.tables import Cell, Column, Table, terminal

    title = f"{len(result.faults)} faults, seed {result.seed}, {result.num_workers} workers, {result.num_steps} steps"
    titles = ("after step", "detected, s", "recovered, s", "resumed at", "steps repeated")
    rows: list[list[Cell]] = []
    for fault in result.faults:
        seconds = [None if s is None else f"{s:.1f}" for s in (fault.detected_s, fault.recovered_s)]
        rows.append([fault.kind, fault.step, *seconds, fault.resumed_at, fault.repeated])
    console.print(terminal(Table([Column("fault", align="left", wraps=False), *map(Column, titles)], rows, title)))
    console.print(f"undisturbed {result.calm_s:.0f} s, with the faults {result.disturbed_s:.0f} s")
    if result.differences:
        console.print(f"DIFFERENT from the undisturbed run: {'; '.join(result.differences)}", soft_wrap=True)
    elif result.survived:
        console.print("byte-identical to the undisturbed run: checkpoint, model, results, histories")
    else:
        console.print("byte-identical to the undisturbed run, but not every fault found a target")
