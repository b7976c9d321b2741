"""Delivery of a record (tracking.jsonl) to an MLflow run: each line once, in order, across interruptions.

A metric carries the time at which it was recorded, and MLflow keeps one entry per key, step, time and value, so that
sending it again after a lost answer adds no second one. As lines are sent in order, delivery resumes at the newest step
that the run has of a key. The position in the other calls is kept in `mlflow.json` beside the record.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from mgcda_dist.choices import RunFile
from mgcda_dist.errors import MgcdaError
from mgcda_dist.files import write_atomically, write_json_atomically
from mgcda_dist.text import printable
from mgcda_dist.tracking.calls import checked
from mgcda_dist.tracking.jsonl import CALLS, METRICS, read_calls, read_lines_from
from mgcda_dist.tracking.mlflow_client import artifact_location, reason, shortened
from mgcda_dist.tracking.mlflow_names import clean_name, log_each, original_name
from mgcda_dist.tracking.tags import Tag
from mgcda_dist.trust import below, enclosed, read_bytes, read_object, validated

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

__all__ = ["Delivery", "Ledger", "RunStart", "open_run"]

_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else MLflow's pages offer traces and prompts first
    Tag.NOTE: "Road anomaly segmentation with mgcda. `eval/SET/…` are results, as fractions; the rest is "
    "training. A run's description holds its method, data and results; a sweep's holds the table over its runs.",
}
_RESULTS = ("eval/", "align/", "sweep/")
"""Metrics whose newest value counts: a trained network may be evaluated again. All others are logged once per step."""
_BATCH_METRICS, _BATCH_PARAMS = 1000, 100  # MLflow's limits per request
_PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = 6000, 5000, 36
_MAX_ATTEMPTS = 3


class _Delivered(TypedDict, total=False):
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None
    position: Annotated[int, Field(ge=0)]


class Ledger:
    """The MLflow run of a record and the delivered position: `mlflow.json`, and the id alone in `mlflow_run_id`.

    Args:
        uri: the tracking server; every server has an entry of its own.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._file, self._id_file, self._uri = folder / RunFile.LEDGER, folder / RunFile.RUN_ID, uri
        entry = validated(_Delivered, read_object(self._file).get(uri, {}), str(self._file))
        self.run_id: str | None = entry.get("run_id")
        self.position: int = entry.get("position", 0)
        self.is_sure = self.run_id is not None
        if self.run_id is None and self._id_file.is_file():
            # The same server under another address, maybe: a database that was moved together with its runs.
            self.run_id = read_bytes(self._id_file).decode("utf-8", "replace").strip() or None

    def begin(self, run_id: str, *, main: bool) -> None:
        """Store the run; `main`: it is the run of the record itself, and not a further copy."""
        if run_id != self.run_id:
            self.position = 0
        self.run_id = run_id
        if main or not self._id_file.is_file():
            write_atomically(self._id_file, run_id + "\n")
        self.advance(self.position)

    def advance(self, position: int) -> None:
        """Store that all calls before a byte of the record are delivered."""
        self.position = position
        with suppress(OSError):  # a full disk: calls that are delivered twice do no harm
            content = read_object(self._file) | {self._uri: {"run_id": self.run_id, "position": position}}
            write_json_atomically(self._file, content)


@dataclass(frozen=True)
class RunStart:
    """Identity of a new run: experiment and name, start in ms since 1970, first tags."""

    experiment: str
    name: str
    time_ms: int
    tags: Mapping[str, str] = field(default_factory=dict)


def open_run(client: MlflowClient, uri: str, run_id: str | None, start: RunStart) -> tuple[Run, bool]:
    """The run with this id, or a new one if it does not exist or was deleted; and True if it is new.

    Args:
        uri: of the server; decides where artifacts lie.
        run_id: run to continue.
        start: of a new run; its experiment is made when absent.
    """
    found = None if run_id is None else _existing(client, run_id)
    if found is not None:
        return found, False
    experiment = _experiment(client, uri, start.experiment)
    run = client.create_run(experiment, start_time=start.time_ms, tags=dict(start.tags), run_name=start.name)
    return run, True


