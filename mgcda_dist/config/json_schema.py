"""JSON schemas of the two kinds of files, a configuration and a sweep, for editors: completion, meanings, mistakes."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from mgcda_dist.config.schema import Config
from mgcda_dist.config.sweep import Sweep, SweepRow
from mgcda_dist.references import PLUGIN, PREFIX

__all__ = ["SCHEMA_FILES", "Kind", "editor_line", "schema_of", "schema_text"]

Kind = Literal["config", "sweep"]

SCHEMA_FILES: dict[Kind, str] = {kind: f"{kind}.schema.json" for kind in get_args(Kind)}
"""Kind of file → name of its schema below `configs/`."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def editor_line(address: str) -> str:
    """The first line of a YAML file, which tells editors with the YAML language server its schema."""
    return f"# yaml-language-server: $schema={address}"


def schema_text(kind: Kind) -> str:
    """The schema as the text of a file."""
    return json.dumps(schema_of(kind), indent=1, ensure_ascii=False) + "\n"


def schema_of(kind: Kind) -> dict[str, Any]:
    """The schema of what may be written in a file, where the models have what holds after it was read.

    A configuration with `base:` may leave out any key of a section, since sections merge; items of lists are whole.
    """
    return _sweep() if kind == "sweep" else _config()


def _config() -> dict[str, Any]:
    schema = _readable(Config.model_json_schema())
    definitions: dict[str, Any] = schema.pop("$defs")
    without_base = _relax(schema, definitions)
    base = {"type": "string", "description": "file, relative to this one, whose values this one changes"}
    whole = {"if": {"not": {"required": ["base"]}}, "then": without_base}
    described = {"$schema": _DIALECT, "title": "Configuration of one run of mgcda_dist"}
    schema = {key: value for key, value in schema.items() if key != "title"}
    schema["properties"] = {"base": base} | schema["properties"]
    return described | schema | whole | {"$defs": definitions}


def _sweep() -> dict[str, Any]:
    schema = _readable(Sweep.model_json_schema())
    short = {"type": "string", "description": "YAML file of a run"}
    rows = schema["properties"]["rows"]["patternProperties"]
    (pattern,) = rows
    rows[pattern] = {"anyOf": [short, {"$ref": f"#/$defs/{SweepRow.__name__}"}]}
    schema["required"] = ["rows"]  # the name of a sweep is by default its file's
    return {"$schema": _DIALECT, "title": "Sweep of mgcda_dist"} | {k: v for k, v in schema.items() if k != "title"}


def _relax(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Take `required` from a section and from those below it in place; returns what asks for the same keys again.

    Sections that are also items of lists keep what they ask for: here they get a definition of their own.
    """
    asks: dict[str, Any] = {"required": schema.pop("required")} if "required" in schema else {}
    below: dict[str, Any] = {}
    for name, value in schema.get("properties", {}).items():
        for holder in (value, *value.get("anyOf", ()), *value.get("oneOf", ()), *value.get("allOf", ())):
            target = str(holder.get("$ref", "")).rpartition("/")[2]
            if not target or definitions[target].get("type") != "object":
                continue
            part = json.loads(json.dumps(definitions[target]))
            if found := _relax(part, definitions):
                definitions[f"{target}Part"] = part
                holder["$ref"] = f"#/$defs/{target}Part"
                below[name] = found
    return asks | ({"properties": below} if below else {})


def _readable(schema: dict[str, Any]) -> dict[str, Any]:
    """Without titles that repeat the key, and with short names of plugins, which are replaced when a file is read."""
    for part in (schema, *schema["$defs"].values()):
        for value in part.get("properties", {}).values():
            value.pop("title", None)
            for holder in (value, *value.get("anyOf", ())):
                if PREFIX in holder.get("pattern", ""):
                    holder["pattern"] = rf"({holder['pattern']})|^{PLUGIN}[\w.-]+$"
    return schema
