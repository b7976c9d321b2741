"""Shards that can only be streamed, gzip tars and commands: the batches of plain ones, and no command of a stranger."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import shutil
import subprocess
import threading
import time
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mgcda_dist.config.load import load_config
from mgcda_dist.data.augment import AugmentParams, Transform
from mgcda_dist.data.frames import EvaluationFrames
from mgcda_dist.data.loader import make_loader
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards import remote
from mgcda_dist.data.shards.encode import EncodedSample
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.roles import Extensions
from mgcda_dist.data.shards.streamed import split_place, unpack
from mgcda_dist.data.shards.tar import ShardFile
from mgcda_dist.data.stream import FrameSource, TrainingStream
from mgcda_dist.doctor.node import _shards
from mgcda_dist.errors import ConfigError, ShardError, TransientError
from mgcda_dist.runs.evaluation_request import sets_of
from tests.support.configs import plain_content, write_config
from tests.support.shards import LUT, all_samples, verified, write_frames

pytestmark = pytest.mark.usefixtures("cache")
NAMES = [f"shard-{i:06d}.tar" for i in range(4)]


@pytest.fixture
def local(tmp_path: Path) -> Manifest:
    """Eleven frames in four plain shards."""
    return write_frames(tmp_path / "plain", 11, per_shard=3)


def _place(form: str, local: Manifest, folder: Path) -> str:
    """The same shards once more, where they can only be streamed; each stream is logged."""
    if form == "pipe":
        log = f"echo {{}} >> {folder}/streams"
        place, names = f"{folder}/theirs pipe:{log}; cat {local.folder}/{{}}", NAMES
    else:
        place, names = str(folder / "theirs"), list[str]()
        (folder / "theirs").mkdir()
        for tar in local.folder.glob("*.tar"):
            (folder / "theirs" / f"{tar.name}.gz").write_bytes(gzip.compress(tar.read_bytes()))
    index_shards(place, names, dataset="made", split="train", label_format="road8")
    return place


def _batches(
    manifest: Manifest, steps: range = range(8), rank: int = 0, size: int = 1, workers: int = 0
) -> list[tuple[Tensor, tuple[str, ...]]]:
    source = FrameSource("d", ShardReader(manifest), LUT)
    plan = Plan([StreamPlan("d", manifest.shard_sizes, 4)], 0, 2)
    stream = TrainingStream(
        plan, [source], Transform((32, 48), AugmentParams()), rank=rank, world_size=size, start_step=steps.start,
        num_steps=len(steps),
    )  # fmt: skip
    return [(batch.image, batch.keys) for batch in make_loader(stream, workers)]


@pytest.mark.parametrize("form", ["gzip", "pipe"])
def test_the_same_batches_for_every_number_of_ranks_and_processes_and_after_a_resume(
    form: str, local: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.open(_place(form, local, tmp_path))
    assert manifest.shard_sizes.tolist() == local.shard_sizes.tolist()
    assert manifest.table["sha256"].tolist() == local.table["sha256"].tolist(), "unpacked, the bytes are those of ours"
    assert manifest.label_histogram == local.label_histogram
    expected = _batches(local)
    for size, workers in ((1, 0), (1, 2), (2, 0), (4, 2)):
        monkeypatch.setenv("MGCDA_CACHE", str(tmp_path / f"empty-{size}-{workers}"))
        parts = [_batches(manifest, rank=rank, size=size, workers=workers) for rank in range(size)]
        for step, (image, keys) in enumerate(expected):
            assert torch.equal(torch.cat([part[step][0] for part in parts]), image)
            assert sum((part[step][1] for part in parts), ()) == keys
    resumed = _batches(manifest, steps=range(5, 8), workers=2)
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(resumed, expected[5:], strict=True))


def test_indexing_streams_once_and_training_not_again(
    local: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.open(_place("pipe", local, tmp_path))
    _batches(manifest, workers=2)
    assert sorted((tmp_path / "streams").read_text().split()) == NAMES
    monkeypatch.setenv("MGCDA_CACHE", str(tmp_path / "empty"))
    _batches(manifest, workers=2)  # the processes of a machine share its mirror
    assert sorted((tmp_path / "streams").read_text().split()) == sorted(2 * NAMES)


def test_a_full_mirror_drops_shards_and_readers_keep_their_data(
    local: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 2 * int(local.table["num_bytes"].max())
    monkeypatch.setenv("MGCDA_CACHE_GB", str(bound / 1e9))
    manifest = Manifest.open(_place("pipe", local, tmp_path))
    reader = ShardReader(manifest)
    first = reader.read(0)
    for _ in range(2):
        assert all_samples(manifest) == all_samples(local)
        assert sum(stat.st_size for _, stat in remote._tars(tmp_path / "cache")) <= bound
    assert not list((tmp_path / "cache").rglob("shard-000000*.tar"))
    assert reader.read(0) == first, "a dropped file stays readable for a reader that has it open"


def test_one_sample_at_a_time_is_in_memory(tmp_path: Path) -> None:
    large = ShardFile(tmp_path / "large.tar")
    for number in range(64):
        large.add(EncodedSample(f"s{number}", bytes([number]) * 2**20, "jpg", b"", b""))
    large.finish("large.tar")
    (tmp_path / "large.tar.gz").write_bytes(gzip.compress((tmp_path / "large.tar").read_bytes(), 1))
    tracemalloc.start()
    with (tmp_path / "large.tar.gz").open("rb") as stream:
        unpack(stream, tmp_path / "again.tar", "large.tar.gz", Extensions())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * 2**20, f"{peak / 2**20:.1f} MiB for a shard of 64"
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "large.tar").read_bytes()


@pytest.mark.parametrize("form", ["gzip", "pipe"])
def test_every_command_reads_the_place(form: str, local: Manifest, tmp_path: Path) -> None:
    place = _place(form, local, tmp_path)
    assert verified(place).problems == []
    frames = EvaluationFrames(Manifest.open(place), LUT)
    assert [frames[i].key for i in range(len(frames))] == frames.keys
    (entry,) = sets_of([f"name={place}"])
    assert (entry.name, entry.shards) == ("name", place)
    assert _shards(place) == {"digest": Manifest.open(place).digest, "num_samples": 11}
    domain = {"name": "a", "shards": place.replace(str(tmp_path), "."), "per_step": 1}
    write_config(tmp_path / "x.yaml", plain_content(data={"streams": [domain]}, mdat={"enabled": False}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        loaded = load_config("x.yaml")
        loaded.check_files()
    shards = loaded.config.data.streams[0].shards
    assert shards is not None and Manifest.open(shards).digest == Manifest.open(place).digest


def test_a_manifest_runs_no_command(local: Manifest, tmp_path: Path) -> None:
    """Wherever a stranger's folder names one: in a field, in the options, as a shard's name."""
    place = _place("pipe", local, tmp_path)
    folder = Path(split_place(place)[0])
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "streams").unlink()
    content = json.loads((folder / "manifest.json").read_text())
    assert "cat " not in json.dumps(content) and "pipe:" not in json.dumps(content)
    command = f"touch {tmp_path}/run"
    content |= {"command": command, "folder": f"x pipe:{command} {{}}"}
    content["options"]["streamed"]["image"] = [f"pipe:{command}"]
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ShardError, match="its shards come from a command, which a manifest never holds"):
        ShardReader(Manifest.open(folder)).read(0)
    manifest = Manifest.open(place)
    table = manifest.table.copy()
    table["name"][0] = b"$(touch run).tar"
    object.__setattr__(manifest, "table", table)
    with pytest.raises(ShardError, match="not a plain file name"):
        manifest.shard_path(0)
    assert not (tmp_path / "run").exists() and not (tmp_path / "streams").exists()


def test_failures_name_the_shard_and_never_the_command(local: Manifest, tmp_path: Path) -> None:
    place = _place("pipe", local, tmp_path)
    folder = split_place(place)[0]
    shutil.rmtree(tmp_path / "cache")

    def read(command: str) -> None:
        ShardReader(Manifest.open(f"{folder} pipe:{command}")).read(0)

    with pytest.raises(TransientError, match=r"theirs/shard-000000\.tar: .*6 tries: .*exit code 7") as failed:
        read("echo {} secret > /dev/null; exit 7")
    assert "secret" not in str(failed.value)
    with pytest.raises(ShardError, match="not a whole tar file"):
        read(f"head -c 3000 {local.folder}/{{}}")
    with pytest.raises(ShardError, match=r"bytes arrive instead|checksum differs"):
        read(f"cat {local.folder}/{{}} > /dev/null; cat {local.folder}/shard-000001.tar")
    with pytest.raises(TransientError, match="exit code 9"):
        read(f"cat {local.folder}/{{}}; exit 9")
    read(f"mkdir {tmp_path}/once && exit 1; cat {local.folder}/{{}}")  # the second try succeeds
    for wrong in (f"{folder} pipe:cat x", " pipe:cat {}"):
        with pytest.raises(ConfigError, match=r"the command does not name the shard|no folder for the manifest"):
            Manifest.open(wrong)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_process_forked_while_a_command_starts_does_not_keep_its_output_open(
    local: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadlock: the thread held the shard's lock, which the loader processes that it waited for asked for."""
    manifest = Manifest.open(_place("pipe", local, tmp_path))
    monkeypatch.setenv("MGCDA_CACHE", str(tmp_path / "empty"))
    started, fork_exec = threading.Event(), subprocess._fork_exec  # pyright: ignore[reportAttributeAccessIssue]

    def slow(*args: Any) -> int:
        pid = fork_exec(*args)
        started.set()
        time.sleep(0.5)
        return pid

    monkeypatch.setattr(subprocess, "_fork_exec", slow)
    reading = threading.Thread(target=manifest.shard_path, args=(0,), daemon=True)
    reading.start()
    assert started.wait(60)
    loader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
    loader.start()
    reading.join(30)
    loader.kill()
    loader.join()
    assert not reading.is_alive()


def test_a_damaged_gzip_file_is_refused_at_once(local: Manifest, tmp_path: Path) -> None:
    manifest = Manifest.open(_place("gzip", local, tmp_path))
    shutil.rmtree(tmp_path / "cache")
    path = manifest.folder / "shard-000000.tar.gz"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ShardError, match=r"shard-000000\.tar\.gz: not a whole tar file"):
        ShardReader(manifest).read(0)
    assert [problem.shard for problem in verified(manifest.folder).problems] == ["shard-000000.tar.gz"]
    with pytest.raises(ShardError, match="not a whole tar file"):
        index_shards(manifest.folder, dataset="d", split="s", label_format="road8", overwrite=True)


def test_shards_of_our_own_can_be_streamed(local: Manifest, tmp_path: Path) -> None:
    """A folder that was written here and copied to where only a command reaches it."""
    (tmp_path / "away").mkdir()
    for tar in local.folder.glob("*.tar"):
        tar.rename(tmp_path / "away" / tar.name)
    manifest = Manifest.open(f"{local.folder} pipe:cat {tmp_path}/away/{{}}")
    reader = ShardReader(manifest)
    assert [sample.key for sample in islice(map(reader.read, range(11)), 3)] == [f"plain-{i:05d}" for i in range(3)]
