"""Event files of TensorBoard, read with its own accumulator: what its pages would show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Events", "read_events"]


@dataclass
class Events:
    """Content of a folder of event files, by tag.

    Attributes:
        scalars: (step, value) in their order.
        pictures: (step, (width, height), the file's bytes).
        texts: the newest one.
    """

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    pictures: dict[str, list[tuple[int, tuple[int, int], bytes]]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def read_events(folder: Path) -> Events:
    """Everything that TensorBoard would show of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator: Any = EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "images", "tensors"), 0))
    accumulator.Reload()
    tags = accumulator.Tags()
    found = Events()
    for tag in tags["scalars"]:
        found.scalars[tag] = [(each.step, each.value) for each in accumulator.Scalars(tag)]
    for tag in tags["images"]:
        found.pictures[tag] = [
            (each.step, (each.width, each.height), each.encoded_image_string) for each in accumulator.Images(tag)
        ]
    for tag in tags["tensors"]:
        (text,) = accumulator.Tensors(tag)[-1].tensor_proto.string_val
        found.texts[tag.removesuffix("/text_summary")] = text.decode()
    return found
