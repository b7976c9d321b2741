"""Score maps of other methods, in each format; what does not belong together is refused by name."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mgcda_dist.data.shards.keys import safe_key
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.evaluation.score_maps import ScoreMaps
from tests.support import shards as made
from tests.support.commands import invoke, refusal, typed

KEYS = ["bear_01", "city/cow_02", "Übung.3"]
SHAPE = (20, 30)


def _maps(dtype: type[np.generic] = np.float32) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    scale = 65535 if dtype is np.uint16 else 255 if dtype is np.uint8 else 1
    return {key: (scale * generator.normal(0.5, 0.2, SHAPE).clip(0, 1)).astype(dtype) for key in KEYS}


def _safe(key: str) -> str:
    """As older versions made keys of file names."""
    return key.replace("Übung.3", "_bung_3")


def _hdf5(path: Path, values: NDArray[Any]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("value", data=values, compression=9)


def _picture(path: Path, values: NDArray[Any]) -> None:
    # Not every OpenCV writes a name that is not ASCII.
    encoded = cv2.imencode(path.suffix, values)[1]
    path.write_bytes(encoded.tobytes())


WRITERS: dict[str, tuple[type[np.generic], Callable[[Path, NDArray[Any]], object]]] = {
    ".npy": (np.float32, np.save),
    "_score.npy": (np.float16, np.save),
    ".npz": (np.float32, np.savez_compressed),
    ".hdf5": (np.float16, _hdf5),
    ".h5": (np.float32, _hdf5),
    ".tif": (np.float32, _picture),
    ".tiff": (np.float64, _picture),
    ".png": (np.uint16, _picture),
    "_anomaly.png": (np.uint8, _picture),
}


@pytest.mark.parametrize("ending", list(WRITERS))
def test_every_format_gives_its_numbers(tmp_path: Path, ending: str) -> None:
    dtype, write = WRITERS[ending]
    expected = _maps(dtype)
    for key, values in expected.items():
        path = tmp_path / f"{key}{ending}"
        path.parent.mkdir(exist_ok=True)
        write(path, values)
    maps = ScoreMaps(tmp_path)
    chosen = maps.choose("set", [_safe(key) for key in KEYS])
    maps.refuse_unused()
    for key, values in expected.items():
        read = maps.read(chosen[_safe(key)], SHAPE)
        assert read.dtype == (np.float64 if dtype is np.float64 else np.float32)
        np.testing.assert_array_equal(read, values.astype(read.dtype))


@pytest.mark.parametrize("of_the_key", [True, False])
def test_names_of_any_script_are_told_apart(tmp_path: Path, of_the_key: bool) -> None:
    names = ["道路", "天空", "a b", "a_b", "a.b", "kurve/ü.1"]
    for value, name in enumerate(names):
        path = tmp_path / f"{safe_key(name) if of_the_key else name}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.full(SHAPE, value, np.float32))
    maps = ScoreMaps(tmp_path)
    chosen = maps.choose("set", [safe_key(name) for name in names])
    assert [maps.read(chosen[safe_key(name)], SHAPE)[0, 0] for name in names] == list(range(len(names)))
    with pytest.raises(ConfigError, match=r"2 of the 2 frames of set have no map"):
        maps.choose("set", ["_", safe_key("地")])


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_an_archive_holds_all_maps(tmp_path: Path, suffix: str) -> None:
    expected, path = _maps(), tmp_path / f"all{suffix}"
    if suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **expected)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for key, values in expected.items():
                file[key] = values[None]  # a channel axis of length 1
    for root in (path, tmp_path):
        maps = ScoreMaps(root)
        chosen = maps.choose("set", [_safe(key) for key in KEYS])
        np.testing.assert_array_equal(maps.read(chosen["city/cow_02"], SHAPE), expected["city/cow_02"])


def test_frames_are_found_by_their_last_name_where_it_is_clear(tmp_path: Path) -> None:
    for name in ("a/0001", "b/0001", "cow"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", np.zeros(SHAPE, np.float32))
    maps = ScoreMaps(tmp_path)
    chosen = maps.choose("set", ["farm/cow", "a/0001", "b/0001"])
    assert chosen["farm/cow"].path == tmp_path / "cow.npy"
    assert chosen["b/0001"].path == tmp_path / "b/0001.npy"
    with pytest.raises(ConfigError, match="1 of the 1 frames of set have no map, first 'c/0001'\n"):
        maps.choose("set", ["c/0001"])
    with pytest.raises(ConfigError, match=r"1 of the 1 frames .* first '0001': 2 maps and 1 frames are called"):
        maps.choose("set", ["0001"])


def test_a_submission_to_fishyscapes_can_be_read_back(tmp_path: Path) -> None:
    keys = ["0000_04_Maurener_Weg_8_000000_000030", "0001_04_Maurener_Weg_8_000000_000090"]
    for number in range(2):
        np.save(tmp_path / f"{number:04d}_anomaly.npy", np.full(SHAPE, number, np.float32))
        np.save(tmp_path / f"{number:04d}_segmentation.npy", np.zeros(SHAPE, np.uint8))
    maps = ScoreMaps(tmp_path)
    chosen = maps.choose("set", keys)
    maps.refuse_unused()
    assert maps.read(chosen[keys[1]], SHAPE)[0, 0] == 1


def test_a_folder_per_set(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0001.npy", np.full(SHAPE, len(name), np.float32))
    maps = ScoreMaps(tmp_path)
    assert maps.choose("one", ["x/0001"])["x/0001"].path == tmp_path / "one/0001.npy"
    assert maps.choose("two", ["0001"])["0001"].path == tmp_path / "two/0001.npy"
    maps.refuse_unused()


def test_missing_and_extra_maps_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(SHAPE))
    np.save(tmp_path / "b.npy", np.zeros(SHAPE))
    maps = ScoreMaps(tmp_path)
    with pytest.raises(ConfigError, match=r"1 of the 2 frames of set have no map, first 'c'\n.*are a, b"):
        maps.choose("set", ["a", "c"])
    maps.choose("set", ["a"])
    with pytest.raises(ConfigError, match=r"1 of 2 maps belong to no frame, first .*b\.npy"):
        maps.refuse_unused()


def test_hidden_maps_are_left_out_and_linked_folders_read(tmp_path: Path) -> None:
    for place in ("disk/a", "maps/.ipynb_checkpoints/a-checkpoint", "maps/._b", "maps/b", "maps/b_segmentation"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"{place}.npy", np.zeros(SHAPE))
    (tmp_path / "maps" / "city").symlink_to(tmp_path / "disk")
    maps = ScoreMaps(tmp_path / "maps")
    chosen = maps.choose("set", ["city/a", "b"])
    maps.refuse_unused()
    assert chosen["city/a"].path == tmp_path / "maps/city/a.npy"
    assert maps.choose("set", ["b_segmentation"])["b_segmentation"].path == tmp_path / "maps/b_segmentation.npy"


def test_a_map_of_another_size_is_refused_unless_it_may_be_resized(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(SHAPE)
    np.save(tmp_path / "a.npy", values)
    maps = ScoreMaps(tmp_path)
    with pytest.raises(MgcdaError, match=r"the map is 30×20, the label 60×40 pixels\n.*`resize_maps`"):
        maps.read(maps.choose("set", ["a"])["a"], (40, 60))
    maps = ScoreMaps(tmp_path, resize=True)
    larger = maps.read(maps.choose("set", ["a"])["a"], (40, 60))
    assert larger.shape == (40, 60) and larger.dtype == np.float32
    assert larger.mean() == pytest.approx(values.mean(), abs=1e-3)


@pytest.mark.parametrize(("map_size", "label_size"), [((60, 40), (40, 60)), ((8, 4), (40, 60)), ((30, 40), (900, 40))])
def test_a_map_that_lies_on_its_side_is_no_map_of_another_size(
    tmp_path: Path, map_size: tuple[int, int], label_size: tuple[int, int]
) -> None:
    """A transposed map would be stretched, and its numbers be those of another picture."""
    np.save(tmp_path / "a.npy", np.zeros(map_size))
    maps = ScoreMaps(tmp_path, resize=True)
    with pytest.raises(MgcdaError, match=r"lies on its side: .*\n.*transpose"):
        maps.read(maps.choose("set", ["a"])["a"], label_size)
    for fits in ((20, 20), label_size[::1], (max(1, label_size[0] // 8), max(1, label_size[1] // 8))):
        np.save(tmp_path / "a.npy", np.zeros(fits))
        assert maps.read(maps.choose("set", ["a"])["a"], label_size).shape == label_size


def _first_map(folder: Path) -> NDArray[Any]:
    maps = ScoreMaps(folder)
    return maps.read(maps.choose("set", ["a"])["a"], SHAPE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b"\x93NUMPY"),
        ("a.npy", b"\x93NUMPY\x01\x00\x36\x00{'descr': '<f4', 'fortran_order': F20, 30), }".ljust(64)),
        ("a.npz", b"PK"),
        ("a.h5", b"\x89HDF"),
        ("a.png", b"\x89PNG"),
        ("a.tif", b"II*\0"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    if name.endswith("h5"):
        pytest.importorskip("h5py")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MgcdaError, match="cannot be read") as caught:
        _first_map(tmp_path)
    assert name in caught.value.where


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_header_that_claims_more_than_memory_holds_is_named(tmp_path: Path, suffix: str) -> None:
    forged = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 24, 1 << 24)}
    np.lib.format.write_array_header_1_0(forged, header)
    if suffix == ".npy":
        (tmp_path / "a.npy").write_bytes(forged.getvalue() + bytes(64))
    else:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("a.npy", forged.getvalue() + bytes(64))
    with pytest.raises(MgcdaError, match="cannot be read") as caught:
        _first_map(tmp_path)
    assert f"a{suffix}" in caught.value.where


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((20, 30, 3), np.uint8))
    maps = ScoreMaps(tmp_path)
    with pytest.raises(MgcdaError, match=r"shape \(20, 30, 3\) and type uint8 is no score map"):
        maps.read(maps.choose("set", ["a"])["a"], SHAPE)
    np.save(tmp_path / "a.npy", np.zeros(SHAPE, np.complex64))
    with pytest.raises(MgcdaError, match="complex64"):
        maps.read(maps.choose("set", ["a"])["a"], SHAPE)
    with pytest.raises(ConfigError, match="does not exist"):
        ScoreMaps(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no score map"):
        ScoreMaps(tmp_path / "empty")
    with pytest.raises(ConfigError, match="neither a folder nor an archive"):
        ScoreMaps(tmp_path / "a.npy")


@pytest.fixture(scope="module")
def bordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of one frame of 40×60 with an anomaly, and void in its first three rows."""
    folder = tmp_path_factory.mktemp("bordered")
    label = np.zeros((40, 60), np.uint8)
    label[10:20, 10:30], label[:3] = 1, 255
    samples = [SourceSample("a", made.encoded(made.frame(0, 40, 60)[0]), "png", made.encoded(label))]
    write_shards(samples, folder, dataset="plain", split="test", label_format="binary", workers=1)
    return folder


