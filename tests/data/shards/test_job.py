"""Shards made by jobs, on other nodes: the bytes of one process, whatever finishes first, is killed or changes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mgcda_dist.data.shards.job import ShardJob, WrittenShard
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ShardError
from tests.data.shards.test_write import content, frame


class Item(NamedTuple):
    key: str
    number: int


def load(item: Item) -> SourceSample:
    return frame(item.number)


def samples(*numbers: int) -> LazySamples:
    return LazySamples([Item(frame(number).key, number) for number in numbers], load)


def write(given: LazySamples, folder: Path, **changes: object) -> Manifest:
    arguments = {"dataset": "toy", "split": "train", "label_format": "road8", "samples_per_shard": 4} | changes
    return write_shards(given, folder, **arguments)  # pyright: ignore[reportArgumentType]


def anywhere(function: Callable[[ShardJob], WrittenShard], jobs: Iterable[ShardJob]) -> Iterator[WrittenShard]:
    """As nodes do: jobs and results travel, and the last job is done first."""
    travelled = [pickle.dumps(job) for job in jobs]
    results = [pickle.dumps(function(pickle.loads(job))) for job in reversed(travelled)]
    return (pickle.loads(result) for result in reversed(results))


def until_lost(num_shards: int) -> Callable[..., Iterator[WrittenShard]]:
    def mapped(function: Callable[[ShardJob], WrittenShard], jobs: Iterable[ShardJob]) -> Iterator[WrittenShard]:
        for i, result in enumerate(anywhere(function, jobs)):
            if i == num_shards:
                raise ConnectionError("the driver was cut off")
            yield result

    return mapped


@pytest.mark.parametrize("count", [1, 4, 11])
def test_the_bytes_are_those_of_one_process(tmp_path: Path, count: int) -> None:
    one = write(samples(*range(count)), tmp_path / "a/toy")
    seen: list[int] = []
    other = write(samples(*range(count)), tmp_path / "b/toy", elsewhere=anywhere, progress=seen.append)
    assert content(tmp_path / "a/toy") == content(tmp_path / "b/toy")
    assert one.digest == other.digest and sum(seen) == count


@pytest.mark.parametrize("here", [True, False])
def test_an_interrupted_write_goes_on_elsewhere_or_here(tmp_path: Path, here: bool) -> None:
    write(samples(*range(11)), tmp_path / "a/toy")
    folder = tmp_path / "b/toy"
    with pytest.raises(ConnectionError):
        write(samples(*range(11)), folder, elsewhere=until_lost(2))
    kept = {name: (folder / f"shard-00000{name}.tar").stat().st_mtime_ns for name in (0, 1)}
    write(samples(*range(11)), folder, **({} if here else {"elsewhere": anywhere}))
    assert content(tmp_path / "a/toy") == content(folder)
    assert kept == {name: (folder / f"shard-00000{name}.tar").stat().st_mtime_ns for name in (0, 1)}, "not made again"


@pytest.mark.parametrize("changed", [(0, 1, 2, 9, 4, 5, 6, 7, 8), (0, 1, 2), (0, 1, 2, 3, 4)])
def test_a_source_that_changed_meanwhile_is_refused(tmp_path: Path, changed: tuple[int, ...]) -> None:
    with pytest.raises(ConnectionError):
        write(samples(*range(9)), tmp_path, elsewhere=until_lost(2))
    with pytest.raises(ShardError, match="the source changed since the interrupted write"):
        write(samples(*changed), tmp_path, elsewhere=anywhere)


def test_two_samples_of_one_key_in_different_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="two samples have this key"):
        write(samples(0, 1, 2, 3, 4, 1), tmp_path, elsewhere=anywhere)
    assert not (tmp_path / "manifest.json").exists()


def test_a_folder_that_the_nodes_do_not_share_is_named(tmp_path: Path) -> None:
    def local_disk(function: Callable[[ShardJob], WrittenShard], jobs: Iterable[ShardJob]) -> Iterator[WrittenShard]:
        for job in jobs:
            result = function(job)
            job.path.rename(tmp_path / "another node's disk.tar")
            yield result

    with pytest.raises(ShardError, match=r"shard-000000.tar: a node has written it, and it is not here"):
        write(samples(0, 1), tmp_path / "out", elsewhere=local_disk)


def test_a_photo_that_a_node_does_not_see_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    lost = LazySamples([Item("a", 0)], lambda _: SourceSample("a", gone.read_bytes(), "png"))
    with pytest.raises(ShardError, match=r"gone.png: No such file.*\n.*under the same path on all nodes"):
        write(lost, tmp_path / "out", elsewhere=map)
