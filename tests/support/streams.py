"""Streams over small generated shards, for the tests of batches and of the processes that load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mgcda_dist.data.augment import AugmentParams, Paste, Transform
from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.stream import FrameSource, TrainingStream
from mgcda_dist.method.batch import Batch
from tests.support.shards import LUT, write_frames, write_objects

__all__ = ["CROP", "TRANSFORM", "World", "hurt", "same", "stream_of"]

CROP = (32, 48)
TRANSFORM = Transform(CROP, AugmentParams(scale=(0.5, 2.0), blur=0.5))


class World:
    """Three streams of two domains: labelled, the same with objects; unlabelled."""

    def __init__(self, folder: Path) -> None:
        self.plain = write_frames(folder / "plain", 7, seed=1, per_shard=3)
        self.bare = write_frames(folder / "bare", 5, seed=2, labelled=False, per_shard=2)
        self.objects = write_objects(folder / "objects", 3)

    def stream(
        self,
        seed: int = 3,
        per_step: tuple[int, int, int] = (4, 2, 2),
        transform: Transform = TRANSFORM,
        groups: int = 1,
        **options: Any,
    ) -> TrainingStream:
        library = ObjectLibrary(ShardReader(self.objects))
        paste = PasteSource(library, PasteParams(scale=(0.3, 0.6)))
        sources = [
            FrameSource("plain", ShardReader(self.plain), LUT),
            FrameSource("pasted", ShardReader(self.plain), LUT, paste=paste),
            FrameSource("bare", ShardReader(self.bare), LUT, labelled=False, domain=1),
        ]
        manifests = (self.plain, self.plain, self.bare)
        streams = [
            StreamPlan(source.name, manifest.shard_sizes, share)
            for source, manifest, share in zip(sources, manifests, per_step, strict=True)
        ]
        return TrainingStream(Plan(streams, seed, 2, groups), sources, transform, **options)


def same(first: Batch, second: Batch) -> bool:
    names = ("image", "label", "domain", "slot", "unlabelled", "weak")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    equal = all(a is b if a is None else torch.equal(a, b) for a, b in pairs)
    return equal and (first.step, first.keys) == (second.step, second.keys)


def hurt(folder: Path, numbers: list[int]) -> Manifest:
    """Ten frames, of which some have a damaged image."""
    manifest = write_frames(folder, 10, per_shard=10)
    with open(manifest.shard_path(0), "r+b") as tar:
        for number in numbers:
            row = manifest.shard_index(0)[number]
            tar.seek(int(row["image_offset"]))
            tar.write(bytes(int(row["image_bytes"])))
    return manifest


def stream_of(manifest: Manifest, paste: Paste | None = None, *, per_step: int = 1, **options: Any) -> TrainingStream:
    source = FrameSource("d", ShardReader(manifest), LUT, paste=paste)
    return TrainingStream(Plan([StreamPlan("d", manifest.shard_sizes, per_step)], 0, 1), [source], TRANSFORM, **options)
