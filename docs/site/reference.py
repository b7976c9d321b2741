"""Reference pages that are generated: the command line from typer, the configuration from pydantic, the API."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.site.pages import ROOT, Site
from mgcda_dist.choices import ExitCode
from mgcda_dist.cli.main import app
from mgcda_dist.config.fields import OnResume
from mgcda_dist.config.keys import on_resume, section_of
from mgcda_dist.config.schema import Config

__all__ = ["commands", "configuration_keys", "reference_pages"]

ROOMS = {
    "api": "The public functions: import mgcda_dist as mg",
    "method": "The method in pure torch",
    "models": "Segmenters, losses and scores",
    "data": "From shards to batches",
    "evaluation": "Metrics, conventions, intervals",
    "inference": "A trained network without its training",
    "reports": "Comparison and report",
    "config": "The configuration",
    "build": "From a configuration to objects",
    "tracking": "The record of a run",
    "runs": "Folders of runs",
    "training": "One worker",
    "cluster": "Ray",
}
API_HEAD = """# Python API

Generated from the docstrings. This page has what is public, `import mgcda_dist as mg`; what the [packages](#packages)
hold besides may change between any two versions.

::: mgcda_dist

::: mgcda_dist.errors

"""
RESUME = {OnResume.FREE: "yes", OnResume.OVERRIDE: "if asked for", OnResume.FIXED: "no"}
UNITS = {"px": "pixels", "s": "seconds", "steps": "steps", "bytes": "bytes"}


def reference_pages(site: Site) -> list[Any]:
    """Stage all generated pages; returns their entries for the navigation."""
    site.write("reference/cli.md", _cli_page())
    sections = _configuration_pages(site)
    return [{"Command line": "reference/cli.md"}, {"Configuration": sections}, {"Python API": _api_pages(site)}]


# ------------------------------------------------------------------------------------------------------- command line


def commands(command: Any = None, name: str = "mgcda") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, groups before what is in them."""
    command = typer.main.get_command(app) if command is None else command
    yield name, command
    for child, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {child}")


def _cli_page() -> str:
    parts = ["# Command line\n\nGenerated from the commands themselves: what `--help` says, in one page."]
    for name, command in commands():
        if hasattr(command, "commands"):
            continue
        context = command.make_context(name, [], resilient_parsing=True)
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts.append(f"## {name}\n\n{command.help}\n\n```text\n{' '.join(usage.split())}\n```")
        rows = [record for parameter in command.params if (record := parameter.get_help_record(context))]
        parts.append("| argument, option | meaning |\n|---|---|")
        parts[-1] += "".join(f"\n| {_code(term)} | {_cell(meaning)} |" for term, meaning in rows)
    parts.append("## Exit codes\n\n" + _exit_codes())
    return "\n\n".join(parts) + "\n"


def _exit_codes() -> str:
    tree = ast.parse((ROOT / "mgcda_dist" / "choices.py").read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ExitCode")
    said = {"OK": "Done."}
    for value, text in pairwise(body):
        if isinstance(value, ast.Assign) and isinstance(text, ast.Expr):
            said[ast.unparse(value.targets[0])] = ast.literal_eval(text.value)
    return "| code | meaning |\n|---|---|\n" + "\n".join(
        f"| {code.value} | {_cell(said[code.name])} |" for code in ExitCode
    )


# ------------------------------------------------------------------------------------------------------ configuration


def configuration_keys(model: type[BaseModel] = Config, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the configuration with its field; what a list holds stands below the list's own name."""
    for name, info in model.model_fields.items():
        key = f"{above}{name}"
        yield key, info
        below = section_of(model, name)
        if below is not None:
            yield from configuration_keys(below, f"{key}.")


def _configuration_pages(site: Site) -> list[Any]:
    """One page per section of the first level, and one for what stands beside them."""
    legend = (
        "A key is written in YAML below its section, or on the command line with dots: `optim.steps=100`. "
        "**On resume** says whether a run that goes on may have another value: *yes*; *if asked for*, with "
        "`--override-config`; *no*. **Source** is where the default comes from; *ours* was chosen here.\n"
    )
    pages: dict[str, list[str]] = {}
    top: list[tuple[str, FieldInfo, type[BaseModel] | None]] = []
    for name, info in Config.model_fields.items():
        section = section_of(Config, name)
        if section is None:
            top.append((name, info, None))
        else:
            pages[name] = [f"# {name}\n\n{_text(section)}", *_section(section, name)]
    rows = "\n".join(f"| [`{name}`]({name}.md) | {_first_line(section_of(Config, name))} |" for name in pages)
    site.write(
        "reference/configuration/index.md",
        f"# Configuration\n\nEvery key, generated from the schema.\n\n{legend}\n{_table(top)}\n\n"
        f"## Sections\n\n| section | holds |\n|---|---|\n{rows}\n",
    )
    for name, parts in pages.items():
        site.write(f"reference/configuration/{name}.md", "\n\n".join(parts) + "\n")
    return ["reference/configuration/index.md", *({n: f"reference/configuration/{n}.md"} for n in pages)]


def _section(section: type[BaseModel], above: str) -> Iterator[str]:
    fields = [(f"{above}.{name}", info, section_of(section, name)) for name, info in section.model_fields.items()]
    yield _table(fields)
    for key, _, below in fields:
        if below is not None:
            yield f"## {key}\n\n{_text(below)}"
            yield from _section(below, key)


def _table(fields: list[tuple[str, FieldInfo, type[BaseModel] | None]]) -> str:
    return "| key | default | meaning |\n|---|---|---|\n" + "\n".join(_row(*field) for field in fields)


def _row(key: str, info: FieldInfo, section: type[BaseModel] | None) -> str:
    meaning, source = _meaning_and_source(info.description or _first_line(section))
    decision = on_resume(key)
    name = key.rpartition(".")[2]
    facts = {
        "Type": _type(info),
        "Unit": _unit(name, meaning),
        "On resume": RESUME[decision] if decision else "see its keys",
        "Source": _cell(source),
    }
    small = "; ".join(f"**{fact}**: {_cell(value)}" for fact, value in facts.items() if value)
    return f"| `{name}`{{ #{key} }} | {_default(info)} | {_cell(meaning)}<small>{small}</small> |"


def _meaning_and_source(text: str) -> tuple[str, str]:
    """A description and the source of its default: `ours` at its end, else papers that it names."""
    if text.endswith("; ours"):
        return text.removesuffix("; ours"), "ours"
    return text, ", ".join(f"arXiv {number}" for number in re.findall(r"arXiv (\d{4}\.\d{5})", text))


def _unit(name: str, meaning: str) -> str:
    suffix = name.rpartition("_")[2] if "_" in name else ""
    if suffix in UNITS or name in UNITS:
        return UNITS[suffix or name]
    said = re.search(r"\b(pixels|px|seconds|share|chance|factor|images|weight)\b", meaning)
    return {"px": "pixels"}.get(said[1], said[1]) if said else ""


def _default(info: FieldInfo) -> str:
    default = info.default
    if default is PydanticUndefined:
        return "**required**"
    if isinstance(default, BaseModel):
        return "its own defaults"
    if isinstance(default, list) and default and isinstance(default[0], BaseModel):
        default = [item.model_dump() for item in default]
    if isinstance(default, Enum):
        default = default.value
    return _code(json.dumps(default, ensure_ascii=False))


def _type(info: FieldInfo) -> str:
    text = _named(info.annotation)
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in info.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(bound, name, None) is not None
    ]
    return ", ".join([text, *bounds])


def _named(kind: Any) -> str:
    """A type as a reader of YAML knows it."""
    origin = getattr(kind, "__origin__", None)
    arguments = get_args(kind)
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    if kind in (str, bool, int, float):
        return {str: "text", bool: "true or false", int: "whole number", float: "number"}[kind]
    if hasattr(kind, "__metadata__"):
        return _named(arguments[0])
    name = getattr(origin, "__name__", str(origin))
    if name == "Literal":
        return ", ".join(map(str, arguments))
    if name == "list":
        return f"list of {_named(arguments[0])}"
    if name == "dict":
        return f"mapping of {_named(arguments[0])} to {_named(arguments[1])}"
    if name == "tuple":
        return f"[{', '.join(map(_named, arguments))}]"
    return " or ".join(map(_named, arguments)) if arguments else "any"


# -------------------------------------------------------------------------------------------------------- Python API


def _api_pages(site: Site) -> list[Any]:
    """A page per room: its modules that say what they make public, by mkdocstrings."""
    rows: list[str] = []
    entries: list[Any] = ["reference/api/index.md"]
    for room, title in ROOMS.items():
        modules = _modules(room)
        blocks = "\n".join(f"::: {_dotted(path)}\n" for path in modules)
        site.write(f"reference/api/{room}.md", f"# mgcda_dist.{room}\n\n{title}.\n\n{blocks}")
        rows.append(f"| [`mgcda_dist.{room}`]({room}.md) | {title} |")
        entries.append({room: f"reference/api/{room}.md"})
    table = "\n".join(rows)
    site.write("reference/api/index.md", f"{API_HEAD}## Packages\n\n| package | holds |\n|---|---|\n{table}\n")
    return entries


def _modules(room: str) -> list[Path]:
    """The modules of a room that say what is public; not `__init__.py`, which only passes it on."""
    found: list[Path] = []
    for path in sorted((ROOT / "mgcda_dist" / room).rglob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in tree.body):
            found.append(path)
    return found


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


# -------------------------------------------------------------------------------------------------------------- cells


def _cell(text: str) -> str:
    """Text that may stand in a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _code(text: str) -> str:
    text = " ".join(text.split())
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _text(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().replace("\n    ", "\n")


def _first_line(section: type[BaseModel] | None) -> str:
    return _cell(_text(section).split("\n\n")[0]) if section else ""
