"""The stream: the same bytes on every rank, worker and after every resume; damaged samples and their stand-ins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mgcda_dist.data.augment import AugmentParams, Transform
from mgcda_dist.data.loader import make_loader
from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.stream import FrameSource, TrainingStream
from mgcda_dist.errors import ConfigError, ShardError
from mgcda_dist.method.batch import ANOMALY, VOID, Batch
from tests.support.shards import LUT, write_frames
from tests.support.streams import CROP, TRANSFORM, World, hurt, same, stream_of

MIXED = Transform(CROP, AugmentParams(scale=(0.5, 2.0), blur=0.5, class_mix=0.6, style=0.3))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("loader"))


def test_a_batch_matches_its_slots_and_keys(world: World):
    batch = world.stream()[0]
    assert batch.image.shape == (8, 3, *CROP)
    assert batch.image.dtype == torch.uint8
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.label.shape == (8, *CROP)
    assert batch.label.dtype == torch.uint8 and batch.domain.dtype == batch.slot.dtype == torch.int64
    assert batch.slot.tolist() == list(range(8))
    assert np.bincount(batch.domain.numpy()).tolist() == [6, 2], "by domain, not by stream"
    for key, domain, label in zip(batch.keys, batch.domain.tolist(), batch.label, strict=True):
        stream = ("plain/plain-0", "pasted/plain-0", "bare/bare-0").index(key[: key.index("-0") + 2])
        assert domain == (0, 0, 1)[stream]
        values = set(label.unique().tolist())
        assert values <= {VOID} if stream == 2 else values <= {*range(8), ANOMALY, VOID}
        assert (ANOMALY in values) == (stream == 1)
    assert torch.equal(batch.is_unlabelled, batch.domain == 1) and batch.weak is None


@pytest.mark.parametrize("transform", [TRANSFORM, MIXED], ids=["plain", "mixed"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_ranks_see_parts_of_the_same_global_batches(world: World, workers: int, transform: Transform):
    options: dict[str, Any] = {"num_steps": 3, "transform": transform, "weak_views": transform is MIXED}
    expected = list(make_loader(world.stream(**options)))
    foreign = [int(batch.is_foreign.flatten(1).any(dim=1).sum()) for batch in expected]
    assert 0 < sum(foreign) < 6 if transform is MIXED else not any(foreign), "of six crops without labels"
    assert [batch.step for batch in expected] == [0, 1, 2]
    for world_size, accumulation in [(1, 2), (2, 1), (2, 2), (4, 2)]:
        parts: dict[int, list[Batch]] = {step: [] for step in range(3)}
        for rank in range(world_size):
            stream = world.stream(**options, rank=rank, world_size=world_size, accumulation=accumulation)
            batches = list(make_loader(stream, workers if rank == 0 else 0))
            assert [batch.step for batch in batches] == [step for step in range(3) for _ in range(accumulation)]
            for batch in batches:
                parts[batch.step].append(batch)
        for step in range(3):
            ordered = sorted(parts[step], key=lambda batch: int(batch.slot[0]))
            joined = Batch(
                image=torch.cat([batch.image for batch in ordered]),
                label=torch.cat([batch.label for batch in ordered]),
                domain=torch.cat([batch.domain for batch in ordered]),
                slot=torch.cat([batch.slot for batch in ordered]),
                step=step,
                keys=tuple(key for batch in ordered for key in batch.keys),
                unlabelled=torch.cat([batch.is_unlabelled for batch in ordered]),
                weak=_joined([batch.weak for batch in ordered]),
            )
            assert same(joined, expected[step])


def test_ranks_see_parts_of_the_same_batches_in_groups(world: World):
    """Also where crops take parts of others: those of their own group."""
    mixed = Transform(CROP, AugmentParams(class_mix=1.0, style=0.5))
    options: dict[str, Any] = {"num_steps": 3, "transform": mixed, "groups": 2}
    expected = [world.stream(**options)[step] for step in range(3)]
    without: dict[str, Any] = options | {"groups": 1}
    assert not torch.equal(expected[0].image, world.stream(**without)[0].image)
    for rank in range(2):
        batches = list(make_loader(world.stream(**options, rank=rank, world_size=2), workers=rank))
        own = slice(4 * rank, 4 * rank + 4)
        for batch, whole in zip(batches, expected, strict=True):
            assert torch.equal(batch.image, whole.image[own]) and torch.equal(batch.label, whole.label[own])
    late: dict[str, Any] = options | {"num_steps": 1, "start_step": 2}
    assert same(world.stream(**late)[0], expected[2])
    stream = world.stream(**options)
    partners = [stream._slot_of(5, own, range(8), np.random.default_rng(own)).slot for own in range(8)]  # pyright: ignore[reportPrivateUsage]
    assert [slot // 4 for slot in partners] == [0] * 4 + [1] * 4


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    assert len(there) in (0, len(parts))
    return torch.cat(there) if there else None


@pytest.mark.parametrize("transform", [TRANSFORM, MIXED], ids=["plain", "mixed"])
def test_a_later_start_gives_the_same_batches(world: World, transform: Transform):
    options: dict[str, Any] = {"transform": transform, "weak_views": transform is MIXED}
    whole = list(make_loader(world.stream(num_steps=6, **options)))
    for start in (2, 5):
        resumed = list(make_loader(world.stream(start_step=start, num_steps=6 - start, **options)))
        assert all(same(*pair) for pair in zip(resumed, whole[start:], strict=True))
    assert world.stream(start_step=10**9)[0].step == 10**9


def test_steps_and_seeds_differ(world: World):
    first, late, other = world.stream()[0], world.stream(start_step=7)[0], world.stream(seed=4)[0]
    assert not torch.equal(first.image, late.image)
    assert not torch.equal(first.image, other.image)


def test_objects_do_not_move_the_geometry(world: World):
    """Slots of the pasted stream differ from the bare crop only where objects are, and by colour statistics."""
    stream = world.stream()
    ref = next(ref for ref in stream.plan.step(0) if ref.stream == 1)
    pasted = stream.sample(0, ref).label
    object.__setattr__(stream.sources[1], "paste", None)
    bare = stream.sample(0, ref).label
    changed = pasted != bare
    assert changed.any()
    assert (pasted[changed] == ANOMALY).all()


def test_stand_ins_are_the_same_at_every_world_size(tmp_path: Path):
    manifest = hurt(tmp_path / "hurt", [2, 3, 7])
    options: dict[str, Any] = {"num_steps": 5, "per_step": 4, "on_bad_sample": "skip"}
    whole = list(make_loader(stream_of(manifest, **options)))
    bad = [sentence for batch in whole for sentence in batch.bad]
    # Two epochs: each damaged sample is met twice, and some as a stand-in of another.
    assert len(bad) >= 6
    assert all("shard-000000.tar: hurt-0000" in text and "is not a picture" in text for text in bad)
    assert {text.split("hurt-0000")[1][0] for text in bad} == {"2", "3", "7"}
    assert not {key for batch in whole for key in batch.keys} & {f"d/hurt-0000{n}" for n in (2, 3, 7)}
    for size, workers in ((2, 0), (2, 2), (4, 1)):
        ranks = [
            list(make_loader(stream_of(manifest, rank=r, world_size=size, **options), workers)) for r in range(size)
        ]
        for step, batch in enumerate(whole):
            parts = [rank[step] for rank in ranks]
            assert torch.equal(torch.cat([part.image for part in parts]), batch.image)
            assert torch.equal(torch.cat([part.label for part in parts]), batch.label)
            assert tuple(text for part in parts for text in part.bad) == batch.bad


def test_a_truncated_shard_is_bad_samples_and_a_missing_one_is_not(tmp_path: Path):
    manifest = write_frames(tmp_path / "short", 10, per_shard=5)
    path = manifest.shard_path(1)
    os.truncate(path, int(manifest.shard_index(1)[2]["image_offset"]) + 10)
    batches = list(make_loader(stream_of(manifest, num_steps=10, on_bad_sample="skip")))
    bad = [sentence for batch in batches for sentence in batch.bad]
    assert bad and all("the shard ends" in text for text in bad)
    path.unlink()
    with pytest.raises(ShardError, match="cannot be opened"):
        list(make_loader(stream_of(manifest, num_steps=10, on_bad_sample="skip")))


def test_objects_on_an_unlabelled_stream_are_the_only_label(world: World):
    paste = PasteSource(ObjectLibrary(ShardReader(world.objects)), PasteParams(scale=(0.3, 0.6), probability=1.0))
    source = FrameSource("bare", ShardReader(world.bare), LUT, labelled=False, paste=paste)
    batch = TrainingStream(Plan([StreamPlan("bare", world.bare.shard_sizes, 4)], 0, 1), [source], TRANSFORM)[0]
    assert all(set(label.unique().tolist()) == {ANOMALY, VOID} for label in batch.label)


def test_a_stream_of_damaged_samples_only_is_an_error(tmp_path: Path):
    stream = stream_of(hurt(tmp_path / "hurt", list(range(10))), on_bad_sample="skip")
    with pytest.raises(ShardError, match=r"stream d: 21 samples in a row are damaged, the last is step 0, .*hurt-0000"):
        stream[0]


def test_a_labelled_stream_needs_labels(world: World):
    with pytest.raises(ShardError, match="has no label, but stream d is labelled"):
        stream_of(world.bare)[0]


def test_impossible_streams_are_refused(world: World):
    with pytest.raises(ConfigError, match="8 images per step cannot be cut"):
        world.stream(world_size=3)
    plan = Plan([StreamPlan("plain", world.plain.shard_sizes, 1)], 0, 1)
    for source in (
        FrameSource("other", ShardReader(world.plain), LUT),
        FrameSource("plain", ShardReader(world.bare), LUT),
    ):
        with pytest.raises(ConfigError, match="are not the streams of the plan"):
            TrainingStream(plan, [source], TRANSFORM)
    with pytest.raises(IndexError):
        world.stream()[1]
