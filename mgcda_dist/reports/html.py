"""The report: runs as one HTML page that needs nothing else, no network, no server, and escapes every word it is given.

Style and script stand in the page; a Content Security Policy admits these two by their hashes, pictures as data URIs,
and nothing more, whatever a run's name or a file's text may hold.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mgcda_dist import __version__
from mgcda_dist.addresses import without_secrets
from mgcda_dist.choices import RunFile
from mgcda_dist.errors import MgcdaError
from mgcda_dist.files import write_atomically
from mgcda_dist.reports.charts import NUM_COLOURS, line_style
from mgcda_dist.reports.compare import Comparison, compare
from mgcda_dist.reports.evaluated import EvaluatedSet, read_sets
from mgcda_dist.reports.facts import data_table, fact_table, notes
from mgcda_dist.reports.gallery import Gallery, build_galleries
from mgcda_dist.reports.groups import Group, differing_params
from mgcda_dist.reports.palette import LINE_COLOURS, LINE_COLOURS_ON_DARK
from mgcda_dist.reports.pictures import FALSE_ALARM_COLOUR, HIT_COLOUR, MISSED_COLOUR
from mgcda_dist.reports.plots import number
from mgcda_dist.reports.runs import RunRecord
from mgcda_dist.reports.sections import SetSection, history_charts, set_sections
from mgcda_dist.reports.tables import difference_tables, findings, legend
from mgcda_dist.tables import Column, RunName, Table, html
from mgcda_dist.text import printable

__all__ = ["DEFAULT_MEGABYTES", "ReportFile", "render_report", "write_report"]

DEFAULT_MEGABYTES = 12.0
_SECTIONS = {
    "summary": "Summary", "results": "Results", "frames": "Frames", "curves": "Curves", "training": "Training",
    "configuration": "Configuration", "log": "Log",
}  # fmt: skip


@dataclass(frozen=True)
class ReportFile:
    """Summary of a written report: path, size, numbers of sets and frames, and notes on missing parts."""

    path: Path
    num_bytes: int
    num_sets: int
    num_frames: int
    missing: list[str]


def write_report(
    runs: Sequence[RunRecord], path: Path, *, title: str = "", max_megabytes: float = DEFAULT_MEGABYTES
) -> ReportFile:
    """Write the report of one run or several, at once or not at all.

    Args:
        runs: at least one.
        path: the HTML file; its folder is made.
        title: heading; default: the names of the runs.
        max_megabytes: of the pictures; frames become narrower, then fewer, until they fit.

    Raises:
        OSError: the file cannot be written.
    """
    page, counts, missing = render_report(runs, title=title, max_megabytes=max_megabytes)
    write_atomically(path, printable(page, lines=True))
    return ReportFile(path, path.stat().st_size, *counts, missing)


def render_report(
    runs: Sequence[RunRecord], *, title: str = "", max_megabytes: float = DEFAULT_MEGABYTES
) -> tuple[str, tuple[int, int], list[str]]:
    """The page; how many sets and frames it shows; sentences about what is missing."""
    from markupsafe import Markup

    sets: list[list[EvaluatedSet]] = []
    missing: list[str] = []
    for run in runs:
        found, sentences = read_sets(run)
        sets.append(found)
        missing += sentences
    galleries, sentences = build_galleries(sets, int(max_megabytes * 1e6))
    missing += sentences
    sections, histories = set_sections(runs, sets), history_charts(runs)
    missing += [f"{run.name} has logged no step yet" for run in runs if not run.history]
    comparison, sentences = _comparison(runs)
    missing += sentences
    charts = [chart for section in sections for chart in section.curves]
    charts += [chart for group in histories for chart in group.charts]
    script = _page_file("report.js")
    style = _page_file("report.css").replace("/* the palette */", _palette())
    page = _template().render(
        title=title or _title(runs),
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        sections=_SECTIONS,
        runs=runs,
        colour=line_style,
        named=lambda run: Markup(_named(RunName(runs[run].name, run))),
        table=lambda table, style="numbers": Markup(html(table, style, _named)),
        number=number,
        missing=missing,
        facts=fact_table(runs),
        data=data_table(runs),
        sets=sections,
        galleries=galleries,
        histories=histories,
        tables=[] if comparison is None else difference_tables(comparison),
        findings=[] if comparison is None else findings(comparison),
        remarks=[] if comparison is None else [*comparison.notes, *legend(comparison)],
        differing=_differing(runs),
        configurations=[_configuration(run) for run in runs],
        notes=[notes(run) for run in runs],
        policy=_policy(script, style),
        style=Markup(style),
        script=Markup(script),
        facts_json=Markup(
            _json({"charts": {c.id: c.facts for c in charts}, "galleries": _gallery_facts(galleries, sections)})
        ),
    )
    return page, (len(sections), sum(len(gallery.frames) for gallery in galleries)), missing


def _comparison(runs: Sequence[RunRecord]) -> tuple[Comparison | None, list[str]]:
    """Meaning of the runs' differences; empty for one run."""
    if len(runs) < 2:
        return None, []
    try:
        return compare(runs), []
    except MgcdaError as error:
        return None, [f"the runs could not be compared: {error.where}: {error.problem}"]


