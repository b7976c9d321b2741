"""Files that W&B writes offline: its own messages, as records in the log format of LevelDB."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["OfflineRun", "read_offline_run"]

_BLOCK, _HEADER = 32768, 7


@dataclass
class OfflineRun:
    """The record for W&B: numbers by step, config, files, the run's id and its exit code."""

    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    run_id: str = ""
    exit_code: int | None = None


def read_offline_run(folder: Path) -> OfflineRun:
    """The run in a folder `offline-run-…`."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    messages: Any = wandb_internal_pb2
    (file,) = folder.glob("*.wandb")
    found = OfflineRun()
    for content in _records(file.read_bytes()):
        record = messages.Record.FromString(content)
        if record.HasField("history"):
            row = found.history.setdefault(record.history.step.num, {})
            row |= {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        elif record.HasField("run"):
            found.run_id = record.run.run_id
            found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif record.HasField("config"):
            found.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif record.HasField("files"):
            found.files |= {item.path for item in record.files.files}
        elif record.HasField("exit"):
            found.exit_code = record.exit.exit_code
    return found


def _records(content: bytes) -> Iterator[bytes]:
    """Whole records: parts of one follow each other, and none crosses a block."""
    at, parts = _HEADER, b""
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        if kind == 0:
            return
        parts += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