def _existing(client: MlflowClient, run_id: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_location(uri), tags=_EXPERIMENT_TAGS)
        except MlflowException:  # another run has just made it
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


class Delivery:
    """Delivers one record to one run.

    Args:
        run: receives the record.
        warn: receives a sentence about each call that MLflow refuses, which is left out, or that names a file outside
            of the record's folder.
        registers: register models under the names that the record gives.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        folder: Path,
        ledger: Ledger,
        run: Run,
        warn: Callable[[str], None],
        *,
        registers: bool = True,
    ) -> None:
        self.run_id: str = run.info.run_id
        self._client, self._uri, self._folder, self._ledger, self._run = client, uri, folder, ledger, run
        self._warn, self._registers, self._refused = warn, registers, set[str]()
        self._params = dict(run.data.params)
        # The newest value of every metric: what the server sends with a run, so one request for all keys.
        newest = getattr(run.data, "_metric_objs", [])
        self._newest: dict[str, tuple[int, float]] = {metric.key: (metric.step, metric.value) for metric in newest}
        self._position = 0
        self._failed_at, self._attempts = -1, 0

    def metrics(self) -> int:
        """Deliver the pending metrics; returns their number. Errors of MLflow are raised."""
        sent = 0
        while True:
            waiting, position = self._waiting()
            for start in range(0, len(waiting), _BATCH_METRICS):
                batch = waiting[start : start + _BATCH_METRICS]
                self._log("metrics", batch)
                self._newest |= {metric.key: (metric.step, metric.value) for metric in batch}
                sent += len(batch)
            if position == self._position:
                return sent
            self._position = position

    def calls(self) -> int:
        """Deliver the other pending calls; returns their number.

        Errors of MLflow are raised, except where the call is at fault: its file is gone, or the server refused it three
        times while it answers other requests.
        """
        sent = 0
        for position, call in read_calls(self._folder, self._ledger.position):
            try:
                self._perform(checked(call, str(self._folder / CALLS)), position)
                sent += 1
            except Exception as error:
                if not self._is_hopeless(error, position):
                    raise
                what = printable(str(call.get("path") or call.get("name") or ""))
                self._warn(f"MLflow at {self._uri} lacks the {call['call']} {what}: {reason(error)}")
            self._ledger.advance(position)
        return sent

    def left(self) -> tuple[int, int]:
        """Numbers of undelivered metrics and other calls."""
        lines = read_lines_from(self._folder / METRICS, self._position)
        return sum(len(metrics) for _, _, _, metrics in lines), sum(
            1 for _ in read_calls(self._folder, self._ledger.position)
        )

    def _waiting(self) -> tuple[list[Metric], int]:
        """At least a request full of metrics, if there are so many; and the position after them."""
        from mlflow.entities import Metric

        found: list[Metric] = []
        position = self._position
        for after, step, time_s, metrics in read_lines_from(self._folder / METRICS, self._position):
            position = after
            for name, value in metrics.items():
                key = clean_name(name)
                if key not in self._refused and not self._is_logged(key, step, value):
                    found.append(Metric(key, value, round(1000 * time_s), step))
            if len(found) >= _BATCH_METRICS:
                break
        return found, position

    def _is_logged(self, key: str, step: int, value: float) -> bool:
        newest = self._newest.get(key)
        if newest is None or step > newest[0]:
            return False
        same = value == newest[1] or (math.isnan(value) and math.isnan(newest[1]))
        return step < newest[0] or same or not key.startswith(_RESULTS)

    def _is_hopeless(self, error: Exception, position: int) -> bool:
        if isinstance(error, FileNotFoundError | MgcdaError):
            return True
        self._attempts = self._attempts + 1 if position == self._failed_at else 1
        self._failed_at = position
        if self._attempts < _MAX_ATTEMPTS:
            return False
        try:
            self._client.get_run(self.run_id)
        except Exception:  # the server is away: the call is not at fault
            return False
        return True

    # --------------------------------------------------------------------------------------------------------- calls

    def _perform(self, call: Mapping[str, Any], position: int) -> None:
        match call["call"]:
            case "params":
                self._log_params(call["params"])
            case "tags":
                self._set_tags(call["tags"])
            case "dataset":
                self._log_dataset(call)
            case "artifact":
                path = self._path(call)
                log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
                log(self.run_id, str(path), call["folder"] or None)
            case "picture":
                self._log_picture(call)
            case "model":
                from mgcda_dist.tracking.mlflow_model import log_model

                name = call["register_as"] if self._registers else None
                log_model(self._client, self._run, self._path(call), name)
            case "end" if position == (self._folder / CALLS).stat().st_size:
                self._client.set_terminated(self.run_id, call["status"], round(1000 * call["time"]))
            case _:  # the start, and the end of an attempt that another has followed
                pass

    def _log(self, kind: Literal["metrics", "params", "tags"], items: list[Any]) -> None:
        """Log them; a key that MLflow refuses costs itself, and a warning."""
        for key, why in log_each(self._client, self.run_id, kind, items).items():
            self._refused |= {key} if kind == "metrics" else set()
            self._warn(f"MLflow at {self._uri} lacks {original_name(key)!r} of the {kind}: {why}")

    def _path(self, call: Mapping[str, Any]) -> Path:
        path = below(self._folder, call["path"])
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there any more")
        return enclosed(path, self._folder)

    def _log_params(self, params: Mapping[str, str]) -> None:
        """A run that is continued keeps the values it started with: MLflow changes none."""
        from mlflow.entities import Param

        texts = {clean_name(key): shortened(value, _PARAM_LENGTH) for key, value in params.items()}
        known = self._params
        changed = [f"{key}: {known[key]} → {new}" for key, new in texts.items() if known.get(key, new) != new]
        pending = [Param(key, value) for key, value in texts.items() if key not in known]
        for start in range(0, len(pending), _BATCH_PARAMS):
            batch = pending[start : start + _BATCH_PARAMS]
            self._log("params", batch)
            known.update({param.key: param.value for param in batch})
        if changed:
            self._set_tags({"mgcda.changed_params": "; ".join(changed)})

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if Tag.RUN_FOLDER in tags:
            tags = dict(tags) | {Tag.RUN_FOLDER: str(self._folder)}  # it may have moved
            parent = Ledger(self._folder.parent, self._uri)
            if parent.is_sure:  # a sweep's run, which this one was not told while the server was away
                tags |= {Tag.PARENT: str(parent.run_id)}
            elif Tag.PARENT in tags and _existing(self._client, tags[Tag.PARENT]) is None:  # it is on another server
                tags = {key: value for key, value in tags.items() if key != Tag.PARENT}
        pending = [RunTag(clean_name(key), shortened(value, _TAG_LENGTH)) for key, value in tags.items()]
        self._log("tags", pending)

    def _log_dataset(self, call: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=call["name"],
            digest=call["digest"][:_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": call["source"]}),
        )
        tags = [InputTag("mlflow.data.context", call["context"])]
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def _log_picture(self, call: Mapping[str, Any]) -> None:
        path, name, step = self._path(call), call["name"], call["step"]
        if step is None:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / (Path(name).name if Path(name).suffix else Path(name).name + path.suffix)
                shutil.copyfile(path, copy)
                self._client.log_artifact(self.run_id, str(copy), "pictures")
            return
        key = clean_name(Path(name).stem)
        # MLflow's names, old and new; a picture that a restarted run draws again is there already.
        there = re.compile(rf"images/{re.escape(key.replace('/', '~'))}[%+]step[%+]{step}[%+]")
        if any(there.match(file.path) for file in self._client.list_artifacts(self.run_id, "images")):
            return
        from PIL import Image

        with Image.open(path) as image:
            self._client.log_image(self.run_id, image, key=key, step=step, timestamp=round(1000 * call["time"]))
