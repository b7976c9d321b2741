"""Opens the trackers of a run: jsonl always, MLflow unless switched off; only rank 0 writes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.tracking.jsonl import JsonlTracker
from mgcda_dist.tracking.mlflow import MlflowTracker
from mgcda_dist.tracking.provenance import provenance_tags
from mgcda_dist.tracking.tracker import Tracker, Trackers
from mgcda_dist.training.run_folder import RunFolder, mlflow_uri

__all__ = ["open_trackers"]


def open_trackers(
    config: Config, run: RunFolder, start_step: int, *, leads: bool, say: Callable[[str], None]
) -> Tracker:
    """The trackers of this rank; on ranks other than 0 one that does nothing.

    Args:
        config: of the run.
        run: its folder; the MLflow run id is kept there, so that every restart writes to the same run.
        start_step: first step that will be logged; what an earlier attempt logged from there on is dropped.
        leads: whether this is rank 0.
        say: receives the one sentence about a tracker that fails.
    """
    if not leads:
        return Trackers([])
    parts: list[Tracker] = [JsonlTracker(run.metrics, start_step)]
    tags = provenance_tags(Path(__file__).parent) | {"mgcda.command": run.command()}
    run.provenance.write_text(json.dumps(tags, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    uri = mlflow_uri(config)
    if uri is not None:
        parent = config.tracking.parent_run
        parts.append(
            MlflowTracker(
                uri,
                config.tracking.experiment,
                config.name,
                run_id=run.run_id_file.read_text(encoding="utf-8").strip() if run.run_id_file.is_file() else None,
                tags=tags | {"mgcda.run_folder": str(run.root)} | ({"mlflow.parentRunId": parent} if parent else {}),
                system_metrics=config.tracking.system_metrics,
                node_id=platform.node(),
                on_start=run.keep_mlflow_run_id,
                warn=say,
            )
        )
    trackers = Trackers(parts, warn=say)
    trackers.log_params(config.model_dump(mode="json"))
    trackers.log_artifact(run.config_file)
    manifests = build.manifests(config)
    run.manifests.write_text(json.dumps(manifests, indent=1) + "\n", encoding="utf-8")
    trackers.log_artifact(run.manifests)
    for name, facts in manifests.items():
        context = "evaluation" if name.startswith("eval") else "training"
        trackers.log_dataset(name, facts["digest"], facts["folder"], context)
    return trackers
