"""Damaged documents of every kind that commands read: a result or an error of the project, and nothing else."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import strategies as st
from numpy.typing import NDArray

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.config.load import load_config, stored_config
from mgcda_dist.config.sweep import is_sweep_file, load_sweep, plan_runs
from mgcda_dist.data.decode import decode_channels, decode_cutout, decode_ids, decode_image, decode_pair
from mgcda_dist.data.shards.encode import EncodeOptions, encode_sample
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.data.shards.verify import verify_shards
from mgcda_dist.evaluation.components import TRACKS, ComponentEvaluation
from mgcda_dist.evaluation.conventions import PixelEvaluation
from mgcda_dist.evaluation.pixel import finite_scores
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.evaluation.score_maps import ScoreMaps
from mgcda_dist.evaluation.tables import latex_table, markdown_table
from tests.data.shards.sources.test_coco import CONTENT
from tests.support import shards as made
from tests.support.fuzzing import SECONDS_OR_MINUTES, changed, damaged, fuzz

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]


def _writer(path: Path) -> Callable[[Any], object]:
    """Writes bytes as they are, and other values as JSON or YAML, to a path."""

    def write(content: Any) -> None:
        if not isinstance(content, bytes):
            text = yaml.safe_dump(content) if path.suffix == ".yaml" else json.dumps(content)
            content = text.encode()
        path.write_bytes(content)

    return write


CONFIG = {
    "name": "run", "runs": "runs", "optim": {"steps": 10}, "model": {"backbone": "resnet18"},
    "data": {"class_space": "idd7", "crop_px": [64, 64], "streams": [
        {"name": "a", "shards": "s/a", "per_step": 4, "paste": {"objects": "s/o", "include": ["dog"]}},
        {"name": "b", "shards": "s/b", "per_step": 4, "labelled": False},
    ]},
    "evaluation": {"sets": [{"name": "x", "shards": "s/x"}], "conventions": ["pooled"], "scales": [1.0]},
}  # fmt: skip
SWEEP = {
    "name": "s",
    "seeds": [0, 1],
    "set": {"optim.steps": 2},
    "rows": {"a": "good.yaml", "b": {"config": "good.yaml"}},
}
CURIOUS = b"a: &a [*a, 2001-01-01, !!int 0x1]\n? x\n: |\n  y\nb: {c: .inf, d: ~, <<: *a}\n"


@SECONDS_OR_MINUTES
@pytest.mark.parametrize("kind", ["values", "bytes"])
def test_configurations(tmp_path: Path, examples: int, kind: str) -> None:
    path, originals = tmp_path / "a.yaml", [CONFIG, SWEEP, {"base": "good.yaml", "seed": 1}]
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(CONFIG))
    for original in originals:
        _writer(path)(original)
        plan_runs(load_sweep(path)) if is_sweep_file(path) else load_config(path)
    texts = [yaml.safe_dump(original).encode() for original in originals]
    inputs = changed(*originals) if kind == "values" else damaged(*texts, CURIOUS)
    reads = (partial(load_config, path), partial(stored_config, path), lambda: plan_runs(load_sweep(path)))
    fuzz(examples, inputs, _writer(path), *reads)


@SECONDS_OR_MINUTES
@pytest.mark.parametrize("kind", ["values", "bytes"])
def test_annotations_of_coco(tmp_path: Path, examples: int, kind: str) -> None:
    photo, file = tmp_path / "val2017" / "a.png", tmp_path / "annotations" / "instances_val2017.json"
    photo.parent.mkdir()
    file.parent.mkdir()
    photo.write_bytes(made.encoded(np.zeros((100, 120, 3), np.uint8)))

    def read() -> list[Any]:
        opened = SOURCES["coco"].open(tmp_path, "val", drop_cut=True)
        return [encode_sample(sample, EncodeOptions()) for sample in opened.samples]

    _writer(file)(CONTENT)
    assert read()
    fuzz(examples, changed(CONTENT) if kind == "values" else damaged(json.dumps(CONTENT).encode()), _writer(file), read)


# -------------------------------------------------------------------------------------------------------------- shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small shards of frames."""
    folder = tmp_path_factory.mktemp("shards") / "made"
    made.write_frames(folder, 3, per_shard=2)
    return folder


def _verify(folder: Path) -> None:
    verify_shards(Manifest.open(folder), workers=1)


def _decode(folder: Path) -> None:
    for _, image, label in made.all_samples(Manifest.open(folder)):
        decode_image(image, "image")
        if label is not None:
            decode_ids(label, "label")


