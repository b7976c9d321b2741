"""Runs as comparisons and reports read them: from run folders, evaluation folders or MLflow, in one form.

A run that MLflow knows and whose folder is on this machine is read from its folder; any other is fetched from MLflow,
file by file, when asked for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mgcda_dist.choices import DATABASE, RunFile
from mgcda_dist.config.parse import read_yaml
from mgcda_dist.data.inputs import RunInput, read_inputs
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.tracking.jsonl import flat_params, read_history
from mgcda_dist.tracking.tags import Tag
from mgcda_dist.trust import below, read_bytes, read_object, regular

if TYPE_CHECKING:
    from mgcda_dist.tracking.mlflow_runs import MlflowStore, StoredRun

__all__ = ["History", "RunRecord", "RunSource", "find_runs"]

History = dict[str, tuple[list[int], list[float]]]
"""Per metric its steps and values, in the order they were logged."""

_WHERE, _GIVE_RUN = "runs to compare", "give runs/NAME, as training wrote it"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run.

    Attributes:
        name: shown everywhere; the configuration's `name`, or the evaluation folder's.
        source: where it was read: a folder, or `MLflow run ID`.
        params: the resolved configuration as dotted keys and text, as MLflow has it (without name and folders); empty
            for an evaluation of foreign score maps.
        metrics: the newest value of every metric; results as fractions, `eval/SET/ap`.
        tags: as in MLflow; of a folder, where it came from (`provenance.json`).
        run_id: MLflow's; None if it has none.
        experiment: MLflow's; None if it has none.
        status: `FINISHED`, `RUNNING`, `FAILED` or `KILLED`; a folder without results is `KILLED`.
        started_s, ended_s: seconds since 1970; None if not known.
        folder: the run folder on this machine, if it is there.
    """

    name: str
    source: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    experiment: str | None = None
    status: str = "FINISHED"
    started_s: float | None = None
    ended_s: float | None = None
    folder: Path | None = None
    read_history: Callable[[], History] = dict
    fetch: Callable[[str], Path | None] = lambda path: None

    @cached_property
    def history(self) -> History:
        """All values of all metrics, by step."""
        return self.read_history()

    @cached_property
    def evaluation(self) -> Path | None:
        """A folder on this machine with `results.json` and what lies beside it; None if there is none."""
        if self.folder is not None:
            files = [f"evaluation/{RunFile.RESULTS}", RunFile.RESULTS]
            found = next((file for file in files if (self.folder / file).is_file()), None)
            return None if found is None else below(self.folder, found).parent
        found = self.fetch("evaluation")
        return found if found is not None and (found / RunFile.RESULTS).is_file() else None

    @cached_property
    def results(self) -> EvaluationResults | None:
        """The newest evaluation; None if there is none.

        Raises:
            MgcdaError: a file that is no record of results.
        """
        return None if self.evaluation is None else EvaluationResults.load(self.evaluation)

    @cached_property
    def inputs(self) -> list[RunInput]:
        """The data that the run read; none where nothing says so.

        Raises:
            MgcdaError: a record of it that is damaged.
        """
        file = self.file(RunFile.MANIFESTS)
        return [] if file is None else read_inputs(file)

    def file(self, path: str) -> Path | None:
        """A file or folder of the run on this machine, by its path in the run folder or among MLflow's artifacts."""
        if self.folder is not None and (self.folder / path).exists():
            return below(self.folder, path)
        return self.fetch(path)


