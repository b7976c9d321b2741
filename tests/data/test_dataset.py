"""A Dataset as a stream: the batches of the same frames in shards, bit for bit; errors by stream and index."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgcda_dist.data.augment import AugmentParams, Transform
from mgcda_dist.data.dataset import DatasetReader, LabelIds, MapDataset, make_dataset
from mgcda_dist.data.loader import make_loader
from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.stream import FrameSource, TrainingStream
from mgcda_dist.errors import ConfigError, SampleError, ShardError
from mgcda_dist.method.batch import ANOMALY, VOID, Batch
from tests.support.datasets import Drawn, Frames
from tests.support.shards import LUT, frame, write_frames, write_objects

MIXED = Transform((32, 48), AugmentParams(scale=(0.5, 2.0), blur=0.5, class_mix=0.6, style=0.5))
STILL = Transform((60, 80), AugmentParams(scale=(1.0, 1.0), flip=0, brightness=0, contrast=0, saturation=0, blur=0))
ROAD8 = LabelIds.of_format("road8", "road8")
HERE = "tests.support.datasets"


def reader(dataset: MapDataset, ids: LabelIds = ROAD8) -> DatasetReader:
    return DatasetReader(dataset, "stream d", ids)


class Pair:
    """Two domains, one of them without labels, both with objects: over shards, and over Datasets of the same pixels."""

    def __init__(self, folder: Path) -> None:
        self.shards = [
            write_frames(folder / "a", 7, seed=1, per_shard=8),
            write_frames(folder / "b", 5, seed=2, per_shard=8),
        ]
        self.paste = PasteSource(ObjectLibrary(ShardReader(write_objects(folder / "objects", 3))), PasteParams())

    def stream(self, *, shards: bool, transform: Transform = MIXED, **options: Any) -> TrainingStream:
        own = [reader(Frames(7, 1)), reader(Frames(5, 2))]
        readers = [ShardReader(m) for m in self.shards] if shards else own
        sizes = [m.shard_sizes for m in (self.shards if shards else own)]
        sources = [
            FrameSource("a", readers[0], LUT, paste=self.paste),
            FrameSource("b", readers[1], LUT, labelled=False, paste=self.paste, domain=1),
        ]
        plan = Plan([StreamPlan(n, size, 2) for n, size in zip("ab", sizes, strict=True)], 3, 8)
        return TrainingStream(plan, sources, transform, weak_views=True, **options)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("dataset"))


def same(first: Batch, second: Batch) -> bool:
    names = ("image", "label", "domain", "slot", "unlabelled", "weak")
    return first.step == second.step and all(torch.equal(getattr(first, n), getattr(second, n)) for n in names)


@pytest.mark.parametrize("rank", [None, 0, 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_are_those_of_the_same_frames_in_shards(pair: Pair, rank: int | None, workers: int) -> None:
    """With objects, class mix, exchange of style and the teacher's view; over two epochs; on parts of ranks."""
    options: dict[str, Any] = {"num_steps": 6, "accumulation": 2 if rank is None else 1}
    options |= {} if rank is None else {"rank": rank, "world_size": 2}
    expected = list(make_loader(pair.stream(shards=True, **options)))
    found = list(make_loader(pair.stream(shards=False, **options), workers))
    assert all(same(*both) for both in zip(found, expected, strict=True))
    labels = {value for batch in found for value in batch.label.unique().tolist()}
    assert {0, ANOMALY, VOID} <= labels, "classes, objects and what has no label"
    keys = {key for batch in found for key in batch.keys}
    assert all(re.fullmatch(r"[ab]/00000\d", key) for key in keys)


def test_a_later_start_gives_the_same_batches(pair: Pair) -> None:
    whole = list(make_loader(pair.stream(shards=False, num_steps=6)))
    resumed = list(make_loader(pair.stream(shards=False, start_step=2, num_steps=4), workers=2))
    assert all(same(*both) for both in zip(resumed, whole[2:], strict=True))


def test_a_stream_that_is_sent_to_a_spawned_process_is_the_same(pair: Pair) -> None:
    stream = pair.stream(shards=False)
    assert same(pickle.loads(pickle.dumps(stream))[0], stream[0])


def test_the_memory_of_a_dataset_is_never_written_to(pair: Pair) -> None:
    """Also where crop and frame are one size, so that nothing on the way need copy."""
    items = [(np.full((60, 80, 3), 9, np.uint8), np.zeros((60, 80), np.uint8))]
    always = PasteSource(pair.paste.objects, PasteParams(probability=1.0, scale=(0.3, 0.6)))
    source = FrameSource("d", reader(items), LUT, paste=always)
    stream = TrainingStream(Plan([StreamPlan("d", np.array([1]), 2)], 0, 1), [source], STILL)
    assert ANOMALY in stream[0].label
    assert (items[0][0] == 9).all() and not items[0][1].any()


def test_a_frame_is_the_item_and_its_index() -> None:
    found = reader(Frames(4)).frame(3)
    assert found.key == "000003" and found.where == "stream d: item 3"
    np.testing.assert_array_equal(found.ids, frame(3)[1])
    assert reader(Frames(4)).frame(3, labelled=False).ids is None


def test_a_very_large_dataset_is_planned_in_chunks() -> None:
    assert reader(range(3)).shard_sizes.tolist() == [3]
    sizes = reader(range(3 * 2**20 + 5)).shard_sizes
    assert sizes.tolist() == [2**20] * 3 + [5]


