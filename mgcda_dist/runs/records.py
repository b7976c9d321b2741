"""Trackers of a run: jsonl always, MLflow unless switched off, others on request; only rank 0 writes."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mgcda_dist import build
from mgcda_dist.choices import RunFile
from mgcda_dist.config.schema import Config
from mgcda_dist.data.inputs import read_inputs, write_inputs
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.files import write_json_atomically
from mgcda_dist.runs.description import describe, run_tags
from mgcda_dist.runs.folder import RunFolder, mlflow_uri
from mgcda_dist.runs.room import optional
from mgcda_dist.tracking.jsonl import JsonlTracker
from mgcda_dist.tracking.mlflow import MlflowTracker
from mgcda_dist.tracking.provenance import provenance_tags
from mgcda_dist.tracking.tags import Tag
from mgcda_dist.tracking.tensorboard import TensorboardTracker
from mgcda_dist.tracking.tracker import Tracker, Trackers
from mgcda_dist.tracking.wandb import WandbTracker

__all__ = ["describe_results", "open_trackers"]


def open_trackers(
    config: Config, run: RunFolder, start_step: int, *, leads: bool, say: Callable[[str], None]
) -> Tracker:
    """The trackers of this rank; on ranks other than 0 one that does nothing.

    Args:
        run: its folder; the MLflow run id is kept there, so that every restart writes to the same run.
        start_step: first step that will be logged; what an earlier attempt logged from there on is dropped.
        leads: whether this is rank 0.
        say: receives one sentence about a tracker that fails.
    """
    if not leads:
        return Trackers([])
    tags = provenance_tags(Path(__file__).parent) | {Tag.COMMAND: run.command()}
    optional(RunFile.PROVENANCE, partial(write_json_atomically, run.provenance, tags), partial(run.say, "storage"))
    tags |= run_tags(config) | {Tag.RUN_FOLDER: str(run.root)}
    parts = [_tracker(config, run, start_step, say, tags), *_further(config, run, start_step, say, tags)]
    trackers = Trackers(parts, warn=say)
    try:
        _log_start(config, run, trackers)
    except BaseException:
        trackers.close("FAILED")
        raise
    return trackers


def describe_results(config: Config, run: RunFolder, tracker: Tracker, results: EvaluationResults) -> None:
    """Put the results into the run's description."""
    tracker.set_tags({Tag.NOTE: describe(config, read_inputs(run.manifests), results)})


def _tracker(
    config: Config, run: RunFolder, start_step: int, say: Callable[[str], None], tags: dict[str, str]
) -> Tracker:
    """The run's own record, and MLflow, which is filled from it."""
    parent, uri = config.tracking.parent_run, mlflow_uri(config)
    tags = tags | ({Tag.PARENT: parent} if parent else {})
    record = JsonlTracker(run.metrics, start_step, warn=partial(run.say, "storage"))
    if uri is None:
        # As complete as any other: `mgcda sync` may bring it to a server one day.
        record.log_start(config.tracking.experiment, config.name, None)
        record.set_tags(tags)
        return record
    return MlflowTracker(
        record,
        uri,
        config.tracking.experiment,
        config.name,
        tags=tags,
        system_metrics=config.tracking.system_metrics,
        node_id=platform.node(),
        warn=say,
        close_timeout_s=config.tracking.wait_s,
        at_once=not uri.startswith("sqlite:"),  # of a server, a run of several nodes needs the run's id
    )


def _further(
    config: Config, run: RunFolder, start_step: int, say: Callable[[str], None], tags: dict[str, str]
) -> list[Tracker]:
    """The trackers that are asked for beside the record."""
    asked, found = config.tracking.wandb, list[Tracker]()
    if config.tracking.tensorboard:
        found.append(TensorboardTracker(run.tensorboard, start_step))
    if asked is not None:
        wait_s = config.tracking.wait_s
        found.append(WandbTracker(run.root, asked.project, config.name, mode=asked.mode, warn=say, wait_s=wait_s))
    for tracker in found:
        tracker.set_tags(tags)
    return found


def _log_start(config: Config, run: RunFolder, trackers: Trackers) -> None:
    # Name, folder and tracking differ between all runs, and would show in every comparison.
    trackers.log_params(config.model_dump(mode="json", exclude={"name", "runs", "tracking"}))
    trackers.log_artifact(run.config_file)
    inputs = build.run_inputs(config)
    optional(RunFile.MANIFESTS, partial(write_inputs, inputs, run.manifests), partial(run.say, "storage"))
    trackers.log_artifact(run.manifests)
    for each in inputs:
        context = "training" if each.role.is_training else "evaluation"
        trackers.log_dataset(each.key, each.digest, each.folder, context)
    trackers.set_tags({Tag.NOTE: describe(config, inputs)})
