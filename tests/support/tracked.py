"""Runs recorded in MLflow, each with a record folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgcda_dist.tracking.jsonl import METRICS, JsonlTracker
from mgcda_dist.tracking.mlflow import MlflowTracker

__all__ = ["tracked"]


def tracked(
    folder: Path, uri: str, experiment: str, name: str, *, start_step: int = 0, **options: Any
) -> MlflowTracker:
    """A tracker whose record lies in `folder`; `start_step` and `options` as for the tracker and its record."""
    return MlflowTracker(JsonlTracker(folder / METRICS, start_step), uri, experiment, name, **options)
