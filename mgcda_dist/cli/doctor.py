"""`mgcda doctor`: checks of the cluster, or of this machine, before a long run. Imports lazily."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mgcda_dist.choices import ExitCode

__all__ = ["doctor"]

_STYLES = {"ok": "green", "note": "yellow", "problem": "red"}


def doctor(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="the planned run; without it fewer checks are possible")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="changes, as for train")
    ] = None,
    benchmark: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="duration of the communication benchmark; 0: none")
    ] = 5.0,
) -> None:
    """Check every node of the cluster of RAY_ADDRESS, or this machine; exit code 1 if the run would fail."""
    from mgcda_dist.extras import TRAINING, need

    need("mgcda doctor", *TRAINING)
    from mgcda_dist.cli.console import Console
    from mgcda_dist.config.load import load_config
    from mgcda_dist.doctor.examine import examine
    from mgcda_dist.errors import counted

    loaded = load_config(config, overrides).config if config is not None else None
    console = Console()
    problems = notes = 0
    for finding in examine(loaded, benchmark_s=benchmark):
        problems, notes = problems + (finding.level == "problem"), notes + (finding.level == "note")
        console.print(finding.level.ljust(8), style=_STYLES[finding.level], end="")
        console.print(f" {finding.subject:<12} {finding.text}", soft_wrap=True)
        if finding.remedy:
            console.print(f"{'':22}→ {finding.remedy}", soft_wrap=True)
    if problems:
        console.print(f"\n{counted(problems, 'problem')}: the run would fail.")
        raise typer.Exit(ExitCode.FAILED)
    console.print("\nNo problems found." + (f" Notes above: {notes}." if notes else ""))
