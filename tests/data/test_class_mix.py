"""Class mix: which pixels and labels a crop takes from another slot, by whose draws; the weak view below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mgcda_dist.data.augment import AugmentParams, Transform
from mgcda_dist.data.class_mix import with_classes_of
from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.stream import FrameSource, TrainingStream
from mgcda_dist.errors import SampleError
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID
from mgcda_dist.method.randomness import numpy_generator
from tests.support.pretended import pretended_device
from tests.support.shards import LUT, write_frames, write_objects

CROP = (32, 48)
NO_COLOUR: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "blur": 0.0}


# ------------------------------------------------------------------------------------------------------- of two crops


def crops(*shown: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Another crop whose label shows these in rows, and one without labels."""
    rng = np.random.default_rng(0)
    other, own = rng.integers(0, 256, (2, len(shown), 6, 3), np.uint8)
    return other, np.array(shown, np.uint8)[:, None].repeat(6, 1), own, np.full((len(shown), 6), VOID, np.uint8)


@pytest.mark.parametrize(
    ("shown", "number"),
    [((0, 1, 2, 3), 2), ((0, 1, 2), 2), ((5,), 1), ((VOID, 5, VOID), 1), ((VOID, 0, 1), 1), ((VOID, VOID), 0),
     ((0, ANOMALY, INLIER, VOID), 2)],
)  # fmt: skip
def test_half_of_the_classes_rounded_up_lie_over_the_crop(shown: tuple[int, ...], number: int) -> None:
    other, other_label, own, own_label = crops(*shown)
    given = [each.copy() for each in (other, other_label, own, own_label)]
    seen = set[tuple[int, ...]]()
    for seed in range(20):
        image, label = with_classes_of(other, other_label, own, own_label, np.random.default_rng(seed))
        chosen = set(np.unique(label).tolist()) - {VOID}
        assert len(chosen) == number and chosen <= set(shown) - {VOID}
        for row, kind in enumerate(shown):
            source, source_label = (other, other_label) if kind in chosen else (own, own_label)
            assert (image[row] == source[row]).all() and (label[row] == source_label[row]).all()
        assert image.dtype == label.dtype == np.uint8
        seen.add(tuple(sorted(chosen)))
    assert len(seen) > 1 or len(set(shown) - {VOID}) == number, "drawn"
    assert all((a == b).all() for a, b in zip(given, (other, other_label, own, own_label), strict=True)), "not changed"


# ---------------------------------------------------------------------------------------------------------- in a stream