class RunSource:
    """Finds runs by words, as a user gives them.

    Args:
        runs: the folder that holds run folders and, by default, MLflow's database.
        mlflow_uri: a tracking server or database; None: `mlflow.db` in `runs`, if it is there.
    """

    def __init__(self, runs: Path = Path("runs"), mlflow_uri: str | None = None) -> None:
        self.runs = runs.absolute()
        self.notes: list[str] = []
        self._uri, self._opened = mlflow_uri, False
        self._store: MlflowStore | None = None

    def by_word(self, word: str) -> list[RunRecord]:
        """Runs meant by a run folder, evaluation folder, folder of runs, MLflow run id, experiment, or run name.

        Raises:
            MgcdaError: nothing is called so.
        """
        for folder in (Path(word), self.runs / word):
            if folder.is_dir():
                return self._by_folder(folder.absolute())
        store = self.store()
        if store is not None:
            if re.fullmatch(r"[0-9a-f]{32}", word) and (stored := store.run(word)) is not None:
                return self._children(stored) if Tag.SWEEP in stored.tags else [self._from_mlflow(stored)]
            if word in store.experiments:
                return self.by_search(experiment=word)
            named = [run for run in store.search() if run.name == word]
            if named:
                chosen = next((run for run in reversed(named) if run.status == "FINISHED"), named[-1])
                if len(named) > 1:
                    self.notes.append(f"{word}: {len(named)} runs have this name; taken is {chosen.run_id}")
                return self._children(chosen) if Tag.SWEEP in chosen.tags else [self._from_mlflow(chosen)]
        raise MgcdaError(word, "no run, folder or experiment is called so", self._near(word))

    def by_search(self, *, experiment: str | None = None, search: str = "") -> list[RunRecord]:
        """Finished runs of an experiment, of a search string, or both, oldest first."""
        store = self.store()
        if store is None:
            raise MgcdaError(
                str(self.runs / DATABASE),
                "there is no MLflow database",
                "say which folder holds the runs, or name the tracking server",
            )
        found = [run for run in store.search(experiment, search) if Tag.SWEEP not in run.tags]
        finished = [run for run in found if run.status == "FINISHED"]
        if len(finished) < len(found):
            left = ", ".join(f"{run.name} ({run.status.lower()})" for run in found if run.status != "FINISHED")
            self.notes.append(f"left out, not finished: {left}")
        return [self._from_mlflow(run) for run in finished]

    def store(self) -> MlflowStore | None:
        """MLflow, opened when first asked for; None if no server was named and the runs have no database."""
        if not self._opened:
            self._opened = True
            database = self.runs / DATABASE
            if self._uri is not None or database.is_file():
                from mgcda_dist.tracking.mlflow_runs import MlflowStore

                self._store = MlflowStore(self._uri or f"sqlite:///{database}")
        return self._store

    def _by_folder(self, folder: Path) -> list[RunRecord]:
        if (folder / RunFile.CONFIG).is_file():
            return [self._from_folder(folder)]
        if (folder / RunFile.RESULTS).is_file():
            return [_from_evaluation(folder)]
        inside = sorted(child for child in folder.iterdir() if (child / RunFile.CONFIG).is_file())
        inside = [below(folder, child.name) for child in inside]
        if not inside:
            raise MgcdaError(str(folder), "holds neither a run nor an evaluation", _GIVE_RUN)
        return [self._from_folder(child) for child in inside]

    def _from_folder(self, folder: Path) -> RunRecord:
        record = _from_folder(folder)
        id_file = folder / RunFile.RUN_ID
        if not id_file.is_file():
            return record
        # MLflow is not opened for this: it takes seconds, and the folder has everything but the tags.
        return replace(record, run_id=_first_line(folder, RunFile.RUN_ID))

    def _from_mlflow(self, stored: StoredRun) -> RunRecord:
        store = self.store()
        assert store is not None
        folder = Path(stored.tags.get(Tag.RUN_FOLDER, ""))
        id_file = folder / RunFile.RUN_ID
        here = id_file.is_file() and _first_line(folder, RunFile.RUN_ID) == stored.run_id
        history = folder / RunFile.METRICS
        return RunRecord(
            **vars(stored),
            source=f"MLflow run {stored.run_id}",
            folder=folder if here else None,
            read_history=lambda: read_history(history) if here else store.history(stored.run_id),
            fetch=lambda path: store.fetch(stored.run_id, path),
        )

    def _children(self, parent: StoredRun) -> list[RunRecord]:
        return self.by_search(experiment=parent.experiment, search=f"tags.`{Tag.PARENT}` = '{parent.run_id}'")

    def _near(self, word: str) -> str:
        names = [path.parent.name for path in self.runs.glob("*/config.yaml")]
        if self._store is not None:
            names += self._store.experiments + [run.name for run in self._store.search()]
        close = difflib.get_close_matches(word, sorted(set(names)), n=3, cutoff=0.4)
        if close:
            return f"did you mean {' or '.join(close)}?"
        return f"give run folders, MLflow run ids, run names or an experiment; looked in {self.runs}"


