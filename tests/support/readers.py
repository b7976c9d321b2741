"""Readers of a user's own program, as `mgcda shards write python:…` takes them: a good one, and users' mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.sources.source import FramePair, Root, Source, SourceSet, frame_set, images_in, read_pair

__all__ = ["BARE", "SOURCE", "Frames", "Named", "NoName", "Opens", "opening"]


class Frames:
    """`images/SPLIT/NAME.png` and `labels/SPLIT/NAME.png`, ids of road8."""

    name, url, licence = "my_frames", "https://example.org/my_frames", "CC0"

    def open(self, folder: Path, split: str, *, unlabelled: bool = False, first: int | None = None) -> SourceSet:
        images = folder / "images" / split
        pairs = [
            FramePair(path.stem, path, folder / "labels" / split / path.name) for path in images_in(images, "images/")
        ]
        return frame_set(pairs[:first], [Root(images)], "road8", unlabelled=unlabelled)


SOURCE = Source("my_source", Frames().open, "", "", options=("unlabelled", "first"))


class NoName:
    """A reader that nobody can call by a name."""

    def open(self, folder: Path, split: str) -> SourceSet:
        return Frames().open(folder, split)


class Named(Frames):
    """A reader that has the name of another."""

    name = "camvid"


class Opens(Frames):
    """A reader whose `open` is what a test says."""

    def __init__(self, opened: Callable[..., Any]) -> None:
        self.open = opened


def _key(item: FramePair) -> SourceSample:
    return read_pair(FramePair("other", item.image, item.label))


def _pixels(item: FramePair) -> Any:
    return SourceSample(item.key, [1, 2], "png")  # pyright: ignore[reportArgumentType]


def opening(what: str) -> Opens:
    """A reader that opens or loads something wrong."""
    good = Frames().open

    def samples(folder: Path, split: str) -> LazySamples:
        return good(folder, split).samples

    def loading(load: Callable[[Any], Any]) -> Callable[..., SourceSet]:
        return lambda f, s: SourceSet(LazySamples(samples(f, s).items, load), "road8")

    return Opens(
        {
            "a list": lambda f, s: list(samples(f, s).items),
            "plain items": lambda f, s: SourceSet([1, 2], "road8"),  # pyright: ignore[reportArgumentType]
            "paths": lambda f, s: SourceSet(LazySamples(["a.png"], read_pair), "road8"),
            "a format": lambda f, s: SourceSet(samples(f, s), "road9"),
            "an error": lambda f, s: 1 // 0,
            "another key": loading(_key),
            "a pair": loading(lambda item: (item.image, item.label)),
            "pixels": loading(_pixels),
            "a missing file": loading(lambda item: Path(f"/nowhere/{item.key}").read_bytes()),
        }[what]
    )


BARE: dict[str, Opens] = {}