def _measured(bordered: Path, folder: Path, values: NDArray[Any]) -> dict[str, Any]:
    (folder / "maps").mkdir(parents=True)
    np.save(folder / "maps/a.npy", values)
    options = ["--components", "obstacle", "--instances", "--threshold", 0.5, "--data", f"x={bordered}"]
    done = invoke("evaluate", "--maps", folder / "maps", *options, "--out", folder / "out")
    assert done.exit_code == 0, (done.output, done.exception)
    row = json.loads((folder / "out/results.json").read_text())["sets"]["x"]
    return {name: value for name, value in row.items() if name != "manifest_digest"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_void_pixels_may_hold_anything(bordered: Path, tmp_path: Path, value: float) -> None:
    scores = np.random.default_rng(0).random((40, 60)).astype(np.float32)
    expected = _measured(bordered, tmp_path / "plain", np.where(np.arange(40)[:, None] < 3, 0, scores))
    assert 0 < expected["ap"] < 1 and expected["instances"]["num_predicted"] > 0
    scores[:2], scores[2] = value, 0
    assert _measured(bordered, tmp_path / "void", scores) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_valid_pixel_without_a_score_is_named(bordered: Path, tmp_path: Path, value: float) -> None:
    scores = np.zeros((40, 60), np.float32)
    scores[5, 7:9], scores[0] = value, np.nan
    np.save(tmp_path / "a.npy", scores)
    error = refusal("evaluate", "--maps", tmp_path, "--data", bordered, "--out", tmp_path / "out")
    assert error.where == str(tmp_path / "a.npy")
    assert f"2 valid pixels have a score that is NaN or infinite, first {value} at row 5, column 7" in error.problem


def test_the_digest_follows_the_bytes(tmp_path: Path) -> None:
    def digest() -> str:
        maps = ScoreMaps(tmp_path)
        maps.choose("set", ["a"])
        return maps.digest()

    np.save(tmp_path / "a.npy", np.zeros(SHAPE))
    np.save(tmp_path / "unused.npy", np.zeros(SHAPE))
    first = digest()
    np.save(tmp_path / "unused.npy", np.ones(SHAPE))
    assert digest() == first
    np.save(tmp_path / "a.npy", np.ones(SHAPE))
    assert digest() != first


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.H5"])
def test_maps_given_as_a_model_are_said_to_be_maps(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    said = typed("evaluate", tmp_path).stderr
    assert "holds score maps, and no trained model" in said and f"--maps {tmp_path}" in said
