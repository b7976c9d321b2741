"""An evaluation by itself, as `mgcda evaluate` makes it, as a run of MLflow: numbers, settings, data, files.

It is recorded in its own folder first, like a training, so `mgcda sync` delivers it too. If that folder lies in the
folder of a run which the server knows, MLflow shows it below that run.
"""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.choices import RunFile
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.evaluation.results import RESULTS, EvaluationResults
from mgcda_dist.runs.evaluation_request import EvaluationRequest
from mgcda_dist.tracking.jsonl import CALLS, METRICS, JsonlTracker, read_calls
from mgcda_dist.tracking.mlflow_sync import Synced, sync
from mgcda_dist.tracking.provenance import provenance_tags
from mgcda_dist.tracking.tags import Tag

__all__ = ["deliver_evaluations", "record_evaluation", "refuse_training_record"]

_ID_TAG = "mgcda.evaluation_id"


def refuse_training_record(folder: Path) -> None:
    """Refuse a folder that holds the record of a training, which that of an evaluation would replace.

    Raises:
        ConfigError: it does.
    """
    if (folder / CALLS).is_file() and _recorded_id(folder) is None:
        raise ConfigError(str(folder), "holds the record of a training", "give another folder")


def record_evaluation(request: EvaluationRequest, folder: Path, uri: str, experiment: str | None = None) -> None:
    """Record the results in a folder, for `deliver_evaluations`.

    The same evaluation made again updates its run; another one in the same folder gets a run of its own.

    Args:
        folder: of its results, absolute.
        uri: tracking server or database.
        experiment: None: that of the request.

    Raises:
        ConfigError: the folder holds the record of a training.
    """
    refuse_training_record(folder)
    results = EvaluationResults.load(folder)
    if _recorded_id(folder) != results.evaluation_id:
        for name in (CALLS, METRICS, RunFile.LEDGER, RunFile.RUN_ID):
            (folder / name).unlink(missing_ok=True)
    subject, settings = results.subject, results.settings
    # A model's evaluation is called otherwise than its run: names are how runs are asked for.
    name = f"{subject.name}-{folder.name}" if subject.kind == "model" else subject.name
    record = JsonlTracker(folder / METRICS)
    record.log_start(experiment or request.experiment, name, uri)
    tags = {Tag.METHOD: f"evaluation of {subject.kind}"}
    tags |= {_ID_TAG: results.evaluation_id, Tag.EVALUATION: ", ".join(results.sets)}
    record.set_tags(provenance_tags(Path(__file__).parent) | tags | {Tag.RUN_FOLDER: str(folder)})
    how = {"conventions": list(settings.conventions), **settings.options(), "interval_level": results.interval_level}
    record.log_params({"subject": subject.as_json(), "evaluation": how})
    shards = {e.name: e.dataset.reference if e.dataset else e.shards for e in request.job.sets}
    for name, row in results.sets.items():
        record.log_dataset(f"eval/{name}", row.data.manifest_digest, str(shards[name]), "evaluation")
    record.log_metrics(results.logged_metrics(), 0)
    for file in (RESULTS, "results.md", "results.tex"):
        record.log_artifact(folder / file, "evaluation")
    record.log_artifact(folder / "sets", "evaluation/sets")
    record.close("FINISHED")


def deliver_evaluations(folders: list[Path], uri: str) -> list[Synced]:
    """Bring the records of evaluations to MLflow.

    Raises:
        MgcdaError: a server that does not answer; the records are there, and `mgcda sync` delivers them later.
    """
    try:
        return [sync(folder, uri) for folder in folders]
    except MgcdaError as error:
        command = f"MLFLOW_TRACKING_URI={uri} mgcda sync {' '.join(map(str, folders))}"
        later = f"the results are kept; deliver them later: {command}"
        raise MgcdaError(error.where, error.problem, later) from None


def _recorded_id(folder: Path) -> str | None:
    """The evaluation whose record lies in the folder; None if there is none."""
    ids = [call["tags"].get(_ID_TAG) for _, call in read_calls(folder) if call["call"] == "tags"]
    return ids[-1] if ids else None
