"""A reader of the user's own program: options, split and checks; every mistake names the reader and its part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.sources.own import own_source
from mgcda_dist.errors import ConfigError, MgcdaError
from tests.cluster.test_spread import write_source
from tests.data.shards.test_write import content
from tests.support import readers
from tests.support.commands import typed

HERE = "python:tests.support.readers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("own") / "src", 5)
    (folder / "images/train/notes.txt").write_text("passed over")
    return folder


@pytest.mark.parametrize("name", ["Frames", "SOURCE"])
def test_the_shards_are_those_of_a_reader_of_the_package(folder: Path, tmp_path: Path, name: str) -> None:
    """The same bytes, with ledger, options and a sample left out, and the reference in the manifest."""
    words = ("--samples-per-shard", 2, "--skip", "003", "--workers", 2)
    done = typed("shards", "write", f"{HERE}:{name}", folder, tmp_path / "own", "--option", "first=4", *words)
    assert done.returncode == 0 and "3 taken, 2 passed over" in done.stdout, done.stderr
    plain = typed("shards", "write", "plain", folder, tmp_path / "plain", "--label-format", "road8", *words, "--skip",
                  "004")  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    assert {n: b for n, b in content(tmp_path / "own").items() if n.endswith(".tar")} == {
        n: b for n, b in content(tmp_path / "plain").items() if n.endswith(".tar")
    }
    manifest = Manifest.open(tmp_path / "own")
    assert (manifest.dataset, manifest.label_format) == ("my_frames" if name == "Frames" else "my_source", "road8")
    assert manifest.provenance["reader"] == f"{HERE}:{name}"
    assert manifest.provenance["selection"] == {"first": 4, "skip": ["003"]}


def test_a_write_that_was_interrupted_goes_on(folder: Path, tmp_path: Path) -> None:
    words = ("shards", "write", f"{HERE}:Frames", folder, tmp_path / "own", "--samples-per-shard", 2)
    label = folder / "labels/train/004.png"
    kept = label.read_bytes()
    label.write_bytes(b"no picture")
    assert typed(*words).returncode == 2
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "own").glob("*.tar")}
    label.write_bytes(kept)
    assert finished and typed(*words).returncode == 0
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    assert Manifest.open(tmp_path / "own").num_samples == 5


def test_unlabelled_images_and_another_split(folder: Path, tmp_path: Path) -> None:
    done = typed("shards", "write", f"{HERE}:Frames", folder, tmp_path / "own", "--unlabelled")
    assert done.returncode == 0 and Manifest.open(tmp_path / "own").label_format == "unlabelled"
    done = typed("shards", "write", f"{HERE}:Frames", folder, tmp_path / "val", "--split", "val")
    assert done.returncode == 2 and "images/val: no such folder" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--option", "first"], "'first' is not of the form NAME=VALUE"),
        (["--option", "frist=3"], "--option: my_frames has no option 'frist'\n  → did you mean first?"),
        (["--coarse"], "--coarse: my_frames has no such option"),
    ],
)
def test_an_option_that_the_reader_lacks_is_named(folder: Path, tmp_path: Path, words: list[str], says: str) -> None:
    done = typed("shards", "write", f"{HERE}:Frames", folder, tmp_path / "own", *words)
    assert done.returncode == 2 and says in done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Frame", "nothing called 'Frame'"),
        ("NoName", "python:tests.support.readers:NoName: NoName has no name\n"),
        ("BARE", "dict has no name and no open"),
        ("Opens", "cannot be made without arguments: TypeError"),
        ("Named", "'camvid' is the name of a reader of this package"),
    ],
)
def test_a_reader_that_lacks_a_part_is_named(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own_source("DATASET", f"{HERE}:{name}")
    assert says in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("a list", "open returned a list, not a SourceSet"),
        ("plain items", "the samples of its SourceSet are a list, not a LazySamples"),
        ("paths", "item 0 of its samples, a str, has no key"),
        ("a format", "no label format 'road9'"),
        ("an error", r"open: ZeroDivisionError: .* (…readers.py:"),
        ("another key", "000: the sample has another key than its item: 'other'"),
        ("a pair", "000: its load returned a tuple, not a SourceSample"),
        ("pixels", "000: the sample's image is a list"),
        ("a missing file", "000: FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/000'"),
    ],
)
def test_what_a_reader_yields_is_checked(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, says: str) -> None:
    monkeypatch.setattr(readers, "BARE", readers.opening(what))
    with pytest.raises(MgcdaError) as caught:
        list(own_source("DATASET", f"{HERE}:BARE").open(folder, "train").samples)
    first, _, last = says.partition(" .* (…")
    assert first in str(caught.value) and last in str(caught.value) and caught.value.remedy
    assert what == "a format" or f"{HERE}:BARE" in caught.value.where


def test_a_manifest_says_what_was_passed_over(folder: Path, tmp_path: Path) -> None:
    typed("shards", "write", f"{HERE}:Frames", folder, tmp_path / "own")
    ledger = json.loads((tmp_path / "own/manifest.json").read_text())["provenance"]["ledger"]
    assert ledger["taken"] == 5 and ledger["passed_over"][0]["first"] == ["train/notes.txt"]