class World:
    """Shards of a labelled and a bare domain, and objects."""

    def __init__(self, folder: Any) -> None:
        self.plain = write_frames(folder / "plain", 5, seed=1, per_shard=2)
        self.bare = write_frames(folder / "bare", 5, seed=2, labelled=False, per_shard=2)
        self.objects = write_objects(folder / "objects", 2)

    def stream(self, *, paste: bool = False, options: dict[str, Any] | None = None, **augment: Any) -> TrainingStream:
        params = PasteParams(scale=(0.3, 0.6), probability=1.0)
        pasted = PasteSource(ObjectLibrary(ShardReader(self.objects)), params) if paste else None
        sources = [
            FrameSource("plain", ShardReader(self.plain), LUT, paste=pasted),
            FrameSource("bare", ShardReader(self.bare), LUT, labelled=False, paste=pasted, domain=1),
        ]
        plan = Plan(
            [StreamPlan("plain", self.plain.shard_sizes, 4), StreamPlan("bare", self.bare.shard_sizes, 4)], 3, 2
        )
        transform = Transform(CROP, AugmentParams(scale=(0.5, 2.0), **augment))
        return TrainingStream(plan, sources, transform, num_steps=4, **(options or {}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("class_mix"))


def test_what_covers_a_crop_is_the_crop_of_another_slot_of_its_step(world: World) -> None:
    """Pixel for pixel, picture and label; below it the crop is what it is without class mix."""
    mixed, plain = (world.stream(class_mix=mix, **NO_COLOUR) for mix in (1.0, 0.0))
    for step in range(4):
        batch, before = mixed[step], plain[step]
        labelled = ~before.is_unlabelled
        assert torch.equal(batch.image[labelled], before.image[labelled]), "labelled crops stay"
        assert torch.equal(batch.label[labelled], before.label[labelled])
        for i in torch.nonzero(before.is_unlabelled)[:, 0].tolist():
            covered = batch.label[i] != VOID
            assert covered.any() and (before.label[i] == VOID).all()
            assert torch.equal(batch.image[i][:, ~covered], before.image[i][:, ~covered])
            sources = [
                j for j in torch.nonzero(labelled)[:, 0].tolist()
                if torch.equal(batch.image[i][:, covered], before.image[j][:, covered])
                and torch.equal(batch.label[i][covered], before.label[j][covered])
            ]  # fmt: skip
            (source,) = sources
            kinds = before.label[source][before.label[source] != VOID].unique()
            chosen = batch.label[i][covered].unique()
            assert len(chosen) == (len(kinds) + 1) // 2
            assert torch.equal(covered, torch.isin(before.label[source], chosen)), "whole classes"


def test_colours_change_after_the_mix_and_the_camera_is_one(world: World) -> None:
    """The covered part gets the colours of the crop that it lies on, not those of its own slot."""
    mixed, own = world.stream(class_mix=1.0), world.stream(class_mix=1.0, **NO_COLOUR)
    ref = next(ref for ref in mixed.plan.step(0) if ref.stream == 1)
    sample, bare = mixed.sample(0, ref), own.sample(0, ref)
    _, _, view = mixed.transform.cut(*mixed._frame(ref)[:2], numpy_generator(3, "augment", 0, ref.slot))  # pyright: ignore[reportPrivateUsage]
    image, _ = mixed.transform.finish(bare.image, bare.label, view, np.random.default_rng(0))
    assert (sample.image == image).all() and (sample.label == bare.label).all()


def test_the_share_is_drawn_per_slot_and_objects_lie_on_top(world: World) -> None:
    some, every = world.stream(class_mix=0.5), world.stream(class_mix=1.0)
    rates = [
        torch.cat([s[t].is_foreign.flatten(1).any(dim=1)[s[t].is_unlabelled] for t in range(4)]) for s in (some, every)
    ]
    assert 0 < rates[0].sum() < 16 == rates[1].sum()
    pasted = world.stream(class_mix=1.0, paste=True)[0]
    values = [set(label.unique().tolist()) for label in pasted.label[pasted.is_unlabelled]]
    assert all(ANOMALY in each and len(each - {ANOMALY, VOID}) for each in values)


def test_without_a_partner_and_without_a_share_nothing_changes(world: World) -> None:
    """The draws of class mix are its own: at 0 every byte is what it was, and no labelled stream is no mix."""
    before, none = world.stream(paste=True, style=0.5), world.stream(paste=True, style=0.5, class_mix=0.0)
    assert all(torch.equal(before[t].image, none[t].image) for t in range(4))
    mixed = world.stream(paste=True, style=0.5, class_mix=1.0)
    for t in range(4):
        own = ~before[t].is_unlabelled
        objects = mixed[t].label == ANOMALY
        assert torch.equal(mixed[t].label[own], before[t].label[own])
        assert torch.equal(objects, before[t].label == ANOMALY), "the same objects at the same places"
    source = FrameSource("bare", ShardReader(world.bare), LUT, labelled=False)
    plan = Plan([StreamPlan("bare", world.bare.shard_sizes, 4)], 3, 2)
    alone = [TrainingStream(plan, [source], Transform(CROP, AugmentParams(class_mix=mix))) for mix in (0.0, 1.0)]
    assert torch.equal(alone[0][0].image, alone[1][0].image) and (alone[1][0].label == VOID).all()


def test_a_weak_view_is_the_crop_before_anything_was_laid_over_it(world: World) -> None:
    bare = world.stream(**NO_COLOUR)
    strong = world.stream(paste=True, class_mix=1.0, style=1.0, options={"weak_views": True})
    for t in range(4):
        crop, batch = bare[t], strong[t]
        assert batch.weak is not None and batch.weak.dtype == torch.uint8
        assert torch.equal(batch.weak, crop.image[crop.is_unlabelled])
        assert batch.weak.is_contiguous(memory_format=torch.channels_last)
        assert not any(torch.equal(a, b) for a, b in zip(batch.weak, batch.image[batch.is_unlabelled], strict=True))
    ranks = [world.stream(class_mix=1.0, options={"weak_views": True, "rank": r, "world_size": 8})[0] for r in range(8)]
    weak = [rank.weak for rank in ranks]
    assert [each is not None and len(each) for each in weak] == bare[0].is_unlabelled.long().tolist()
    assert bare[0].weak is None


def test_pinned_batches_have_all_their_tensors(world: World) -> None:
    """With an accelerator: every tensor, in one piece of memory."""
    batch = world.stream(class_mix=1.0, options={"weak_views": True})[0]
    with pretended_device() as gpu:
        pinned = batch.pin_memory()
        assert len(gpu.pinned) == 1
    for name in ("image", "label", "domain", "slot", "unlabelled", "weak"):
        tensor, before = getattr(pinned, name), getattr(batch, name)
        assert torch.equal(tensor, before) and tensor.stride() == before.stride()
        assert tensor.untyped_storage().data_ptr() in gpu.pinned


# ----------------------------------------------------------------------------------------------------- damaged partners


@pytest.mark.parametrize("augment", [{"class_mix": 1.0}, {"style": 1.0}], ids=["class_mix", "style"])
def test_a_stand_in_has_a_partner_of_its_own(tmp_path: Any, augment: dict[str, Any]) -> None:
    """A crop whose partner is damaged is skipped like a damaged one; it would otherwise ask for that partner again."""
    labelled, bare = write_frames(tmp_path / "a", 8, per_shard=8), write_frames(tmp_path / "b", 8, labelled=False)
    _damage(labelled, 3)
    sources = [
        FrameSource("a", ShardReader(labelled), LUT),
        FrameSource("b", ShardReader(bare), LUT, labelled=False, domain=1),
    ]
    plan = Plan([StreamPlan(s.name, m.shard_sizes, 4) for s, m in zip(sources, (labelled, bare), strict=True)], 0, 1)
    transform = Transform(CROP, AugmentParams(**augment))
    streams = [
        TrainingStream(plan, sources, transform, num_steps=6, on_bad_sample="skip", rank=r, world_size=n)
        for r, n in ((0, 1), (0, 2), (1, 2))
    ]
    batches = [[stream[t] for t in range(6)] for stream in streams]
    of_bare = _damaged_partners(streams[0])
    assert of_bare, "some partner is damaged"
    for step, slot in of_bare:
        with pytest.raises(SampleError, match="a-00003"):
            streams[0].sample(step, plan.step(step)[slot])
    for whole, *parts in zip(*batches, strict=True):
        assert torch.equal(whole.image, torch.cat([part.image for part in parts]))
        assert torch.equal(whole.label, torch.cat([part.label for part in parts]))
        assert whole.bad == parts[0].bad + parts[1].bad
        assert all("a-00003" in sentence for sentence in whole.bad)


def _damaged_partners(stream: TrainingStream) -> list[tuple[int, int]]:
    """Step and slot of the crops without labels that cannot be made, as they are whole themselves."""
    found: list[tuple[int, int]] = []
    for step in range(6):
        for ref in stream.plan.step(step):
            if ref.stream == 1:
                try:
                    stream.sample(step, ref)
                except SampleError:
                    found.append((step, ref.slot))
    return found


def _damage(manifest: Manifest, number: int) -> None:
    row = manifest.shard_index(0)[number]
    with open(manifest.shard_path(0), "r+b") as tar:
        tar.seek(int(row["image_offset"]))
        tar.write(bytes(int(row["image_bytes"])))


def test_who_has_no_label_is_known_without_looking_at_labels(world: World) -> None:
    """A labelled crop may show nothing but void, a crop without labels something but void."""
    batch = world.stream(class_mix=1.0)[0]
    assert batch.unlabelled is not None and batch.unlabelled.dtype == torch.bool
    assert torch.equal(batch.unlabelled, batch.domain == 1)
    assert not replace(batch, unlabelled=None).is_unlabelled.any(), "the labels alone do not tell any more"
