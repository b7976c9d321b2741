"""Untrusted files are never executed: one test for each promise of SECURITY.md about files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mgcda_dist.config.load import load_config
from mgcda_dist.data.decode import decode_cutout, decode_ids, decode_image
from mgcda_dist.data.shards.encode import EncodeOptions, encode_sample
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.errors import ConfigError, MgcdaError, ShardError
from mgcda_dist.evaluation.score_maps import MapFile, ScoreMaps
from mgcda_dist.models.exported import load_segmenter
from mgcda_dist.models.weights import read_state
from tests.conftest import REPOSITORY
from tests.support.png import grey_png
from tests.support.shards import verified, write_frames
from tests.support.tars import plain_tar


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_pictures_that_claim_too_much_are_not_decoded(tmp_path: Path) -> None:
    bomb = grey_png(9000, 9000, 8, b"")  # a few bytes that claim 81 million pixels
    for decode in (decode_image, decode_cutout, decode_ids):
        with pytest.raises(ShardError, match="claims 9000×9000 pixels, over the bound"):
            decode(bomb, "shard: key")
    with pytest.raises(ShardError, match="9000×9000"):
        encode_sample(SourceSample("key", bomb, "png"), EncodeOptions())
    plain_tar(tmp_path / "0.tar", {"a.png": bomb, "a.seg.png": bomb})
    with pytest.raises(ShardError, match="9000×9000"):
        index_shards(tmp_path, dataset="foreign", split="train", label_format="road8")


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "x/../../a.png"])
def test_members_that_lead_out_of_an_archive_are_refused(tmp_path: Path, name: str) -> None:
    plain_tar(tmp_path / "0.tar", {name: b"x"})
    with pytest.raises(ShardError, match="leads out of the archive"):
        index_shards(tmp_path, dataset="foreign", split="train", label_format="road8")


def test_a_shard_table_that_names_paths_is_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "shards", 2).folder
    table = np.load(folder / "shards.npy")
    table["name"][0] = b"../../x.tar"
    np.save(folder / "shards.npy", table)
    with pytest.raises(ShardError, match="is a path"):
        Manifest.open(folder).shard_path(0)
    assert "is a path" in str(verified(folder))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    (tmp_path / "weights.pth").write_bytes(_saved(trap))
    with pytest.raises(ConfigError, match="not a readable weights file"):
        read_state(tmp_path / "weights.pth")
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "a.npy").write_bytes(_array(trap))
    with pytest.raises(MgcdaError, match="cannot be read"):
        ScoreMaps(maps).read(MapFile(maps / "a.npy", ""), (1, 1))
    folder = write_frames(tmp_path / "shards", 2).folder
    (folder / "shards.npy").write_bytes(_array(trap))
    with pytest.raises(ShardError):
        Manifest.open(folder)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(pickle.dumps(trap))
    with pytest.raises(MgcdaError):
        load_segmenter(tmp_path / "model")
    config = tmp_path / "c.yaml"
    config.write_text(f"name: !!python/object/apply:pathlib.Path.touch [{tmp_path}/sprung]\n")
    with pytest.raises(ConfigError):
        load_config(config)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("key", "address"),
    [
        ("tracking.mlflow_uri", "http://somebody:planted@server:5000"),
        ("tracking.mlflow_uri", "postgresql://somebody:planted@server/mlflow"),
        ("data.streams.0.shards", "https://somebody:planted@store/shards"),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(key: str, address: str) -> None:
    with pytest.raises(ConfigError, match="the address holds a password") as caught:
        load_config(REPOSITORY / "configs/demo.yaml", [f"{key}={address}"])
    assert "planted" not in str(caught.value) and key in str(caught.value)


def _saved(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": thing}, buffer)
    return buffer.getvalue()


def _array(thing: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([thing], object), allow_pickle=True)
    return buffer.getvalue()
