"""TensorBoard tracker: event files in the run folder, by torch's own writer. Only here: TensorBoard.

A restart opens a further file, which begins with the first step of the attempt: TensorBoard then leaves out what an
earlier attempt wrote from there on, so that every step is shown once. Files, models and data sets are named in texts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgcda_dist.tracking.jsonl import flat_params
from mgcda_dist.tracking.tracker import Status

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorboardTracker"]

_QUEUE, _FLUSH_S = 10_000, 10
"""Events that wait for the writer's thread before a step would, and how often they are seen on disk."""
_RETRY_S = 60.0
"""Pause after a failure, since each attempt leaves a file."""


class TensorboardTracker:
    """Writes metrics, pictures and texts of a run; the file is opened by the first metric.

    Until then the loader's processes, which are forked, do not exist, and the writer has a thread. After a failure
    nothing is written for a minute; then the next metric opens a new file.

    Args:
        folder: receives the event files.
        start_step: first step that will be logged; what an earlier attempt wrote from there on is hidden.
    """

    def __init__(self, folder: Path, start_step: int = 0) -> None:
        self._folder, self._step, self._purge = folder, start_step, True
        self._start_step = start_step
        self._writer: SummaryWriter | None = None
        self._failed_s = -math.inf
        self._texts: dict[str, dict[str, str]] = {}
        self._unwritten: set[str] = set()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the parameters, flattened to dotted keys, as the table `parameters`."""
        self._add("parameters", flat_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the numbers of one step, as one event."""
        self._step, kind = step, _summary_kind()
        values = [kind.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        self._write(kind(value=values))
        self._write_texts()

    def log_picture(self, name: str, path: Path, step: int | None = None) -> None:
        """Record an image file as `pictures/NAME`, as it is; without a step, at the newest one.

        Steps of metrics count from 0, those of pictures are steps done: after 3 steps a restart begins with number 3.
        """
        from PIL import Image

        kind = _summary_kind()
        with Image.open(path) as picture:
            width, height = picture.size
        image = kind.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        tag = f"pictures/{Path(name).with_suffix('') if Path(name).suffix == path.suffix else name}"
        self._write(kind(value=[kind.Value(tag=tag, image=image)]), None if step is None else max(step - 1, 0))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Name the file or folder in the table `files`; TensorBoard keeps none."""
        self._add("files", {f"{folder or '.'}/{path.name}": str(path)})

    def log_model(self, path: Path, register_as: str | None = None) -> None:
        """Name the folder of the model in the table `files`."""
        self._add("files", {"model": str(path)})

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record the data set in the table `data`."""
        self._add("data", {f"{context}/{name}": f"{source}, {digest}"})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record the tags in the table `tags`."""
        self._add("tags", dict(tags))

    def close(self, status: Status) -> None:
        """Write what is pending, with the status among the tags."""
        self.set_tags({"status": status})
        self._write_texts()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _add(self, table: str, rows: dict[str, str]) -> None:
        self._texts[table] = self._texts.get(table, {}) | rows
        self._unwritten.add(table)

    def _write_texts(self) -> None:
        """Write the tables that have new rows."""
        from torch.utils.tensorboard.summary import text

        for table in sorted(self._unwritten):
            rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in self._texts[table].items())
            self._write(text(table, f"| | |\n|---|---|\n{rows}"))
        self._unwritten.clear()

    def _write(self, summary: Any, step: int | None = None) -> None:
        if time.monotonic() - self._failed_s < _RETRY_S:
            return
        try:
            self._open().add_summary(summary, self._step if step is None else step)
        except Exception:
            self._writer, self._failed_s = None, time.monotonic()  # its thread has ended with the same error
            raise

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge_step = self._start_step if self._purge else None
            self._writer = SummaryWriter(
                str(self._folder), purge_step=purge_step, max_queue=_QUEUE, flush_secs=_FLUSH_S
            )
            self._purge = False
        return self._writer.file_writer


def _summary_kind() -> Any:
    """The message that holds values; its module is generated, and without types."""
    from tensorboard.compat.proto import summary_pb2

    module: Any = summary_pb2
    return module.Summary


def _cell(text: str) -> str:
    """Text within a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", "<br>")