def test_errors_of_an_item_are_named_with_index_and_line() -> None:
    with pytest.raises(SampleError) as caught:
        reader(Frames(4, damaged=(2,))).frame(2)
    assert caught.value.where == "stream d: item 2"
    assert re.match(r"OSError: cannot read frame 2 \(.*tests/support/datasets\.py:\d+\)$", caught.value.problem)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_items_end_the_run_or_have_stand_ins(workers: int) -> None:
    def stream(number: int, damaged: tuple[int, ...], policy: Any, **options: Any) -> TrainingStream:
        source = FrameSource("d", reader(Frames(number, damaged=damaged)), LUT)
        plan = Plan([StreamPlan("d", np.array([number]), 2)], 0, 1)
        return TrainingStream(plan, [source], MIXED, num_steps=5, on_bad_sample=policy, **options)

    with pytest.raises(SampleError, match="stream d: item 2: OSError: cannot read frame 2"):
        list(make_loader(stream(6, (2,), "error"), workers))
    whole = list(make_loader(stream(6, (2, 5), "skip"), workers))
    bad = [text for batch in whole for text in batch.bad]
    assert {int(re.findall(r"stream d: item (\d)", text)[0]) for text in bad} == {2, 5}
    for rank in (0, 1):
        part = list(make_loader(stream(6, (2, 5), "skip", rank=rank, world_size=2), workers))
        assert all(torch.equal(p.image[0], w.image[rank]) for p, w in zip(part, whole, strict=True))
    with pytest.raises(ShardError, match=r"21 samples in a row are damaged[\s\S]*read these items yourself"):
        stream(2, (0, 1), "skip")[0]


def test_ids_that_mean_nothing_are_refused() -> None:
    label = np.array([[0, 1], [9, 9]], np.uint8)
    items = [(np.zeros((2, 2, 3), np.uint8), label)]
    with pytest.raises(SampleError, match=r"item 0: the label holds 9, which is not a train id .*50\.00%") as caught:
        reader(items, LabelIds.train_ids(8)).frame(0)
    assert "0 … 7, 253" in caught.value.remedy and "label_format" in caught.value.remedy
    with pytest.raises(SampleError, match="not an id that road8 knows"):
        reader(items, ROAD8).frame(0)
    np.testing.assert_array_equal(reader(items, LabelIds.train_ids(10)).frame(0).ids, label)
    assert LabelIds.train_ids(3).table[[0, 2, 3, 253, 254, 255]].tolist() == [0, 2, 255, 253, 254, 255]


def test_the_digest_tells_length_and_content() -> None:
    digest = reader(Frames(6)).digest()
    assert digest == reader(Frames(6)).digest()
    others = [Frames(7), Frames(6, seed=1), Frames(6, labelled=False), Frames(6, damaged=(3,))]
    found = {digest, *(reader(other).digest() for other in others)}
    assert len(found) == 5


def test_the_digest_does_not_depend_on_the_form_of_an_item() -> None:
    items = [frame(i) for i in range(3)]
    tensors = [
        {"image": torch.from_numpy(image).permute(2, 0, 1), "label": torch.from_numpy(label).long()}
        for image, label in items
    ]
    assert reader(items).digest() == reader(tensors).digest()


def test_a_fingerprint_counts() -> None:
    marked = Frames(6)
    marked.fingerprint = "release 2"  # pyright: ignore[reportAttributeAccessIssue]
    assert reader(marked).digest() != reader(Frames(6)).digest()


def test_an_item_that_changes_is_refused() -> None:
    with pytest.raises(ShardError, match=r"stream d: item 0: differs when it is read a second time") as caught:
        reader(Drawn(6)).digest()
    assert "data.augment" in caught.value.remedy


@pytest.mark.parametrize("name", ["Frames", "frames"])
def test_a_class_or_function_is_called(name: str) -> None:
    made = make_dataset("here", f"python:{HERE}:{name}", {"number": 3, "seed": 2})
    assert isinstance(made, Frames) and (len(made), made.seed) == (3, 2)


def test_an_object_is_taken() -> None:
    assert len(make_dataset("here", f"python:{HERE}:ITEMS", {})) == 3


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("Frame", {}, "nothing called 'Frame'"),
        ("Frames", {}, "missing a required argument: 'number'"),
        ("Frames", {"number": 1, "rot": "x"}, "unexpected keyword argument 'rot'"),
        ("ITEMS", {"number": 1}, "is a list already, and takes no dataset_arguments"),
        ("Stream", {}, "an IterableDataset, whose items have no index"),
        ("Endless", {}, "is a Endless without __len__"),
    ],
)
def test_what_makes_no_dataset_is_named(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_dataset("here", f"python:{HERE}:{name}", arguments)


def test_an_error_of_its_own_is_told_with_its_line() -> None:
    says = r"cannot be made: FileNotFoundError: no folder data \(.*support/datasets\.py:\d+\)"
    with pytest.raises(ConfigError, match=says) as caught:
        make_dataset("here", f"python:{HERE}:Broken", {"root": "data"})
    assert "absolute" in caught.value.remedy


def test_a_dataset_without_items_or_length_is_refused() -> None:
    with pytest.raises(ShardError, match="stream d: the Dataset holds no item"):
        reader([])

    class Long:
        def __len__(self) -> int:
            raise NotImplementedError("not yet")

        def __getitem__(self, index: int) -> Any:
            return None

    with pytest.raises(ConfigError, match=r"length of the Dataset: NotImplementedError: not yet"):
        reader(Long())
    with pytest.raises(SampleError, match="item 0: the Dataset gave None"):
        reader([None]).frame(0)