def _differing(runs: Sequence[RunRecord]) -> Table:
    found = differing_params([Group(run.name, (run,)) for run in runs]) if len(runs) > 1 else {}
    names = (Column(RunName(run.name, index), align="left") for index, run in enumerate(runs))
    rows = [[key, *map(without_secrets, values)] for key, values in found.items()]
    caption = "Parameters that differ (name, seed and places left out)"
    return Table([Column("parameter", align="left"), *names], rows, caption)


def _named(run: RunName) -> str:
    """HTML of a run's name with its colour; a long name may break after an underscore."""
    return f'<span class="run {line_style(run.index)}">{escape(run.text).replace("_", "_<wbr>")}</span>'


def _gallery_facts(galleries: Sequence[Gallery], sections: Sequence[SetSection]) -> list[dict[str, Any]]:
    prefixes = {section.name: section.curves[0].id.partition("-")[0] for section in sections if section.curves}
    return [
        {
            "curves": prefixes.get(gallery.name, ""),
            "scales": gallery.scales,
            "frames": [{"key": frame.key, "maps": frame.maps} for frame in gallery.frames],
        }
        for gallery in galleries
    ]


def _configuration(run: RunRecord) -> str:
    """The resolved configuration as YAML; from its dotted keys where the file is not at hand."""
    file = run.file(RunFile.CONFIG)
    if file is not None:
        return without_secrets(file.read_text(encoding="utf-8", errors="replace"))
    return without_secrets(yaml.safe_dump(run.params, sort_keys=False, allow_unicode=True)) if run.params else ""


def _title(runs: Sequence[RunRecord]) -> str:
    names = [run.name for run in runs]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more runs"


def _template() -> Any:
    import jinja2

    # Everything is escaped but what is marked as markup here or in `charts`.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    return environment.from_string(_page_file("report.html.j2"))


def _page_file(name: str) -> str:
    return (resources.files("mgcda_dist.reports") / "page" / name).read_text(encoding="utf-8")


def _palette() -> str:
    """Style of the colours that the script and the charts name."""

    def variables(colours: Sequence[str]) -> str:
        return " ".join(f"--s{index}: {colour};" for index, colour in enumerate(colours))

    kinds = {"hit": HIT_COLOUR, "alarm": FALSE_ALARM_COLOUR, "missed": MISSED_COLOUR}
    marks = " ".join(f"--{name}: rgb{colour};" for name, colour in kinds.items())
    classes = "\n".join(f".s{index} {{ --line: var(--s{index}); }}" for index in range(NUM_COLOURS))
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(LINE_COLOURS_ON_DARK)} }} }}"
    return f":root {{ {variables(LINE_COLOURS)} {marks} }}\n{dark}\n{classes}"


def _policy(script: str, style: str) -> str:
    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

    return (
        f"default-src 'none'; img-src data:; script-src 'sha256-{digest(script)}'; style-src 'sha256-{digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(content: Any) -> str:
    """JSON that cannot end its script element, whatever its strings hold."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
