"""Callbacks for the tests: one that writes down its calls, and ones that fail, stop and dawdle where they are told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from mgcda_dist.callbacks import Callback, Context, StopTraining

__all__ = [
    "AskingForTheNetwork",
    "Failing",
    "Nothing",
    "Recorder",
    "Slow",
    "Stopper",
    "calls_of",
    "make_recorder",
    "recorder",
]


class Recorder(Callback):
    """Appends each of its calls to `calls-RANK.jsonl` of the run folder."""

    def __init__(self, ranks: str = "first") -> None:
        self.ranks = ranks  # pyright: ignore[reportAttributeAccessIssue]

    def on_start(self, context: Context) -> None:
        self._write(context, "start", context.start_step, {"config": context.config["name"]})

    def on_step(self, context: Context, step: int, metrics: dict[str, float]) -> None:
        self._write(context, "step", step, metrics)
        metrics.clear()  # nobody else may notice

    def on_validation(self, context: Context, step: int, metrics: dict[str, float]) -> None:
        self._write(context, "validation", step, metrics)

    def on_checkpoint(self, context: Context, step: int, folder: Path) -> None:
        there = (folder / "checkpoint.json").is_file() and (folder / "model/model.safetensors").is_file()
        self._write(context, "checkpoint", step, {"folder": folder.name, "there": there})

    def on_end(self, context: Context, status: str, results: dict[str, float]) -> None:
        self._write(context, "end", -1, {"status": status, "results": results})

    @staticmethod
    def _write(context: Context, call: str, step: int, content: dict[str, Any]) -> None:
        with (context.folder / f"calls-{context.rank}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"call": call, "step": step, "of": context.world_size, **content}) + "\n")


class Looker(Callback):
    """Compares the network it is given at the end with that of the newest checkpoint, and records what it found."""

    def on_end(self, context: Context, status: str, results: dict[str, float]) -> None:
        if status != "FINISHED":
            return
        newest = max((context.folder / "checkpoints").glob("step-*"))
        written, found = load_file(newest / "model/model.safetensors"), context.segmenter().state_dict()
        same = [name for name, value in written.items() if torch.equal(value, found[name].cpu())]
        context.log({"looker/same": float(len(same)), "looker/all": float(len(found))}, int(newest.name[5:]))
        context.say(f"it looks like {newest.name}")


class Failing(Callback):
    """Raises an error in one method, from a step on and on one rank."""

    ranks = "all"

    def __init__(self, hook: str, step: int = 0, rank: int = 0, on_error: str = "raise", error: str = "") -> None:
        if hook == "__init__" and rank == (dist.get_rank() if dist.is_initialized() else 0):
            raise ValueError("no such number")
        self.on_error = on_error  # pyright: ignore[reportAttributeAccessIssue]
        self._where, self._error = (hook, rank), error
        self._step = step

    def on_start(self, context: Context) -> None:
        self._fail("on_start", context, self._step)

    def on_step(self, context: Context, step: int, metrics: dict[str, float]) -> None:
        self._fail("on_step", context, step)

    def on_validation(self, context: Context, step: int, metrics: dict[str, float]) -> None:
        self._fail("on_validation", context, step)

    def on_checkpoint(self, context: Context, step: int, folder: Path) -> None:
        self._fail("on_checkpoint", context, step)

    def on_end(self, context: Context, status: str, results: dict[str, float]) -> None:
        self._fail("on_end", context, self._step)

    def _fail(self, hook: str, context: Context, step: int) -> None:
        if self._where != (hook, context.rank) or step < self._step:
            return
        if self._error == "exit":
            raise SystemExit(3)
        if self._error == "stop":
            raise StopTraining("too late, or too early")
        raise ValueError("no such number")


class Stopper(Callback):
    """Asks to end the training after a step, on one rank."""

    ranks = "all"

    def __init__(self, step: int, rank: int = 0) -> None:
        self._step, self._rank = step, rank

    def on_step(self, context: Context, step: int, metrics: dict[str, float]) -> None:
        if context.rank == self._rank and step >= self._step:
            raise StopTraining("it has seen enough")


class Slow(Callback):
    """Takes its time at each step."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def on_step(self, context: Context, step: int, metrics: dict[str, float]) -> None:
        time.sleep(self._seconds)


class AskingForTheNetwork(Callback):
    """Asks for the network on rank 0 alone."""

    def on_start(self, context: Context) -> None:
        context.segmenter()


class Nothing:
    """No callback."""


def make_recorder(ranks: str = "all") -> Recorder:
    return Recorder(ranks)


recorder = Recorder()


def calls_of(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """Lines that the `Recorder` of a rank has written."""
    file = folder / f"calls-{rank}.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
