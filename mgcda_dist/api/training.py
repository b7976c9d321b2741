"""Training from a program: `train`, with neither output nor signal handlers of its own."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgcda_dist.api.configuration import check, loaded_config, with_places
from mgcda_dist.api.launch import run_workers
from mgcda_dist.api.own import AnyScore, Augment, Callbacks, Sources, objects_of, with_own
from mgcda_dist.api.run import Run
from mgcda_dist.config.schema import Config
from mgcda_dist.extras import TRAINING, need
from mgcda_dist.runs.events import Tail
from mgcda_dist.runs.folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from mgcda_dist.models.external import ExternalNetwork
    from mgcda_dist.models.segmentation_loss import OutlierLoss
    from mgcda_dist.models.taps import Taps

__all__ = ["Progress", "train"]

Progress = Callable[[int, Mapping[str, float]], None]
"""Told the number of steps done, and the newest logged metrics, in the process and thread that called `train`."""


def train(
    config: Config | str | Path | Mapping[str, Any],
    *,
    network: str | Callable[..., nn.Module | ExternalNetwork] | None = None,
    arguments: Mapping[str, Any] | None = None,
    taps: Taps | Mapping[str, Any] | None = None,
    loss: str | OutlierLoss | type[OutlierLoss] | None = None,
    score: AnyScore | None = None,
    sources: Sources | None = None,
    augment: Augment | None = None,
    callbacks: Callbacks = (),
    override_config: bool = False,
    start_over: bool = False,
    stop_on_interrupt: bool = False,
    progress: Progress | None = None,
    **sections: Any,
) -> Run:
    """Train, evaluate and report one run, as `mgcda train` does; a run of that name goes on from its checkpoint.

    Workers are started on the cluster of `RAY_ADDRESS`, else on a Ray of this machine that ends with the call. What is
    doubtful about the data is a Python warning; what the run tells is in `Run.events`.

    Args:
        config: the configuration, or its file or content.
        network: a class, or a function that makes a module, called with `num_classes` and the `arguments`; in the place
            of `model.backbone` or `model.network`.
        arguments: of the network; None: `model.arguments`.
        taps: layers of the network, as in `model.taps`; None: its attribute `taps`, or the configuration's.
        loss: an `OutlierLoss`, a class of one, called with `loss.arguments`; in the place of `loss.outlier`.
        score: an anomaly score by name or of one's own: a function `Prediction` → N×h×w, or a `Score`; in the place of
            `model.score`.
        sources: map-style Datasets by the name of the stream that they take the place of.
        augment: a change of the finished crop, or several, in order: a function of image, label and a keyed generator,
            which returns image and label, or a class of such objects; in the place of `data.augment.own`.
        callbacks: called while the run trains, in this order.
        override_config: resume with a changed configuration, if the checkpoint fits it.
        start_over: begin at step 0, where no checkpoint is intact.
        stop_on_interrupt: Ctrl-C and SIGTERM stop the run with a checkpoint, and `train` returns the unfinished run;
            a second one ends it at once. Has an effect in the main thread only, whose handlers come back at the end.
        sections: changes of the configuration, as of `load_config`, which may name what the network has.
        progress: called about four times a second at most, after new steps were logged.

    Returns:
        The run; its `is_finished` is false if it was asked to stop.

    Raises:
        ConfigError: a configuration that cannot run, or an object that cannot be sent to the workers.
        NodesLostError, StoppedError: nodes are gone, or it was asked to stop before it began; the checkpoint counts.
        MgcdaError: the error of a worker; or a package of the training is not installed.
        KeyboardInterrupt: the workers were ended at once; the last checkpoint counts.
    """
    need("training", *TRAINING)
    loaded = loaded_config(config)
    config = with_own(
        loaded.config,
        network=network,
        arguments=arguments,
        taps=taps,
        loss=loss,
        score=score,
        sources=sources,
        augment=augment,
        callbacks=callbacks,
        sections=sections,
    )
    objects = objects_of(config)
    for text in check(with_places(loaded, config)):
        warnings.warn(text, UserWarning, stacklevel=2)
    run = run_workers(
        config,
        _Listener(progress),
        command=f"mgcda_dist.train({config.name!r}) in {sys.argv[0] or 'Python'}",
        override_config=override_config,
        start_over=start_over,
        stop_on_interrupt=stop_on_interrupt,
        objects=objects,
    )
    return Run.with_objects(run.root, objects)


class _Listener:
    """A `Watcher` that tells the caller's function of new steps."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._tail = progress, None

    def begin(self, run: RunFolder, config: Config, doubts: Sequence[str]) -> None:
        del config
        for text in doubts:
            warnings.warn(text, UserWarning, stacklevel=5)
        self._tail = None if self._progress is None else Tail(run.metrics, run.events)

    def look(self, *, stopping: bool) -> None:
        del stopping
        if self._tail is None or self._progress is None:
            return
        line = self._tail.metrics()
        if line is not None:  # a number that JSON does not have is kept as text
            tell, self._progress = self._progress, None  # one that raises is not asked again
            tell(line["step"] + 1, {name: float(value) for name, value in line["metrics"].items()})
            self._progress = tell

    def end(self) -> None:
        """Tell the last steps; a run that fails tells its error itself."""
        self.look(stopping=False)

    def say(self, text: str) -> None:
        """Nothing: the sentence is in the run's events."""
