"""`mgcda laws`: a plug-in or a configuration through the laws of the distributed form. Imports lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mgcda_dist.choices import ExitCode

if TYPE_CHECKING:
    from mgcda_dist.laws.findings import Finding, LawsReport

__all__ = ["laws"]

_STYLES = {"kept": "green", "broken": "red", "not applicable": "yellow"}


def laws(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="PLUGIN|CONFIG", help="plugin:NAME, python:MODULE:NAME, a built-in loss, or a YAML file"
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="changes of the configuration, as for train")
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="of a plug-in: plugin:NAME, python:MODULE:NAME or a built-in")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="YAML", help="of a plug-in: '{name: unknown, arguments: {outputs: 2}}'"),
    ] = None,
    argument: Annotated[
        list[str] | None, typer.Option("--argument", metavar="NAME=VALUE", help="of a plug-in's loss")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="without ZeRO and ONNX")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Run a loss with its score and heads through the laws of distributed training; exit code 2 if one is broken."""
    from mgcda_dist.config.parse import parse_yaml
    from mgcda_dist.errors import ConfigError
    from mgcda_dist.extras import need

    if not quick:
        need("mgcda laws", "deepspeed")
    arguments: dict[str, Any] = {}
    for text in argument or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("--argument", f"{text!r} has no =", "write NAME=VALUE")
        arguments[name] = parse_yaml(value, f"--argument {name}")
    heads = [parse_yaml(text, "--head") for text in head or []]
    for each in heads:
        if not isinstance(each, dict):
            raise ConfigError("--head", f"{each!r} is no mapping", "write '{name: NAME, arguments: {outputs: 2}}'")

    from mgcda_dist.cli.progress import shown_progress
    from mgcda_dist.laws import check_laws, subject_of
    from mgcda_dist.laws.zero import STAGES

    chosen = subject_of(subject, overrides or [], score=score, heads=heads or None, arguments=arguments)
    with shown_progress("laws") as show:
        done = 0

        def tell(doing: str) -> None:
            nonlocal done
            done += 1
            show(done, title=doing)

        report = check_laws(chosen, zero_stages=() if quick else STAGES, with_onnx=not quick, tell=tell)
    _print_json(report) if as_json else _print(report)
    if report.broken:
        raise typer.Exit(ExitCode.REFUSED)


def _print(report: LawsReport) -> None:
    from mgcda_dist.cli.console import Console
    from mgcda_dist.errors import counted

    console = Console()
    width = max(len(each.title) for each in report.findings)
    for each in report.findings:
        console.print(each.verdict.ljust(15), style=_STYLES[each.verdict], end="")
        console.print(f"{each.law:<5} {each.title:<{width}}  {_number(each)}", soft_wrap=True)
        if each.verdict == "broken" and each.said:
            console.print(f"{'':21}→ {each.said}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    verdict = f"{counted(len(report.broken), 'law')} broken" if report.broken else "no law broken"
    console.print(f"{report.subject}: {verdict}, {report.seconds:.0f} s", soft_wrap=True)


def _number(finding: Finding) -> str:
    """The number, its place, and of a law that is not broken its meaning."""
    number = "" if finding.number is None else f"{finding.number:.3g}"
    meaning = "" if finding.verdict == "broken" else finding.said
    return ", ".join(part for part in (f"{number} {meaning}".strip(), finding.where) if part)


def _print_json(report: LawsReport) -> None:
    import json
    import math
    from dataclasses import asdict

    content: dict[str, Any] = asdict(report) | {"broken": len(report.broken)}
    findings: list[dict[str, Any]] = content["findings"]
    for each in findings:
        if each["number"] is not None and not math.isfinite(each["number"]):
            each["number"] = str(each["number"])  # JSON has no such numbers
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