@SECONDS_OR_MINUTES
@pytest.mark.parametrize("file", ["manifest.json", "shards.npy", "shard-000000.idx.npy", "shard-000000.tar"])
def test_shard_folders(tmp_path: Path, shards: Path, examples: int, file: str) -> None:
    folder, original = tmp_path / "copy", (shards / file).read_bytes()
    shutil.copytree(shards, folder)
    inputs = damaged(original) | changed(json.loads(original)) if file == "manifest.json" else damaged(original)
    fuzz(examples, inputs, _writer(folder / file), partial(_verify, folder), partial(_decode, folder))


@st.composite
def archives(draw: st.DrawFn, image: bytes, label: bytes) -> bytes:
    """Tar files of members with any name, kind and content."""
    names = st.sampled_from(["a", "a.b", "b/a", "ä", "..", "/a", "./a", "a\udce4", "a" * 120, " ", "", ".a", "a\n"])
    endings = st.sampled_from([".jpg", ".png", ".label.png", ".json", ".PNG", "", ".txt", ".cls", "/", ".JPEG"])
    kinds = st.sampled_from([tarfile.REGTYPE] * 8 + [
        tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE,
        b"Z",
    ])  # fmt: skip
    contents = st.sampled_from([image, label, b"", b"{}", b"[" * 5000, b'{"category": "\\ud800"}', b"\xff" * 600])
    form = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]))
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=form, errors="surrogateescape") as tar:
        for _ in range(draw(st.integers(0, 6))):
            member, content = tarfile.TarInfo(draw(names) + draw(endings)), draw(contents)
            member.type, member.linkname, member.size = draw(kinds), draw(names), len(content)
            member.pax_headers = draw(
                st.sampled_from([{}, {}, {"path": "b.jpg"}, {"GNU.sparse.map": "0,1,x"}, {"size": "x"}])
            )
            try:
                tar.addfile(member, io.BytesIO(content))
            except (ValueError, KeyError):  # more than the format can say
                continue
    return written.getvalue()


@SECONDS_OR_MINUTES
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_foreign_tars(tmp_path: Path, shards: Path, examples: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGCDA_CACHE", str(tmp_path / "cache"))
    folder, original = tmp_path / "theirs", (shards / "shard-000000.tar").read_bytes()
    folder.mkdir()
    inputs = damaged(original) | archives(*(made.encoded(pixels) for pixels in made.frame(0)))
    if name.endswith("gz"):
        inputs = inputs.map(partial(gzip.compress, compresslevel=1)) | damaged(gzip.compress(original), original)

    def index() -> None:
        index_shards(folder, dataset="x", split="x", label_format="road8", overwrite=True, workers=1)

    reads = (index, partial(_verify, folder), partial(_decode, folder))
    fuzz(examples, inputs, _writer(folder / name), *reads)


# ------------------------------------------------------------------------------------------------------------ pictures


def _pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    found = [made.encoded(pixels[..., :3], ext) for ext in (".png", ".jpg", ".webp", ".bmp", ".tiff", ".ppm")]
    grey = pixels[..., 0]
    return [*found, *(cv2.imencode(".png", each)[1].tobytes() for each in (pixels, grey, grey.astype(np.uint16)))]


@SECONDS_OR_MINUTES
def test_pictures(examples: int) -> None:
    label, given = made.encoded(np.zeros((20, 30), np.uint8)), list[bytes]()

    def put(data: bytes) -> None:
        given[:] = [data]

    fuzz(
        examples,
        damaged(*_pictures()),
        put,
        lambda: decode_image(given[0], "a"),
        lambda: decode_cutout(given[0], "a", "upright"),
        lambda: decode_channels(given[0], "a"),
        lambda: decode_pair(label, given[0], "a", "stored"),
        lambda: encode_sample(SourceSample("a", given[0], "png", label), EncodeOptions(8, "jpg")),
        lambda: encode_sample(SourceSample("a", label, "png", given[0]), EncodeOptions()),
        lambda: encode_sample(SourceSample("a", given[0], "png"), EncodeOptions(8, "webp"), "objects"),
    )


# ---------------------------------------------------------------------------------------------------------- evaluation

LABEL = np.zeros((20, 30), np.uint8)
LABEL[5:9, 5:20], LABEL[0] = ANOMALY, VOID


def _maps() -> dict[str, bytes]:
    values = np.random.default_rng(0).random(LABEL.shape).astype(np.float32)
    npy, npz, several = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, values)
    np.savez_compressed(npz, a=values)
    np.savez(several, a=values, b=values)
    levels = cv2.imencode(".png", (values * 65535).astype(np.uint16))[1].tobytes()
    tiff = cv2.imencode(".tif", values)[1].tobytes()
    return {
        "a.npy": npy.getvalue(),
        "a.npz": npz.getvalue(),
        "all.npz": several.getvalue(),
        "a.png": levels,
        "a.tif": tiff,
    }


