"""A run, as its folder holds it: configuration, metrics, results, model, and its continuation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgcda_dist import references
from mgcda_dist.choices import RunFile
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError, MgcdaError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from mgcda_dist.api.own import AnyScore
    from mgcda_dist.api.training import Progress
    from mgcda_dist.evaluation.results import EvaluationResults
    from mgcda_dist.inference.model import ExportedModel
    from mgcda_dist.models.external import ExternalNetwork
    from mgcda_dist.models.segmentation_loss import OutlierLoss

__all__ = ["Run"]


class Run:
    """A training run, in whatever state it is.

    Args:
        folder: `RUNS/NAME`, as training wrote it; it may have been moved.
        network, loss, score, sources, callbacks: again the objects of the program that has started the run, where their
            names say nothing to this process. To load its model, the network is enough.

    Raises:
        ConfigError: no run there, or one without objects of its own.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        network: str | Callable[..., nn.Module | ExternalNetwork] | None = None,
        loss: str | OutlierLoss | type[OutlierLoss] | None = None,
        score: AnyScore | None = None,
        sources: Mapping[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        if not (self.folder / RunFile.CONFIG).is_file():
            problem = "holds no run" if self.folder.is_dir() else "there is no such folder"
            raise ConfigError(str(self.folder), f"{problem} (no {RunFile.CONFIG})", "give RUNS/NAME of a run")
        self._objects: dict[str, Any] = {}
        given: dict[str, Any] = {"network": network, "loss": loss, "score": score, "sources": sources}
        if callbacks or any(each is not None for each in given.values()):
            from mgcda_dist.api.own import given_again

            self._objects = given_again(self.config, **given, callbacks=callbacks)

    @classmethod
    def with_objects(cls, folder: Path, objects: Mapping[str, Any]) -> Run:
        """The run with the objects, by reference, that it was trained with."""
        run = cls(folder)
        run._objects = dict(objects)
        return run

    def register(self) -> None:
        """Make the objects that the run was given those that its references mean in this process."""
        references.register(self._objects)

    def __repr__(self) -> str:
        state = "finished" if self.is_finished else f"{self.step} steps done"
        return f"Run({str(self.folder)!r}: {state})"

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.name

    @property
    def config(self) -> Config:
        """The resolved configuration of the newest launch, with today's keys and the folder where the run is now."""
        from mgcda_dist.api.configuration import load_config
        from mgcda_dist.config.load import stored_config

        return load_config(stored_config(self.folder / RunFile.CONFIG), runs=str(self.folder.parent))

    @property
    def step(self) -> int:
        """Steps of the newest checkpoint; 0: there is none."""
        from mgcda_dist.training.checkpoint.store import CheckpointStore

        return max(CheckpointStore(self.folder / RunFile.CHECKPOINTS, keep=1).steps(), default=0)

    @property
    def is_finished(self) -> bool:
        """True once the run has been evaluated; false for one that goes on, was stopped, or failed."""
        return (self.folder / RunFile.RESULTS).is_file()

    @property
    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """Logged values of every metric, in the order of their steps; those steps are in `steps`."""
        import numpy as np

        return {name: np.asarray(values, np.float64) for name, (_, values) in self._history().items()}

    @property
    def steps(self) -> dict[str, NDArray[np.int64]]:
        """Steps at which the values of each metric were logged."""
        import numpy as np

        return {name: np.asarray(steps, np.int64) for name, (steps, _) in self._history().items()}

    @property
    def events(self) -> list[dict[str, Any]]:
        """Sentences that the run has told: `time` (seconds since 1970), `kind`, `text`, and facts of that kind."""
        from mgcda_dist.runs.events import EVENTS, read_events

        return read_events(self.folder / EVENTS)

    @property
    def results(self) -> EvaluationResults:
        """Results of the evaluation at the end of training.

        Raises:
            MgcdaError: the run is not finished.
        """
        from mgcda_dist.evaluation.results import EvaluationResults

        if not self.is_finished:
            problem = f"has no results yet: {self.step} of {self.config.optim.steps} steps are done"
            raise MgcdaError(str(self.folder), problem, "wait for its end, or `resume()` it")
        return EvaluationResults.load(self.folder)

    def model(self, device: torch.device | str = "cpu") -> ExportedModel:
        """The trained network of the run; of an unfinished one, that of its newest checkpoint.

        Raises:
            CheckpointError: there is none yet.
        """
        from mgcda_dist.inference.model import load_exported

        self.register()
        return load_exported(self.folder, device)

    def resume(
        self,
        changes: Mapping[str, Any] | Sequence[str] = (),
        *,
        start_over: bool = False,
        stop_on_interrupt: bool = False,
        progress: Progress | None = None,
        **sections: Any,
    ) -> Run:
        """Go on from the newest checkpoint; a finished run trains further only with more `optim.steps`.

        Args:
            changes, sections: of the configuration, as of `load_config`; those that the checkpoint does not fit are
                refused, the others are recorded in the run's events.
            start_over, stop_on_interrupt, progress: as of `train`.

        Raises:
            MgcdaError: as `train`; or a run whose folder was renamed.
        """
        from mgcda_dist.api.configuration import load_config
        from mgcda_dist.api.training import train

        config = self.config
        if config.name != self.name:
            problem = f"the folder of the run {config.name!r} is called {self.name!r}"
            raise ConfigError(str(self.folder), problem, "give it its name back, to go on with it")
        self.register()
        changed = bool(changes or sections)
        config = load_config(config, changes, **sections)
        return train(
            config,
            override_config=changed,
            start_over=start_over,
            stop_on_interrupt=stop_on_interrupt,
            progress=progress,
        )

    def _history(self) -> dict[str, tuple[list[int], list[float]]]:
        from mgcda_dist.tracking.jsonl import read_history

        file = self.folder / RunFile.METRICS
        return read_history(file) if file.is_file() else {}
