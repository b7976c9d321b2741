"""Samples by number, across shards, processes and damage."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mgcda_dist.data.lru_cache import LruCache
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.errors import SampleError, ShardError
from tests.support.shards import write_frames


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_frames(tmp_path_factory.mktemp("reader") / "frames", 10, per_shard=4)


def test_reads_what_tar_reads(manifest: Manifest):
    reader = ShardReader(manifest)
    assert len(reader) == 10
    expected: list[tuple[str, bytes, bytes]] = []
    for shard in range(manifest.num_shards):
        with tarfile.open(manifest.shard_path(shard)) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # pyright: ignore[reportOptionalMemberAccess]
        keys = sorted({name.split(".")[0] for name in members})
        expected += [(key, members[f"{key}.jpg"], members[f"{key}.label.png"]) for key in keys]
    for index in np.random.default_rng(0).permutation(10).tolist():
        sample = reader.read(index)
        assert (sample.key, sample.image, sample.label) == expected[index]
        assert sample.where.endswith(f".tar: {sample.key}")


def test_a_sample_without_label(tmp_path: Path):
    assert ShardReader(write_frames(tmp_path / "bare", 2, labelled=False)).read(1).label is None


def test_pickled_and_forked_readers_read_the_same(manifest: Manifest):
    reader = ShardReader(manifest)
    before = [reader.read(index) for index in range(10)]
    copy = pickle.loads(pickle.dumps(reader))
    assert [copy.read(index) for index in range(10)] == before
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child reads through the descriptors it inherited
        os.write(send, b"same" if [reader.read(index) for index in range(10)] == before else b"else")
        os._exit(0)
    assert [reader.read(index) for index in reversed(range(10))] == before[::-1]
    os.waitpid(pid, 0)
    assert os.read(receive, 4) == b"same"
    os.close(receive)
    os.close(send)


def test_close_closes_the_files(manifest: Manifest):
    def num_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = num_files()
    reader = ShardReader(manifest)
    for index in range(10):
        reader.read(index)
    assert num_files() == before + manifest.num_shards
    reader.close()
    assert num_files() == before
    reader.read(0)
    del reader
    assert num_files() == before


def test_damage_is_named(tmp_path: Path):
    manifest = write_frames(tmp_path / "hurt", 6, per_shard=3)
    os.truncate(manifest.shard_path(1), 1000)
    manifest.shard_path(0).unlink()
    reader = ShardReader(manifest)
    with pytest.raises(ShardError, match=r"shard-000000\.tar: cannot be opened: No such file"):
        reader.read(0)
    with pytest.raises(ShardError, match=r"shard-000001\.tar: hurt-00005: the shard ends \d+ bytes before the sample"):
        reader.read(5)
    for index in (-1, 6):
        with pytest.raises(ShardError, match=f"sample {index} is not among its 6"):
            reader.read(index)


@pytest.mark.parametrize(("field", "value"), [("label_offset", 2**63 + 5), ("image_bytes", 2**32 - 1)])
def test_a_sample_table_that_points_beyond_its_shard_is_damage_too(tmp_path: Path, field: str, value: int):
    manifest = write_frames(tmp_path / "astray", 3, per_shard=3)
    index = manifest.shard_index(0)
    index[field][1] = value
    np.save(manifest.folder / "shard-000000.idx.npy", index)
    reader = ShardReader(manifest)
    assert reader.read(0).key == "astray-00000"
    with pytest.raises(SampleError, match=r"astray-00001: the shard ends \d+ bytes before the sample"):
        reader.read(1)


def test_the_cache_drops_values_not_used_for_longest():
    made: list[str] = []
    dropped: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key

    cache: LruCache[str, str] = LruCache(make, 5, weigh=len, drop=dropped.append)
    for key in ("aa", "bb", "aa", "cc", "aa"):
        assert cache[key] == key
    assert (made, dropped) == (["aa", "bb", "cc"], ["bb"])
    assert cache["a long one stays"] == "a long one stays"
    assert len(cache) == 1
    cache.clear()
    assert len(cache) == 0
