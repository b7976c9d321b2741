"""Runs read from MLflow, by id, experiment or MLflow's search strings; files on demand."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mgcda_dist.errors import MgcdaError
from mgcda_dist.tracking.mlflow_client import connect, quiet, reason
from mgcda_dist.tracking.mlflow_names import original_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["MlflowStore", "StoredRun"]

T = TypeVar("T")

_PAGE = 1000


@dataclass(frozen=True)
class StoredRun:
    """A run as MLflow sends it: newest values of metrics, parameters and tags as text, times in s since 1970."""

    run_id: str
    name: str
    experiment: str
    status: str
    started_s: float
    ended_s: float | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class MlflowStore:
    """Runs of one tracking server or database, read only.

    Args:
        uri: tracking server, or `sqlite:////absolute/path.db`.

    Raises:
        MgcdaError: no such database, or a server that does not answer.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        database = uri.removeprefix("sqlite:///")
        if database != uri and not Path(database).is_file():
            raise MgcdaError(uri, "there is no MLflow database", "give its place, or the folder of the runs")
        self._fetched: Path | None = None
        self._copies: dict[tuple[str, str], Path | None] = {}
        try:
            with quiet():
                self._client: MlflowClient = connect(uri)
                self._experiments = {e.experiment_id: e.name for e in self._client.search_experiments()}
        except Exception as error:  # MLflow, its database layer and its HTTP client raise every kind
            raise MgcdaError(uri, f"MLflow does not answer: {reason(error)}", "is the server running?") from None

    @property
    def experiments(self) -> list[str]:
        """Names of the experiments that are not deleted."""
        return sorted(self._experiments.values())

    def run(self, run_id: str) -> StoredRun | None:
        """One run by its id; None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            with quiet():
                return self._stored(self._client.get_run(run_id))
        except MlflowException:
            return None

    def search(self, experiment: str | None = None, filter_string: str = "") -> list[StoredRun]:
        """Runs of one experiment or of all, oldest first, that fit MLflow's search string.

        Raises:
            MgcdaError: no such experiment, or a search string that MLflow does not take.
        """
        from mlflow.exceptions import MlflowException

        ids = [key for key, name in self._experiments.items() if experiment in (None, name)]
        if not ids:
            raise MgcdaError(
                self.uri, f"there is no experiment {experiment!r}", f"there are {', '.join(self.experiments)}"
            )
        found: list[StoredRun] = []
        token: str | None = None
        while True:
            try:
                with quiet():
                    page = self._client.search_runs(
                        ids, filter_string, max_results=_PAGE, order_by=["start_time ASC"], page_token=token
                    )
            except MlflowException as error:
                raise MgcdaError(
                    f"search {filter_string!r}",
                    f"MLflow does not take it: {reason(error)}",
                    "for example: params.`mdat.enabled` = 'True' and metrics.`eval/road_anomaly/ap` > 0.7",
                ) from None
            found += [self._stored(run) for run in page]
            token = page.token
            if not token:
                return found

    def history(self, run_id: str) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of each metric of a run; one request per metric."""
        with quiet():
            names = self._client.get_run(run_id).data.metrics
            logged = {name: self._client.get_metric_history(run_id, name) for name in names}
        ordered = {name: sorted(points, key=lambda p: (p.step, p.timestamp)) for name, points in logged.items()}
        return _named({name: ([p.step for p in points], [p.value for p in points]) for name, points in ordered.items()})

    def fetch(self, run_id: str, path: str) -> Path | None:
        """A local copy of an artifact (a file, or a folder with all it holds); None if the run has none there."""
        from mlflow.exceptions import MlflowException

        if (run_id, path) in self._copies:
            return self._copies[run_id, path]
        if self._fetched is None:
            self._fetched = Path(tempfile.mkdtemp(prefix="mgcda-runs-"))
            # Copies live as long as the store, which every record of its runs holds.
            weakref.finalize(self, shutil.rmtree, self._fetched, ignore_errors=True)
        to = Path(tempfile.mkdtemp(dir=self._fetched))
        copy: Path | None = None
        with suppress(MlflowException, OSError), quiet():
            # MLflow names the place: of a file below a folder it keeps the last part of the path only.
            copy = Path(self._client.download_artifacts(run_id, path, str(to)))
        if copy is not None and copy.is_dir() and not any(copy.iterdir()):
            copy = None
        self._copies[run_id, path] = copy
        return copy

    def _stored(self, run: Run) -> StoredRun:
        info, data = run.info, run.data
        return StoredRun(
            run_id=info.run_id,
            name=info.run_name or info.run_id,
            experiment=self._experiments.get(info.experiment_id, info.experiment_id),
            status=info.status,
            started_s=(info.start_time or 0) / 1000,
            ended_s=info.end_time / 1000 if info.end_time else None,
            params=_named(data.params),
            metrics=_named(data.metrics),
            tags=_named(data.tags),
        )


def _named(values: Mapping[str, T]) -> dict[str, T]:
    """The same, under the names that were logged, and not those that MLflow takes."""
    return {original_name(key): value for key, value in values.items()}
