"""A run from its start to its end: its folder, its workers, and who watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from mgcda_dist.api.waiting import wait_for
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError, NodesLostError, StoppedError
from mgcda_dist.runs.folder import RunFolder, mlflow_uri

__all__ = ["Watcher", "run_workers"]


class Watcher(Protocol):
    """Follows a run in this process while its workers train; called in the thread that started it."""

    def begin(self, run: RunFolder, config: Config, doubts: Sequence[str]) -> None:
        """The folder is prepared, the workers are not yet started; they tell the `doubts` about the network, too."""
        ...

    def look(self, *, stopping: bool) -> None:
        """Called several times a second; `stopping`: the run was asked to stop."""
        ...

    def end(self) -> None:
        """The workers have ended, in whatever way."""
        ...

    def say(self, text: str) -> None:
        """A sentence after the end, which is in the run's events, too."""
        ...


def run_workers(
    config: Config,
    watcher: Watcher,
    *,
    command: str,
    override_config: bool = False,
    start_over: bool = False,
    stop_on_interrupt: bool = False,
    objects: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Train a run on Ray's workers, from its newest checkpoint if it has one, and wait for their end.

    Args:
        config: with absolute folders.
        command: recorded as what has launched the run.
        override_config: resume with a changed configuration if the state fits it.
        start_over: begin at step 0 without asking, where all checkpoints are damaged.
        stop_on_interrupt: Ctrl-C and SIGTERM ask the workers to stop with a checkpoint, the second time to end at
            once; in the main thread only. Otherwise no handler is installed, and KeyboardInterrupt ends them at once.
        objects: by reference, those that workers cannot import.

    Returns:
        The folder; without results the run was asked to stop, and has left a checkpoint.

    Raises:
        NodesLostError, StoppedError: see `cluster.trainer.launch`; the last checkpoint counts.
        MgcdaError: a configuration that cannot run, or the error of a worker.
        KeyboardInterrupt: see above.
    """
    from mgcda_dist import build, checks
    from mgcda_dist.cluster.scaling import is_open, resolve

    run = RunFolder(config)
    with run.locked():
        if is_open(config):
            from mgcda_dist.cluster.connect import node_resources

            config = resolve(config, node_resources())
        doubts = checks.check_model(config)
        run.prepare(config, build.run_inputs(config), override_config=override_config)
        run.say("launch", f"launched: {command}", command=command)
        run.results.unlink(missing_ok=True)
        watcher.begin(run, config, doubts)
        try:
            _wait(_work(config, run, start_over, dict(objects or {})), run, watcher, stop_on_interrupt)
        except BaseException as error:
            _record_end(error, run, config, watcher)
            raise
    return run


def _wait(work: Callable[[], None], run: RunFolder, watcher: Watcher, stop_on_interrupt: bool) -> None:
    def ask_to_stop() -> None:
        with suppress(OSError):  # a full disk; a second time aborts at once
            run.stop_file.touch()

    try:
        wait_for(work, lambda stopping: watcher.look(stopping=stopping), ask_to_stop if stop_on_interrupt else None)
    except MgcdaError:
        raise
    except BaseException:
        ask_to_stop()  # workers of a Ray that is not ours to end
        raise
    finally:
        watcher.end()


def _work(config: Config, run: RunFolder, start_over: bool, objects: dict[str, Any]) -> Callable[[], None]:
    def work() -> None:
        from mgcda_dist.cluster.scaling import worker_needs
        from mgcda_dist.cluster.trainer import launch

        arguments: dict[str, Any] = {"config": config, "start_over": start_over, "objects": objects}
        try:
            numbers = worker_needs(config).numbers
            launch(config.scaling, numbers, run.root, "train", arguments, compiles=config.compiles)
        except MgcdaError:
            raise
        except Exception as error:
            raise MgcdaError("training", f"{type(error).__name__}: {error}", f"logs: {run.logs}") from error

    return work


def _record_end(error: BaseException, run: RunFolder, config: Config, watcher: Watcher) -> None:
    """End the record of a run whose workers are gone."""
    from mgcda_dist.tracking.mlflow_sync import end_run

    def say(text: str) -> None:
        run.say("note", text)
        watcher.say(text)

    failed = isinstance(error, Exception) and not isinstance(error, NodesLostError | StoppedError)
    end_run(run.root, mlflow_uri(config), "FAILED" if failed else "KILLED", say)
