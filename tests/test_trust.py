"""Untrusted files are never executed: one test for each promise of SECURITY.md about files."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mgcda_dist.config.load import load_config
from mgcda_dist.data.decode import decode_cutout, decode_ids, decode_image
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.encode import EncodeOptions, encode_sample
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.manifest import Manifest, manifest_digest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.errors import ConfigError, MgcdaError, SampleError, ShardError
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.evaluation.score_maps import MapFile, ScoreMaps
from mgcda_dist.models.exported import load_segmenter
from mgcda_dist.models.weights import read_state
from mgcda_dist.runs.folder import locked
from mgcda_dist.trust import below, enclosed, open_lock, read_bytes
from tests.conftest import REPOSITORY
from tests.support.commands import typed
from tests.support.evaluations import write_evaluated_run
from tests.support.exported import write_run
from tests.support.png import grey_png
from tests.support.shards import encoded, frame, verified, write_frames
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


def _plant(folder: Path, table: np.ndarray) -> None:
    """Put a shard table into a folder, with the totals and the digest that whoever plants it computes, too."""
    manifest = Manifest.open(folder)
    np.save(folder / "shards.npy", table)
    digest, num_bytes = manifest_digest(table, *manifest.identity), int(table["num_bytes"].sum(dtype=np.int64))
    replace(manifest, digest=digest, num_bytes=num_bytes).save()


def test_a_shard_table_that_names_paths_is_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "shards", 2).folder
    table = np.load(folder / "shards.npy")
    table["name"][0] = b"../../x.tar"
    _plant(folder, table)
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


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\nb", "link", "linked/x", "x" * 2000, ""])
def test_names_that_lead_out_of_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "x").write_text("private")
    (folder / "link").symlink_to(tmp_path / "x")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "own").write_text("own")
    (folder / "alias").symlink_to("own")
    if name:
        with pytest.raises(MgcdaError):
            below(folder, name)
    assert below(folder, "own").read_text() == below(folder, "alias").read_text() == "own"
    assert below(folder, "not/yet") == folder / "not/yet"


def test_what_has_no_end_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 10 << 30)
    for name, problem in (("pipe", "a pipe or a device"), ("zero", "a pipe or a device"), (".", "a folder")):
        with pytest.raises(MgcdaError, match=problem):
            read_bytes(tmp_path / name)
    with pytest.raises(MgcdaError, match="over the bound"):
        read_bytes(tmp_path / "large")
    with pytest.raises(MgcdaError, match="neither a file nor a folder"):
        enclosed(tmp_path, Path("/"))


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("mine")
    folder.mkdir()
    for place in (".lock", ".writing.jsonl"):
        (folder / place).symlink_to(victim)
        with pytest.raises(MgcdaError, match="is a link"):
            open_lock(folder / place)
    with pytest.raises(MgcdaError, match="is a link"), locked(folder, "", ""):
        pass
    with pytest.raises(MgcdaError, match="is a link"):
        write_frames(folder, 1)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("kind", ["png", "npy", "npz", "tif", "pipe"])
def test_score_maps_that_claim_too_much_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{'npy' if kind == 'pipe' else kind}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "png":
        path.write_bytes(grey_png(32000, 32000, 8, b""))
    elif kind == "tif":
        Image.new("1", (16000, 16000)).save(path, compression="group4")
    else:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (32768, 65536)})
        if kind == "npy":
            path.write_bytes(header.getvalue())
            os.truncate(path, len(header.getvalue()) + (8 << 30))
        else:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
                member.write(header.getvalue())
                for _ in range(600):
                    member.write(bytes(1 << 20))
    maps = ScoreMaps.__new__(ScoreMaps)
    maps.root, maps.resize = tmp_path, True
    with pytest.raises(MgcdaError, match=r"over the bound|exceeds limit|a pipe or a device"):
        maps.read(MapFile(path, ""), (4, 4))


def test_a_table_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "shards", 2).folder
    table = np.load(folder / "shard-000000.idx.npy")
    table["image_bytes"][0] = 2**32 - 1
    np.save(folder / "shard-000000.idx.npy", table)
    os.truncate(folder / "shard-000000.tar", 2**33)  # sparse: it takes no room
    shards = np.load(folder / "shards.npy")
    shards["num_bytes"][0] = 2**33
    _plant(folder, shards)
    with pytest.raises(SampleError, match="over the bound"):
        ShardReader(Manifest.open(folder)).read(0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", 7.5), ("dataset", "\x1b[2J"), ("split", ["a"]), ("num_samples", -1), ("num_samples", "many"),
        ("num_shards", None), ("num_bytes", 1e300), ("label_histogram", {"a": 1}), ("label_histogram", [1]),
        ("kind", "pictures"), ("options", 3), ("provenance", "x"), ("digest", {}), ("label_format", None),
    ],
)  # fmt: skip
def test_a_malformed_manifest_is_refused(key: str, value: object, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "shards", 1).folder
    content = json.loads((folder / "manifest.json").read_text()) | {key: value}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ShardError, match=key):
        Manifest.open(folder)


@pytest.mark.parametrize("name", ["manifest.json", "shards.npy", "shard-000000.tar", "shard-000000.idx.npy"])
def test_shards_that_are_links_out_of_their_folder_are_refused(name: str, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "shards", 1).folder
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with (
        pytest.raises(ShardError, match="is a link that leads out")
        if name == "manifest.json"
        else pytest.raises(MgcdaError, match="is a link that leads out")
    ):
        ShardReader(Manifest.open(folder)).read(0)


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz"])
def test_tars_that_are_links_or_pipes_are_not_indexed(name: str, tmp_path: Path) -> None:
    plain_tar(tmp_path / name, {"a.png": b"x"})
    for kind in ("link", "pipe"):
        folder = tmp_path / kind
        folder.mkdir()
        if kind == "link":
            (folder / name).symlink_to(tmp_path / name)
        else:
            os.mkfifo(folder / name)
        with pytest.raises(MgcdaError, match=r"is a link that leads out|a pipe or a device"):
            index_shards(folder, dataset="foreign", split="train", label_format="unlabelled")


def test_results_of_other_types_are_refused(tmp_path: Path) -> None:
    run = write_evaluated_run(tmp_path / "run")
    content = json.loads((run / "results.json").read_text())
    for change in ({"dataset": ["x"]}, {"frames": "many"}, {"iou": 3}, {"intervals": {"ap": [1]}}, {"components": []}):
        content["sets"]["seen"] |= change
        (run / "evaluation/results.json").write_text(json.dumps(content))
        with pytest.raises(MgcdaError, match=r"results\.json"):
            EvaluationResults.load(run / "evaluation")
        assert typed("compare", run).returncode == 2


def test_names_of_others_reach_every_page_as_text(tmp_path: Path) -> None:
    hostile = "x\n\\input{/etc/passwd}\x1b[31m<script>alert(1)</script>![a](http://127.0.0.1:9/a.png)`|\u202e"
    runs = [write_evaluated_run(tmp_path / name, skill=skill) for name, skill in (("a", 3.0), ("b", 1.0))]
    (runs[1] / "config.yaml").write_text(
        (runs[1] / "config.yaml").read_text().replace("name: b\n", f"name: {json.dumps(hostile)}\n")
    )
    (runs[0] / "provenance.json").write_text(
        json.dumps({"mlflow.source.git.commit": hostile, "mgcda.hardware": hostile})
    )
    for run in runs:
        for file in ("results.json", "evaluation/results.json"):
            content = json.loads((run / file).read_text())
            content["sets"] = {"s\\input{x}<script>![a](http:b)`|": content["sets"]["seen"]}
            (run / file).write_text(json.dumps(content))
    done = typed("compare", *runs, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    pages = {path.suffix: path.read_text() for path in (tmp_path / "out").iterdir()}
    done_report = typed("report", *runs, "--out", tmp_path / "report.html")
    assert done_report.returncode == 0, done_report.stderr
    pages[".html"] = (tmp_path / "report.html").read_text()
    for page in (done.stdout, done.stderr, done_report.stderr, pages[".md"], pages[".tex"], pages[".html"]):
        assert "\x1b" not in page and "\u202e" not in page
    assert "\n\\input" not in pages[".tex"] and "\\input" not in "".join(
        line for line in pages[".tex"].splitlines() if not line.startswith("%")
    )
    assert "<script>alert" not in pages[".html"] and "<script>" not in pages[".md"].replace("\\<", "")
    assert "](http" not in pages[".md"]


def test_hostile_pictures_are_skipped(tmp_path: Path) -> None:
    run, pictures = write_run(tmp_path / "net"), tmp_path / "pictures"
    pictures.mkdir()
    good = ["good.png", "l" * 246 + ".png", "control\x1b[31m\n.png", os.fsdecode(b"caf\xe9.png")]
    for name in good:
        (pictures / name).write_bytes(encoded(frame(0)[0]))
    os.mkfifo(pictures / "pipe.png")
    os.mkfifo(pictures / "pipe.mp4")
    (pictures / "endless.png").symlink_to("/dev/zero")
    (pictures / "huge.png").write_bytes(grey_png(32000, 32000, 8, b""))
    (pictures / "playlist.avi").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/private\n")
    (pictures / "list.mkv").write_text(f"ffconcat version 1.0\nfile {tmp_path}/private\n")
    done = typed("predict", run, pictures, cwd=tmp_path)
    assert done.returncode == 1 and "\x1b" not in done.stdout + done.stderr, done.stderr
    record = json.loads((tmp_path / "predictions/net/predictions.json").read_text())
    assert len(record["inputs"]) == len(good) and len(record["failed"]) == 6
    assert {each["input"] for each in record["inputs"]} == {str(pictures / name) for name in good}
    again = typed("predict", run, pictures, cwd=tmp_path)
    assert f"({len(good)} of them before)" in again.stdout