def find_runs(
    words: Sequence[str],
    *,
    runs: Path = Path("runs"),
    mlflow_uri: str | None = None,
    experiment: str | None = None,
    search: str | None = None,
) -> tuple[list[RunRecord], list[str]]:
    """All runs that are meant, each once, in the order given; and notes about what was left out.

    Args:
        words: run folders, evaluation folders, folders of runs, MLflow run ids, experiments, run names, sweeps.
        runs: see `RunSource`.
        mlflow_uri: see `RunSource`.
        experiment: all finished runs of an MLflow experiment.
        search: finished runs that fit MLflow's search string, in that experiment or in all.

    Raises:
        MgcdaError: a word that means nothing, a search MLflow does not take, or no run at all.
    """
    source = RunSource(runs, mlflow_uri)
    found = [record for word in words for record in source.by_word(word)]
    if experiment is not None or search is not None:
        found += source.by_search(experiment=experiment, search=search or "")
    once: dict[str, RunRecord] = {}
    for record in found:
        once.setdefault(record.run_id or record.source, record)
    if not once:
        asked = {"experiment": experiment, "search": search}
        wanted = " and ".join(f"{name} {value!r}" for name, value in asked.items() if value)
        raise MgcdaError(wanted or _WHERE, "no finished run fits", "; ".join(source.notes))
    return list(once.values()), source.notes


def _from_folder(folder: Path) -> RunRecord:
    """A run folder as it lies there; it may come from others."""
    for name in (RunFile.CONFIG, RunFile.METRICS, RunFile.PROVENANCE):
        below(folder, name)
    try:
        params = flat_params(read_yaml(regular(folder / RunFile.CONFIG)))
    except (AttributeError, MgcdaError) as error:
        raise MgcdaError(str(folder / RunFile.CONFIG), f"not a run's configuration: {error}", _GIVE_RUN) from None
    own = {key: params.pop(key) for key in list(params) if re.fullmatch(r"name|runs|tracking\..*", key)}
    record = RunRecord(
        name=own.get("name", folder.name),
        source=str(folder),
        params=params,
        tags={key: str(value) for key, value in read_object(folder / RunFile.PROVENANCE).items()},
        folder=folder,
        experiment=own.get("tracking.experiment"),
        status="FINISHED" if (folder / RunFile.RESULTS).is_file() else "KILLED",
        read_history=lambda: read_history(folder / RunFile.METRICS),
    )
    newest = {name: values[-1] for name, (_, values) in record.history.items() if values}
    results = record.results
    return replace(record, metrics=newest | (results.logged_metrics() if results is not None else {}))


def _from_evaluation(folder: Path) -> RunRecord:
    """An evaluation folder on its own: its model's run lends its configuration if it lies above."""
    above = folder.parent
    run = _from_folder(above) if (above / RunFile.CONFIG).is_file() else None
    results = EvaluationResults.load(folder)
    return RunRecord(
        name=run.name if run and folder.name == "evaluation" else folder.name,
        source=str(folder),
        params=run.params if run else {},
        metrics=results.logged_metrics(),
        folder=folder,
        read_history=run.read_history if run else dict,
    )


def _first_line(folder: Path, name: str) -> str:
    return read_bytes(below(folder, name)).decode("utf-8", "replace").strip().partition("\n")[0]
