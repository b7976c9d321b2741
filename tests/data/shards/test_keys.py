"""Names of any script become keys that stay apart, lead back to the name, and are read by every reader."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgcda_dist.data.shards import members, tables
from mgcda_dist.data.shards.encode import png_bytes
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.keys import is_key, original_name, safe_key
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.remote import ShardCache
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.data.shards.streamed import STREAMED
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ShardError
from tests.support.shards import all_samples, verified
from tests.support.tars import plain_tar

NAMES = [
    "道路", "天空", "дорога", "straße (1).v2", "strasse", "a b", "a_b", "a.b", "A_B", "a%20b", "a%2520b", "ünal",
    "u\u0308nal", "🚗", "👨\u200d👩\u200d👧", "हिन्दी", "a\u00a0b", "a\tb", "\u202eabc", "%", "..", "-",
]  # fmt: skip
LONG = ["道" * 83, "道" * 82 + "天", "x" * 251, "x" * 250 + "y", "x" + "." * 250]


def png(value: int) -> bytes:
    return png_bytes(np.full((8, 8, 3), (value, 200, 90), np.uint8))  # in colour: no label


def keys(manifest: Manifest) -> list[str]:
    return [key for key, _, _ in all_samples(manifest)]


@given(st.lists(st.text(st.characters(codec=None, exclude_characters="/"), min_size=1, max_size=300), max_size=4))
def test_a_key_leads_back_to_its_name(parts: list[str]) -> None:
    name = "/".join(part.encode("utf-8", "replace").decode() for part in parts)
    key = safe_key(name)
    assert original_name(key) == name
    assert key.isprintable() and "." not in key and "\\" not in key
    assert is_key(key) == bool(parts)
    for part in key.split("/"):
        assert len(part.encode()) <= 240


@pytest.mark.parametrize("name", ["x_Y-0", "drive/0_leftImg8bit", "道路/дорога"])
def test_what_is_safe_stays_as_it_is(name: str) -> None:
    assert safe_key(name) == name


def test_the_code_is_that_of_urls() -> None:
    assert safe_key("a.b c") == "a%2Eb%20c" and unquote(safe_key("straße (1).v2")) == "straße (1).v2"
    assert safe_key(os.fsdecode(b"stra\xdfe")) == "stra%DFe"
    assert os.fsencode(original_name("stra%DFe")) == b"stra\xdfe"


@pytest.mark.parametrize("text", ["", "a.b", "a//b", "/a", "a b", "100%", "a%2eb", "a\n"])
def test_other_texts_are_no_keys(text: str) -> None:
    assert not is_key(text)


def test_file_names_stay_apart_and_lead_back(tmp_path: Path) -> None:
    names = [*(name for name in NAMES if name != ".."), *LONG, os.fsdecode(b"stra\xdfe")]
    (tmp_path / "in").mkdir()
    for value, name in enumerate(names):
        try:
            (tmp_path / "in" / f"{name}.png").write_bytes(png(value))
        except OSError:
            pytest.skip("this file system does not take every name")
    opened = SOURCES["plain"].open(tmp_path / "in", "train", unlabelled=True)
    manifest = write_shards(opened.samples, tmp_path / "out", dataset="x", split="train", label_format="unlabelled")
    found = {original_name(key): image for key, image, _ in all_samples(manifest)}
    assert found == {name: png(value) for value, name in enumerate(names)}
    assert verified(tmp_path / "out").problems == []
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert sum(path.is_file() for path in (tmp_path / "unpacked").rglob("*")) == len(names)


def test_keys_that_are_not_safe_are_refused_with_one_that_is(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"'a\.b': not a sample key\n  → `safe_key` makes it 'a%2Eb'"):
        write_shards([SourceSample("a.b", png(0), "png")], tmp_path, dataset="x", split="x", label_format="binary")


def foreign() -> dict[str, bytes]:
    """Of a foreign tar; a name ends at the first dot of its file."""
    names = [name for name in NAMES if "." not in name]
    return {f"{name}.png": png(value) for value, name in enumerate([*names, *(f"f.{n}/x" for n in names), *LONG[:4]])}


@pytest.mark.parametrize("packed", [False, True])
def test_foreign_tars_have_the_same_keys(tmp_path: Path, packed: bool, cache: ShardCache) -> None:
    plain_tar(tmp_path / "a.tar", foreign())
    with tarfile.open(tmp_path / "latin.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in ("stra\xdfe.png", "gr\xfcn/\xdf.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png(0))
            tar.addfile(member, io.BytesIO(png(0)))
    for path in list(tmp_path.glob("*.tar")) if packed else []:
        path.with_suffix(".tgz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    manifest = index_shards(tmp_path, dataset="theirs", split="train", label_format="binary")
    wanted = {name.removesuffix(".png") for name in foreign()}
    assert {original_name(key) for key in keys(manifest)} == wanted | {"stra\udcdfe", "gr\udcfcn/\udcdf"}
    assert all(map(is_key, keys(manifest)))
    assert {original_name(key): image for key, image, _ in all_samples(manifest)}["道路"] == png(0)
    assert not [problem for problem in verified(tmp_path).problems if "sample table" in problem.why]


def test_folders_of_older_versions_keep_their_keys(
    tmp_path: Path, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, suffix in (("plain", ".tar"), ("packed", ".tgz")):
        (tmp_path / folder).mkdir()
        plain_tar(tmp_path / "t.tar", {"d.1/a b.png": png(1), "d.1/c.png": png(2)})
        content = (tmp_path / "t.tar").read_bytes()
        (tmp_path / folder / f"t{suffix}").write_bytes(content if suffix == ".tar" else gzip.compress(content))
    with monkeypatch.context() as older:
        older.setattr(members, "safe_key", lambda name: name)
        for folder in ("plain", "packed"):
            index_shards(tmp_path / folder, dataset="theirs", split="train", label_format="binary")
    manifest = Manifest.open(tmp_path / "packed")
    del manifest.options[STREAMED]["safe_keys"]
    manifest.save()
    for path in cache.folder.rglob("*.tar"):  # it is streamed again, to the same bytes
        path.unlink()
    for folder in ("plain", "packed"):
        manifest = Manifest.open(tmp_path / folder)
        assert keys(manifest) == ["d.1/a b", "d.1/c"]
        assert verified(tmp_path / folder).problems == []
    assert tables.index_path(tmp_path / "plain" / "t.tar").is_file()
