"""Weights & Biases tracker: a thread hands the record to W&B, by default to files in the run folder. Only here: W&B.

Offline nothing leaves the machine: no request is made, and `wandb sync RUN/wandb/offline-run-…` uploads what the user
wants to. A restart continues the run under the same id. The model and the files of the data stay where they are.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mgcda_dist.files import write_atomically
from mgcda_dist.tracking.tracker import Status

__all__ = ["WandbTracker"]

_QUEUE = 10_000
_LOG = logging.getLogger(__name__)


class WandbTracker:
    """Hands metrics, parameters, pictures and files of a run to W&B; no call waits for it.

    The thread starts with the first metric: until then the loader's processes, which are forked, do not exist.

    Args:
        folder: of the run; W&B writes to `wandb/` in it, and the file `run_id` there keeps the run's id.
        project: name at W&B.
        name: of the run.
        mode: offline: files only; online: W&B also uploads, as the environment says (`WANDB_API_KEY`).
        warn: receives a sentence about a failure; default: a log record.
        wait_s: longest wait of `close`.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        name: str,
        *,
        mode: Literal["offline", "online"] = "offline",
        warn: Callable[[str], None] | None = None,
        wait_s: float = 30.0,
    ) -> None:
        self._folder, self._project, self._name, self._mode = folder.absolute(), project, name, mode
        self._warn, self._wait_s = warn or _LOG.warning, wait_s
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(_QUEUE)
        self._thread: threading.Thread | None = None
        self._has_failed, self._status = False, "FINISHED"
        self._step = 0

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the parameters as the run's config."""
        content = dict(params)
        self._put(lambda run: run.config.update(content, allow_val_change=True))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the numbers of one step."""
        self._step, numbers = step, {name: float(value) for name, value in metrics.items()}
        self._put(lambda run: run.log(numbers, step=step))
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver, name="wandb-writer", daemon=True)
            self._thread.start()

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Record an image file as `pictures/NAME`."""
        content, at = path.read_bytes(), self._step if step is None else step
        tag = f"pictures/{name.removesuffix(path.suffix)}"
        self._put(lambda run: run.log({tag: _image(content)}, step=at))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file, or all files of a folder, below `folder` among the run's files; read when their turn comes."""
        self._put(lambda run: _save(run, path.absolute(), folder))

    def log_model(self, path: Path, register_as: str | None = None) -> None:
        """Record the place of the model; it is not uploaded."""
        self._put(lambda run: run.config.update({"model_folder": str(path)}, allow_val_change=True))

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record the data set in the run's config."""
        content = {f"datasets/{context}/{name}": {"digest": digest, "source": source}}
        self._put(lambda run: run.config.update(content, allow_val_change=True))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record the tags in the run's config, as `tags/NAME`."""
        content = {f"tags/{name}": value for name, value in tags.items()}
        self._put(lambda run: run.config.update(content, allow_val_change=True))

    def close(self, status: Status) -> None:
        """Hand over the rest and end the run; gives up after `wait_s`."""
        self._status = status
        if self._thread is None:
            return  # no step was logged
        self._put(None)
        self._thread.join(self._wait_s)
        if self._thread.is_alive():
            what = f"{self._queue.qsize()} entries" if self._queue.qsize() else "the end"
            self._fail(f"W&B has not taken {what} within tracking.wait_s={self._wait_s:g} s")

    def _put(self, call: Callable[[Any], None] | None) -> None:
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._fail(f"W&B is {_QUEUE} entries behind: what comes now is left out there")

    def _deliver(self) -> None:
        """The thread: open the run, hand over every call, close the run."""
        try:
            run = self._open()
        except Exception as error:  # W&B raises every kind
            self._fail(f"W&B does not take the run ({type(error).__name__}: {error}); training goes on without it")
            return
        while (call := self._queue.get()) is not None:
            try:
                call(run)
            except Exception as error:
                self._fail(f"W&B does not take an entry of the run ({type(error).__name__}: {error})")
        try:
            run.finish(exit_code=0 if self._status == "FINISHED" else 1)
        except Exception as error:
            self._fail(f"W&B did not end the run ({type(error).__name__}: {error})")

    def _open(self) -> Any:
        folder = self._folder / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        # Before the import: errors would be sent to W&B, and files written to the home folder.
        if self._mode == "offline":
            os.environ["WANDB_ERROR_REPORTING"] = "false"
            for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
                os.environ.setdefault(f"WANDB_{name}_DIR", str(folder / ".local"))
        wandb = _module()
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            finish_timeout=self._wait_s,
            init_timeout=self._wait_s,
            silent=True,
            x_disable_machine_info=True,
            x_disable_stats=True,  # it would ask the cloud's metadata service
            x_save_requirements=False,  # among the tags
        )
        return wandb.init(
            project=self._project,
            name=self._name,
            id=self._run_id(folder / "run_id"),
            dir=str(self._folder),
            mode=self._mode,
            resume="allow",
            settings=settings,
        )

    @staticmethod
    def _run_id(file: Path) -> str:
        """The run's id, which is made by its first attempt."""
        if not file.is_file():
            write_atomically(file, uuid.uuid4().hex[:12])
        return file.read_text(encoding="utf-8").strip()

    def _fail(self, text: str) -> None:
        """Say the first failure; the others are log records."""
        (_LOG.warning if self._has_failed else self._warn)(text)
        self._has_failed = True


def _module() -> Any:
    import wandb  # of W&B: a file beside others of a package is imported by its full name

    return wandb


def _image(content: bytes) -> Any:
    from PIL import Image

    return _module().Image(Image.open(io.BytesIO(content)))


def _save(run: Any, path: Path, folder: str) -> None:
    """Put files into the run's own folder, from where they are uploaded, if at all."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    for file in files:
        below = Path(folder) / (file.name if file == path else file.relative_to(path))
        write_atomically(Path(run.dir) / below, partial(shutil.copyfile, file))
        run.save(str(Path(run.dir) / below), base_path=run.dir, policy="now")
