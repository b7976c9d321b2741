"""Description of a run for a report: method, data, machine, code, command, time, and warnings."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mgcda_dist.addresses import without_secrets
from mgcda_dist.choices import RunFile
from mgcda_dist.data.inputs import RunInput
from mgcda_dist.errors import MgcdaError, counted
from mgcda_dist.reports.runs import RunRecord
from mgcda_dist.tracking.tags import Tag
from mgcda_dist.trust import read_bytes

__all__ = ["DataUse", "Fact", "Note", "data_table", "fact_table", "notes"]

_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Fact:
    """One row of the summary: its name, and what each run has there."""

    name: str
    values: list[str]


@dataclass(frozen=True)
class DataUse:
    """One row of the table of data.

    Attributes:
        use: `train/NAME`, `paste/NAME` or `eval/NAME`.
        runs: per run what it read (dataset, samples, short digest, whole digest), or None.
        same: whether all runs that have it read the same data.
    """

    use: str
    runs: list[tuple[str, str, str] | None]
    same: bool


@dataclass(frozen=True)
class Note:
    """A sentence that a run said, or a phase it entered; `time` is local to whoever writes the report."""

    time: str
    text: str


def fact_table(runs: Sequence[RunRecord]) -> list[Fact]:
    """The rows of the summary that at least one run can fill."""
    rows = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [Fact(name, [row.get(name, "–") or "–" for row in rows]) for name in names if any(r.get(name) for r in rows)]


def data_table(runs: Sequence[RunRecord]) -> list[DataUse]:
    """Data of each run, by use."""
    inputs = [{each.key: each for each in _inputs(run)} for run in runs]
    table: list[DataUse] = []
    for use in dict.fromkeys(use for each in inputs for use in each):
        cells: list[tuple[str, str, str] | None] = []
        for each in inputs:
            found = each.get(use)
            if found is None:
                cells.append(None)
                continue
            what = f"{f'{found.dataset} {found.split}'.strip()}, {found.samples} samples"
            cells.append((what, found.digest[:_SHOWN_DIGITS], found.digest))
        table.append(DataUse(use, cells, len({cell[2] for cell in cells if cell}) <= 1))
    return table


def notes(run: RunRecord) -> list[Note]:
    """Everything the run said, in order, without how far it was."""
    return [
        Note(_clock(event.get("time")), without_secrets(str(event.get("text", ""))))
        for event in _events(run)
        if event.get("text") and event.get("kind") != "progress"
    ]


def _facts(run: RunRecord) -> dict[str, str]:
    params, tags = run.params, run.tags
    facts = {"status": _status(run), "method": _method(params), "network": _network(params)}
    if params:
        facts["training"] = _training(params)
        facts["seed"] = params.get("seed", "")
        facts["workers"] = _workers(params)
    facts["network of"] = _selection(run)
    facts["machine"] = ", ".join(part for part in (tags.get(Tag.HOST, ""), tags.get(Tag.HARDWARE, "")) if part)
    facts["time"] = _time(run)
    facts["code"] = _code(tags)
    facts["packages"] = tags.get(Tag.PACKAGES, "")
    facts["command"] = without_secrets(tags.get(Tag.COMMAND, ""))
    facts["MLflow run"] = run.run_id or ""
    facts["read from"] = without_secrets(run.source)
    return facts


def _status(run: RunRecord) -> str:
    steps, last = run.params.get("optim.steps"), _last_step(run)
    if run.status == "FINISHED":
        return "finished"
    words = {"RUNNING": "running", "FAILED": "failed", "KILLED": "not finished: running, or stopped"}
    reached = f", {last + 1} of {steps} steps" if last is not None and steps else ""
    return words.get(run.status, run.status.lower()) + reached


def _last_step(run: RunRecord) -> int | None:
    steps = run.history.get("loss/total", ([], []))[0]
    return steps[-1] if steps else None


def _method(params: dict[str, str]) -> str:
    if not params:
        return "score maps of another method, or a run without its configuration"
    parts: list[str] = []
    for name in ("mdat", "cacl"):
        on = params.get(f"{name}.enabled", "") == "True"
        weight = f" × {params[f'{name}.weight']}" if on and f"{name}.weight" in params else ""
        parts.append(f"{name.upper()}{weight}" if on else f"no {name.upper()}")
    if params.get("teacher.enabled") == "True":
        parts.append(f"teacher × {params.get('teacher.weight', '1')}")
        if float(params.get("teacher.outlier_weight", "0")) > 0:
            parts.append(f"its inliers in the outlier term × {params['teacher.outlier_weight']}")
    for name in ("class_mix", "style"):
        if float(params.get(f"data.augment.{name}", "0")) > 0:
            parts.append(f"{name.replace('_', ' ')} {params[f'data.augment.{name}']}")
    if params.get("model.export") == "ema":
        parts.append("its average evaluated")
    outlier = params.get("loss.outlier")
    return ", ".join([*([f"outlier term {outlier}"] if outlier else []), *parts])


def _selection(run: RunRecord) -> str:
    """The step of the network that was evaluated, and the validation that chose it."""
    try:
        chosen = run.results.selection if run.results is not None else None
    except MgcdaError:
        return ""
    if chosen is None:
        return ""
    value = f"{100 * chosen.value:.2f} %"
    return f"step {chosen.step}, chosen by validation: {chosen.metric} {value} on {chosen.set}"


def _network(params: dict[str, str]) -> str:
    names = (
        "model.network" if params.get("model.network", "None") != "None" else "model.backbone",
        "model.weights",
        "model.score",
    )
    words = [params.get(name, "") for name in names]
    labels = ("{}", "weights {}", "score {}")
    return ", ".join(label.format(word) for label, word in zip(labels, words, strict=True) if word)


def _training(params: dict[str, str]) -> str:
    per_step = re.compile(r"data\.(streams|domains)\.\d+\.per_step")
    images = [int(value) for key, value in params.items() if per_step.fullmatch(key) and value.isdecimal()]
    parts = [f"{params['optim.steps']} steps"] if "optim.steps" in params else []
    if images:
        parts.append(f"{sum(images)} images per step from {len(images)} streams")
    if "data.crop_px" in params:
        parts.append(f"crops {params['data.crop_px'].strip('[]()').replace(', ', '×')} px")
    return ", ".join(parts)


def _workers(params: dict[str, str]) -> str:
    count = params.get("scaling.workers", "")
    parts = [counted(int(count), "worker") if count.isdecimal() else f"{count} workers"] if count else []
    if "engine.zero_stage" in params:
        parts.append(f"ZeRO {params['engine.zero_stage']}")
    return ", ".join([*parts, *([params["engine.precision"]] if "engine.precision" in params else [])])


def _time(run: RunRecord) -> str:
    times = [float(event["time"]) for event in _events(run) if isinstance(event.get("time"), int | float)]
    times += [moment for moment in (run.started_s, run.ended_s) if moment is not None]
    if not times:
        return ""
    first, last = min(times), max(times)
    words = f"{_clock(first)}, {_duration(last - first)} to the last record"
    shown = {"time/images_per_s": "{:.1f} images/s", "time/mfu": "MFU {:.0%}", "time/busy_share": "GPU busy {:.0%}"}
    shown |= {"time/launches": "{:.0f} launches a step"}
    for metric, form in shown.items():
        if values := sorted(value for value in run.history.get(metric, ([], []))[1] if value > 0):
            words += f", median {form.format(values[len(values) // 2])}"
    memory = [value for value in run.history.get("gpu/peak_memory_gib", ([], []))[1] if value > 0]
    return words + (f", at most {max(memory):.1f} GiB of a GPU's memory" if memory else "")


def _code(tags: dict[str, str]) -> str:
    version, commit = tags.get(Tag.VERSION, ""), tags.get(Tag.COMMIT, "")
    changed = " with local changes" if tags.get(Tag.GIT_CLEAN) == "false" else ""
    parts = [f"mgcda_dist {version}"] if version else []
    return ", ".join(parts + ([f"commit {commit[:_SHOWN_DIGITS]}{changed}"] if commit else []))


def _events(run: RunRecord) -> list[dict[str, Any]]:
    path = run.file(RunFile.EVENTS)
    if path is None:
        return []
    events: list[dict[str, Any]] = []
    for line in read_bytes(path).splitlines():
        try:
            event = json.loads(line)
        except (RecursionError, ValueError):  # being written, or cut off
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _inputs(run: RunRecord) -> list[RunInput]:
    try:
        return run.inputs
    except MgcdaError:
        return []


def _clock(moment: object) -> str:
    if not isinstance(moment, int | float):
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
