"""A profile of some steps of a run: a trace to look at, and a table of what takes the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile, record_function

from mgcda_dist.files import write_atomically
from mgcda_dist.tables import Column, Table, markdown

__all__ = ["WARM_STEPS", "Profiler", "device_work", "union_s"]

WARM_STEPS = 10
"""Steps of each attempt before the first that is recorded: caches, compilers and allocators are settled then."""
_PARTS = "step/"
"""Before the names of the parts of a step in a trace."""
_SHOWN_OPERATORS = 25


class Profiler:
    """A meter that records steps of this rank with torch's profiler, and leaves `step-STEP.json.gz` and `step-STEP.md`.

    What goes wrong is told and ends the recording, not the training. Recorded steps take longer.

    Args:
        folder: for the two files; the first is a trace for https://ui.perfetto.dev or chrome://tracing.
        num_steps: to record, once, after `WARM_STEPS`.
        start_step: the step that comes next.
        say: told where the profile lies, or why there is none.
        keep: called with each file.
    """

    def __init__(
        self,
        folder: Path,
        num_steps: int,
        start_step: int,
        device: torch.device,
        say: Callable[[str], None],
        keep: Callable[[Path], None],
    ) -> None:
        self._folder, self._num_steps, self._device, self._say, self._keep = folder, num_steps, device, say, keep
        self._step, self._first = start_step, start_step + WARM_STEPS
        self._profile: profile | None = None
        self._is_over, self._metrics = False, dict[str, float]()

    def sample(self) -> None:
        """Begin or end the recording, where it is due after this step."""
        self._step += 1
        if self._is_over:
            return
        try:
            if self._step == self._first:
                self._begin()
            elif self._step == self._first + self._num_steps:
                self._end()
        except Exception as error:  # CUPTI may be forbidden, the disk full: of every kind
            self._is_over, self._profile = True, None
            self._say(f"no profile: {type(error).__name__}: {error}")

    def read(self, step_s: float) -> dict[str, float]:
        """`time/launches`, once, where there is a GPU: kernels and copies that it ran in a step."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def part(self, name: str) -> AbstractContextManager[object]:
        """Mark a part of a step in the recording.

        Nothing while none is made: a mark across the begin or end of another profiler, in a loader of the user's, is
        written to memory that is freed.
        """
        return nullcontext() if self._profile is None else record_function(f"{_PARTS}{name}")

    def close(self) -> None:
        """End a recording that the end of the training has cut off; nothing is written then."""
        cut_off, self._profile = self._profile, None
        if cut_off is not None:
            with suppress(Exception):  # what ended the training may have left a GPU that answers nothing
                cut_off.__exit__(None, None, None)
        if not self._is_over:
            self._is_over = True
            needed = f"steps {self._first} to {self._first + self._num_steps - 1} are needed"
            self._say(f"no profile: the training ended after step {self._step - 1}, {needed}")

    def _begin(self) -> None:
        self._wait()
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])
        self._profile = profile(activities=activities).__enter__()

    def _end(self) -> None:
        self._wait()
        found, self._profile, self._is_over = self._profile, None, True
        assert found is not None
        found.__exit__(None, None, None)
        trace = self._folder / f"step-{self._first:08d}.json.gz"
        page = trace.with_name(f"step-{self._first:08d}.md")
        self._folder.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(trace))
        operators = [e for e in found.key_averages() if e.device_type == DeviceType.CPU]
        launches, busy_s = device_work(found)
        fact = ""
        if launches is not None and busy_s is not None:
            self._metrics["time/launches"] = of_step = launches / self._num_steps
            busy_ms = 1e3 * busy_s / self._num_steps
            fact = f"the GPU ran {of_step:.0f} kernels and copies a step, and was busy for {busy_ms:.1f} ms of it"
        steps = f"steps {self._first} to {self._first + self._num_steps - 1}"
        write_atomically(page, _page(steps, fact, operators, self._num_steps))
        for file in (trace, page):
            self._keep(file)
        self._say(f"{steps} are profiled: {page}, {trace.name}" + (f"; {fact}" if fact else ""))

    def _wait(self) -> None:
        """Until the GPU has done what was handed over: work of other steps is not counted."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def device_work(recorded: profile) -> tuple[int | None, float | None]:
    """Number of kernels and copies on GPUs in a recording that has ended, and the seconds in which any of them ran.

    Both None: no GPU was recorded, or its driver gives no account.
    """
    events = [e for e in recorded.events() or [] if e.device_type == DeviceType.CUDA]
    work = [e for e in events if not getattr(e, "is_user_annotation", False)]
    if not work:
        return None, None
    return len(work), union_s((e.time_range.start, e.time_range.end) for e in work)


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that spans of microseconds cover together: two streams at work are not twice the time."""
    covered = last = 0.0
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, last))
        last = max(last, end)
    return covered / 1e6


def _page(steps: str, fact: str, operators: Sequence[Any], num_steps: int) -> str:
    """Parts of a step and the dearest operators, as Markdown; times are those of recorded steps, per step."""
    per_step = 1e3 * num_steps  # microseconds of all → milliseconds of one
    parts = [e for e in operators if e.key.startswith(_PARTS)]
    parts_table = Table(
        [Column("part", align="left"), Column("ms of the host")],
        [[e.key.removeprefix(_PARTS), f"{e.cpu_time_total / per_step:.1f}"] for e in parts],
    )
    others = [e for e in operators if not e.key.startswith(_PARTS)]
    on_gpu = any(e.self_device_time_total for e in others)
    others.sort(key=lambda e: e.self_device_time_total if on_gpu else e.self_cpu_time_total, reverse=True)
    columns = [Column("operator", align="left"), Column("calls"), Column("ms of the host")]
    columns += [Column("ms of the GPU")] if on_gpu else []
    rows: list[list[str]] = []
    for name, group in [(e.key, [e]) for e in others[:_SHOWN_OPERATORS]] + [("all others", others[_SHOWN_OPERATORS:])]:
        row = [name, f"{sum(e.count for e in group) / num_steps:.0f}"]
        row += [f"{sum(e.self_cpu_time_total for e in group) / per_step:.2f}"]
        row += [f"{sum(e.self_device_time_total for e in group) / per_step:.2f}"] if on_gpu else []
        rows.append(row)
    sentence = f"{fact[0].upper()}{fact[1:]}.\n\n" if fact else ""
    return (
        f"# Profile of {steps}\n\n{sentence}Times are per step, while it was recorded, which takes time itself.\n\n"
        f"{markdown(parts_table)}\n\nOperators by the time in them alone:\n\n{markdown(Table(columns, rows))}\n"
    )
