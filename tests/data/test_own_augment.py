"""An augmentation of one's own: keyed by seed, step and slot, the same on every rank, and refused where it is not."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgcda_dist import build, references
from mgcda_dist.config.data import AugmentConfig, DataConfig
from mgcda_dist.data.augment import AugmentParams, Image, Label, Transform
from mgcda_dist.data.loader import make_loader
from mgcda_dist.data.own_augment import OwnAugment
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.stream import FrameSource, TrainingStream
from mgcda_dist.errors import ConfigError
from tests.support.configs import plain_config
from tests.support.shards import LUT, write_frames

CROP = (16, 24)


def noise(image: Image, label: Label, generator: np.random.Generator, width: int = 20) -> tuple[Image, Label]:
    """Noise on the image, in place, which must not matter."""
    image += generator.integers(0, width, image.shape, np.uint8)
    return image, label


class Hole:
    """A square without a label at a random place."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Image, label: Label, generator: np.random.Generator) -> tuple[Image, Label]:
        top, left = (int(generator.integers(n - self.side)) for n in label.shape)
        label[top : top + self.side, left : left + self.side] = 255
        return image, label


def _own(name: str, where: str = "data.augment.own.0", **arguments: Any) -> OwnAugment:
    return OwnAugment(f"python:{__name__}:{name}", arguments, where)


def _batches(shards: Any, own: tuple[OwnAugment, ...], workers: int = 0, **options: Any) -> list[torch.Tensor]:
    transform = Transform(CROP, AugmentParams(), own)
    sources = [
        FrameSource("a", ShardReader(shards), LUT),
        FrameSource("b", ShardReader(shards), LUT, labelled=False, domain=1),
    ]
    plan = Plan([StreamPlan(name, shards.shard_sizes, 2) for name in "ab"], 3, 1)
    stream = TrainingStream(plan, sources, transform, num_steps=2, weak_views=True, **options)
    found = list(make_loader(stream, workers=workers))
    assert all(each.weak is not None for each in found)
    return [torch.cat([batch.image.flatten(1), batch.label.flatten(1)], dim=1) for batch in found]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_frames(tmp_path_factory.mktemp("own") / "frames", 5, seed=1)


def test_it_is_the_same_on_every_rank_in_every_process_and_after_a_resume(shards: Any) -> None:
    own = (_own("noise", width=9), _own("Hole", side=5))
    whole, plain = _batches(shards, own), _batches(shards, ())
    assert not any(torch.equal(x, y) for x, y in zip(whole, plain, strict=True))
    ranks = [_batches(shards, own, rank=rank, world_size=2) for rank in range(2)]
    for step, expected in enumerate(whole):
        assert {row.numpy().tobytes() for rank in ranks for row in rank[step]} == {
            row.numpy().tobytes() for row in expected
        }
    assert torch.equal(_batches(shards, own, start_step=1)[0], whole[1])
    for x, y in zip(_batches(shards, own, workers=1), whole, strict=True):
        assert torch.equal(x, y)


def test_changes_have_draws_of_their_own_and_leave_the_others_as_they_were(shards: Any) -> None:
    image = 3 * CROP[0] * CROP[1]
    (noisy, _), (both, _) = _batches(shards, (_own("noise"),)), _batches(shards, (_own("noise"), _own("Hole", side=5)))
    plain, _ = _batches(shards, ())
    assert torch.equal(noisy[:, :image], both[:, :image]) and torch.equal(noisy[:, image:], plain[:, image:])
    twice, _ = _batches(shards, (_own("noise"), _own("noise")))
    assert not torch.equal(twice[:, :image] - noisy[:, :image], noisy[:, :image] - plain[:, :image])


def test_its_arguments_are_not_changed_and_it_travels_without_its_object() -> None:
    own, image, label = _own("noise"), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    changed, _ = own(image, label, np.random.default_rng(0))
    assert changed.any() and not image.any()
    again, _ = pickle.loads(pickle.dumps(own))(image, label, np.random.default_rng(0))
    assert np.array_equal(changed, again)


def test_an_object_of_a_program_is_sent_to_a_process_that_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_objects", {"python:given:augment_0": Hole(2)})
    sent = pickle.dumps(OwnAugment("python:given:augment_0", {}, "data.augment.own.0"))
    references._objects.clear()
    _, label = pickle.loads(sent)(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.random.default_rng(0))
    assert (label == 255).sum() == 4


def _image_alone(image: Image, label: Label, generator: np.random.Generator) -> Any:
    return image


def _floats(image: Image, label: Label, generator: np.random.Generator) -> Any:
    return image / 255, label


def _smaller(image: Image, label: Label, generator: np.random.Generator) -> Any:
    return image, label[1:]


def _global(image: Image, label: Label, generator: np.random.Generator) -> Any:
    return image + np.uint8(random.randrange(9)), label


def _counting(image: Image, label: Label, generator: np.random.Generator, seen: list[int] = []) -> Any:  # noqa: B006
    seen.append(1)
    return image + np.uint8(len(seen)), label


def _other_ids(image: Image, label: Label, generator: np.random.Generator) -> Any:
    return image, np.full_like(label, 77)


def _failing(image: Image, label: Label, generator: np.random.Generator) -> Any:
    return image, label[generator.nothing]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("_image_alone", {}, "returned a ndarray"),
        ("_floats", {}, "returned the image as float64 16×24×3, not uint8 16×24×3"),
        ("_smaller", {}, "returned the label as uint8 15×24, not uint8 16×24"),
        ("_global", {}, "draws from a global generator[\\s\\S]*keyed by seed, step and image"),
        ("_counting", {}, "another crop when it is called again"),
        ("_other_ids", {}, r"makes labels \[77\][\s\S]*254 \(anomaly\)"),
        ("_failing", {}, "fails: AttributeError"),
        ("noise", {"widht": 3}, "fails: TypeError.*widht"),
        ("CROP", {}, "a tuple cannot be called"),
        ("nois", {}, "nothing called 'nois'"),
    ],
)
def test_what_is_no_augmentation_is_refused(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        _own(name, **arguments).tried(CROP, 4)
    assert error.value.where == "data.augment.own.0"


def test_a_configuration_names_it_with_arguments_or_without(tmp_path: Path) -> None:
    short = f"python:{__name__}:noise"
    own = AugmentConfig.model_validate({"own": [short, {"use": f"python:{__name__}:Hole", "arguments": {"side": 4}}]})
    data = DataConfig.model_validate(plain_config().data.model_dump() | {"augment": own})
    first, second = build.own_augmentations(data)
    assert (first.reference, first.arguments, first.where) == (short, {}, "data.augment.own.0")
    second.tried(CROP, 4)
    with pytest.raises(ValueError, match="should match pattern"):
        AugmentConfig.model_validate({"own": ["noise"]})