@SECONDS_OR_MINUTES
@pytest.mark.parametrize("name", list(_maps()))
def test_score_maps(tmp_path: Path, examples: int, name: str) -> None:
    path = tmp_path / name

    def read() -> NDArray[Any]:
        maps = ScoreMaps(tmp_path if name != "all.npz" else path, resize=True)
        return finite_scores(maps.read(maps.choose("x", ["a"])["a"], LABEL.shape), LABEL, "a")

    _writer(path)(_maps()[name])
    assert read().shape == LABEL.shape
    fuzz(examples, damaged(_maps()[name]), _writer(path), read)


@SECONDS_OR_MINUTES
def test_scores_of_any_range(examples: int) -> None:
    ends = st.floats(width=32) | st.sampled_from([0.0, 1e-45, 3e38, -3e38, 65504.0, 7e4])
    given: list[NDArray[Any]] = []

    def put(value: tuple[float, float, str, int]) -> None:
        low, high, dtype, seed = value
        scores = np.random.default_rng(seed).choice([low, high, 0.0], LABEL.shape).astype(dtype)
        given[:] = [scores]

    def measure() -> None:
        scores = finite_scores(given[0], LABEL, "a")
        pixels = PixelEvaluation(("pooled", "per_image", "skip_empty", "pooled_nearest", "smiyc"))
        pixels.update("a", scores, LABEL)
        for metrics in pixels.results().values():
            assert 0 <= metrics.ap <= 1
        components = ComponentEvaluation(float(np.median(scores)), next(iter(TRACKS.values())))
        components.update("a", scores, LABEL)
        json.dumps(components.result().as_json(), allow_nan=False)

    fuzz(examples, st.tuples(ends, ends, st.sampled_from(["f4", "f8"]), st.integers(0, 9)), put, measure)


RESULTS = {
    "convention": "pooled", "conventions": ["pooled", "per_image"], "score": "energy", "components": "anomaly",
    "instances": True, "threshold": None, "blur": False, "height_px": None, "scales": [1.0], "flip": False,
    "window_px": [64, 96], "window_overlap": 0.5, "evaluation_id": "i", "tool_version": "0", "interval_level": 0.95,
    "subject": {"name": "a", "kind": "model", "digest": "e", "class_space": ""},
    "sets": {"x": {
        "ap": 0.5, "auroc": 0.7, "fpr95": 0.3, "best_f1": 0.4, "miou": 0.4, "frames": 3, "iou": {"road": 0.4},
        "conventions": {"pooled": {"ap": 0.5}, "per_image": {"ap": 0.4}}, "pixels": {"anomaly": 10, "inlier": 90},
        "intervals": {"ap": [0.4, 0.6]}, "dataset": "d", "split": "s", "manifest_digest": "c",
        "components": {"siou": 0.3, "ppv": 0.2, "mean_f1": 0.1, "threshold": 0.5, "f1": {"0.25": 0.1}, "num_truth": 3},
        "instances": {"ap": 0.3, "ap50": 0.4, "num_truth": 3, "num_predicted": 2, "num_frames": 3},
        "categories": {"c": {"ap": 0.5, "frames": 3, "anomaly_pixels": 10, "inlier_pixels": 90}},
        "groups": {"g": {"ap": 0.5, "frames": 3}}, "thresholds": {"best_f1": 0.5},
    }},
    "selection": {"step": 1, "set": "x", "metric": "ap", "value": 0.5, "better": "higher"},
}  # fmt: skip


@SECONDS_OR_MINUTES
def test_results(tmp_path: Path, examples: int) -> None:
    def read() -> None:
        results = EvaluationResults.load(tmp_path)
        markdown_table([results, results])
        latex_table([results])
        results.logged_metrics()
        results.save(tmp_path / "again")

    _writer(tmp_path / "results.json")(RESULTS)
    read()
    inputs = changed(RESULTS) | damaged(json.dumps(RESULTS).encode())
    fuzz(examples, inputs, _writer(tmp_path / "results.json"), read)
