"""`mgcda predict`: output files, unreadable inputs, resuming, videos, and the options' errors."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.evaluation.score_maps import ScoreMaps
from mgcda_dist.evaluation.test_time import TestTimeAugmentation
from mgcda_dist.inference import predict as module
from mgcda_dist.inference.model import load_exported
from tests.support.commands import invoke, refusal, run_without
from tests.support.exported import NEEDED, write_run


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _picture(path: Path, seed: int = 0, size: tuple[int, int] = (50, 71)) -> np.ndarray:
    """A PNG of smooth random colours, as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    pixels = np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def _video(path: Path, num_frames: int = 7, fps: float = 5.0) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc("M", "J", "P", "G"), fps, (72, 50))
    assert writer.isOpened()
    for index in range(num_frames):
        frame = np.full((50, 72, 3), 90, np.uint8)
        frame[10:30, 8 * index : 8 * index + 16] = (0, 0, 255)
        writer.write(frame)
    writer.release()


@pytest.fixture(scope="module")
def middle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """A score that about half of the pixels reach."""
    pixels = _picture(tmp_path_factory.mktemp("one") / "a.png")
    return float(np.median(load_exported(run).predict(pixels)[0]))


def test_maps_pictures_and_records_of_a_folder(run: Path, middle: float, tmp_path: Path) -> None:
    images = {name: _picture(tmp_path / "in" / f"{name}.png", i) for i, name in enumerate(("a", "deep/b", "deep/c"))}
    out = tmp_path / "out"
    result = invoke(
        "predict", run, tmp_path / "in", "-o", out, "-w", "overlay,npy,png", f"--threshold={middle}", "--min-area", "9"
    )
    assert result.exit_code == 0, result.output
    endings = ("json", "overlay.png", "score.npy", "score.png")
    expected = {f"{name}.{ending}" for name in images for ending in endings} | {"predictions.json"}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == expected
    summary = _json(out / "predictions.json")
    assert summary["complete"] and not summary["failed"]
    assert [each["name"] for each in summary["inputs"]] == list(images)
    assert summary["settings"]["threshold"] == middle and summary["settings"]["threshold_source"] == "given"
    model = load_exported(run)
    for each, (name, pixels) in zip(summary["inputs"], images.items(), strict=True):
        score = model.predict(pixels)[0]
        half = np.load(out / f"{name}.score.npy")
        assert half.dtype == np.float16 and np.array_equal(half, score.astype(np.float16))
        record = _json(out / f"{name}.json")
        assert (record["width"], record["height"]) == (71, 50)
        assert each["anomalies"] == len(record["anomalies"]) > 0
        levels = np.asarray(Image.open(out / f"{name}.score.png")).astype(np.float64)
        low, high = record["files"]["png"]["low"], record["files"]["png"]["high"]
        assert low + levels * (high - low) / 65535 == pytest.approx(score, abs=(high - low) / 65535)
        for anomaly in record["anomalies"]:
            left, top, width, height = anomaly["box"]
            inside = score[top : top + height, left : left + width]
            assert anomaly["area_px"] >= 9 and middle <= anomaly["score"] <= anomaly["max_score"]
            assert anomaly["max_score"] == pytest.approx(float(inside.max()), rel=1e-4) or inside.max() > middle
        shown = np.asarray(Image.open(out / f"{name}.overlay.png"))
        # Seven times as large, with a legend below it; sides are even.
        assert shown.shape[0] > 350 and shown.shape[1] == 498 and shown.shape[0] % 2 == 0


def test_written_maps_are_read_as_maps(run: Path, tmp_path: Path) -> None:
    """Predictions can be evaluated, also with overlays beside them: 16-bit pictures are read as scores."""
    pixels = _picture(tmp_path / "in" / "a.png")
    assert invoke("predict", run, tmp_path / "in", "-o", tmp_path / "out", "-w", "overlay,png").exit_code == 0
    score = load_exported(run).predict(pixels)[0]
    maps = ScoreMaps(tmp_path / "out")
    read = maps.read(maps.choose("set", ["a"])["a"], (50, 71))
    maps.refuse_unused()
    assert read == pytest.approx(score, abs=float(np.ptp(score)) / 65535)


def test_a_constant_map_is_restored_from_16_bits(tmp_path: Path) -> None:
    from mgcda_dist.inference.outputs import write_maps

    write_maps(np.full((4, 5), -3.25, np.float32), tmp_path, "a", ["png"])
    maps = ScoreMaps(tmp_path)
    assert np.array_equal(maps.read(maps.choose("s", ["a"])["a"], (4, 5)), np.full((4, 5), -3.25))


def test_scores_beyond_float16_are_refused(tmp_path: Path) -> None:
    from mgcda_dist.inference.outputs import write_maps

    with pytest.raises(MgcdaError, match="write png"):
        write_maps(np.full((4, 5), 7e4, np.float32), tmp_path, "a", ["npy"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["afile", "afile/out", "/proc/out", "x" * 300])
def test_a_folder_that_cannot_be_written_to_is_refused(run: Path, tmp_path: Path, place: str) -> None:
    _picture(tmp_path / "a.png")
    (tmp_path / "afile").touch()
    error = refusal("predict", run, tmp_path / "a.png", "-o", tmp_path / place)
    assert re.search("is a file|cannot be written to", error.problem)
    assert error.remedy == "give a folder that can be written to"


def test_unreadable_inputs_are_skipped_and_reported(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    _picture(folder / "good.png")
    whole = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.mp4").write_text("no video")
    result = invoke("predict", run, folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    failed = _json(tmp_path / "out" / "predictions.json")["failed"]
    assert {Path(each["input"]).name for each in failed} == {"cut.png", "empty.png", "text.jpg", "text.mp4"}
    for name in ("cut.png", "empty.png", "text.jpg", "text.mp4"):
        assert f"{folder / name}: " in result.output
    assert "verify" not in result.output  # a remedy for shards is none for images
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"good.json", "good.overlay.png", "predictions.json"}


def test_the_same_command_resumes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(4):
        _picture(tmp_path / "in" / f"{index}.png", index)
    out = tmp_path / "out"

    def stops(result: Any, *given: Any) -> None:
        if given[1] >= "2":  # the next one may be under way already
            raise KeyboardInterrupt
        write(result, *given)

    write = module.write_image
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_image", stops)
        assert invoke("predict", run, tmp_path / "in", "-o", out).exit_code != 0
    assert _json(out / "predictions.json")["complete"] is False
    assert (out / "1.json").exists() and not (out / "2.json").exists()
    drawn = {name: (out / name).stat().st_mtime_ns for name in ("0.overlay.png", "1.overlay.png")}
    colours = json.loads((out / "0.json").read_text())
    assert colours["files"] == {"overlay": "0.overlay.png"}
    _picture(tmp_path / "in" / "1.png", seed=9)  # changed meanwhile
    result = invoke("predict", run, tmp_path / "in", "-o", out)
    assert result.exit_code == 0 and "(1 of them before)" in result.output
    assert (out / "0.overlay.png").stat().st_mtime_ns == drawn["0.overlay.png"]
    assert (out / "1.overlay.png").stat().st_mtime_ns != drawn["1.overlay.png"]
    assert _json(out / "predictions.json")["complete"] is True
    # A file that somebody removed is made again.
    (out / "3.overlay.png").unlink()
    assert "(3 of them before)" in invoke("predict", run, tmp_path / "in", "-o", out).output
    assert (out / "3.overlay.png").exists()


def test_a_resumed_prediction_keeps_its_colour_range(run: Path, tmp_path: Path) -> None:
    """An unknown range is that of the first frame, also in a second call with another first frame."""
    _picture(tmp_path / "in" / "b.png", 1)
    assert invoke("predict", run, tmp_path / "in", "-o", tmp_path / "out").exit_code == 0
    before = _json(tmp_path / "out" / "predictions.json")["drawn_range"]
    _picture(tmp_path / "in" / "a.png", 2)
    assert invoke("predict", run, tmp_path / "in", "-o", tmp_path / "out").exit_code == 0
    assert _json(tmp_path / "out" / "predictions.json")["drawn_range"] == before


def test_options_take_the_place_of_the_run_s_augmentation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "averaging", {"scales": [0.5, 1.0], "flip": True, "window_px": [64, 64]})
    _picture(tmp_path / "a.png")

    def settings(out: str, *words: str) -> list[Any]:
        assert invoke("predict", run, tmp_path / "a.png", "-o", tmp_path / out, "-w", "none", *words).exit_code == 0
        found = _json(tmp_path / out / "predictions.json")["settings"]
        return [found[key] for key in ("scales", "flip", "window_px", "height_px")]

    assert settings("own") == [[0.5, 1.0], True, [64, 64], 32]
    assert settings("given", "--scales", "1", "--no-flip", "--window", "none") == [[1.0], False, None, 32]


def test_a_folder_with_other_content_is_refused(run: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    assert invoke("predict", run, tmp_path / "in", "-o", out).exit_code == 0
    assert "other settings" in str(refusal("predict", run, tmp_path / "in", "-o", out, "--score", "msp"))
    assert invoke("predict", run, tmp_path / "in", "-o", out, "--score", "msp", "--overwrite").exit_code == 0
    assert _json(out / "predictions.json")["settings"]["score"] == "msp"
    assert "is an input" in str(refusal("predict", run, tmp_path / "in", "-o", tmp_path / "in"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("important")
    assert "other files" in str(refusal("predict", run, tmp_path / "in", "-o", tmp_path / "thesis"))


def test_a_video_gives_a_video_and_a_record(run: Path, middle: float, tmp_path: Path) -> None:
    _video(tmp_path / "clip.avi")
    out = tmp_path / "out"
    words = (tmp_path / "clip.avi", "-o", out, "-w", "overlay,npy", f"--threshold={middle}", "--every", "2")
    result = invoke("predict", run, *words, "--batch", "3")
    assert result.exit_code == 0, result.output
    record = _json(out / "clip.json")
    assert [frame["frame"] for frame in record["frames"]] == [0, 2, 4, 6]
    assert [frame["time_s"] for frame in record["frames"]] == pytest.approx([0, 0.4, 0.8, 1.2])
    assert (record["width"], record["height"], record["frames_read"], record["num_frames"]) == (72, 50, 7, 4)
    assert record["num_anomalies"] == sum(len(frame["anomalies"]) for frame in record["frames"])
    maps = sorted(path.name for path in (out / "clip").iterdir())
    assert maps == [f"{index:06d}.score.npy" for index in (0, 2, 4, 6)]
    written = cv2.VideoCapture(str(out / "clip.overlay.mp4"))
    assert written.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and written.get(cv2.CAP_PROP_FPS) == pytest.approx(2.5)
    assert written.get(cv2.CAP_PROP_FRAME_WIDTH) == 504 and written.read()[0]
    written.release()
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert "(1 of them before)" in invoke("predict", run, *words).output


@pytest.mark.parametrize("codec", ["vp9", "mpeg4"])
def test_videos_of_both_codecs_can_be_read(run: Path, tmp_path: Path, codec: str) -> None:
    _video(tmp_path / "clip.avi", 3)
    assert invoke("predict", run, tmp_path / "clip.avi", "-o", tmp_path / "out", "--codec", codec).exit_code == 0
    frames = cv2.VideoCapture(str(tmp_path / "out" / "clip.overlay.mp4"))
    assert [frames.read()[0] for _ in range(4)] == [True, True, True, False]
    frames.release()


def test_batches_and_windows_change_nothing_but_rounding(run: Path, tmp_path: Path) -> None:
    images = [_picture(tmp_path / f"{i}.png", i, size=(70, 101)) for i in range(2)]
    model = load_exported(run)
    for augmentation in (TestTimeAugmentation(window_px=(64, 64)), TestTimeAugmentation(scales=(0.5,), flip=True)):
        together = model.predict_batch(images, height_px=0, augmentation=augmentation)
        for image, (score, classes) in zip(images, together, strict=True):
            expected, predicted = model.predict(image, height_px=0, augmentation=augmentation)
            assert score == pytest.approx(expected, abs=1e-4)
            assert (classes == predicted).mean() > 0.999


def test_names_of_equal_files_are_unique_and_stable(run: Path, tmp_path: Path) -> None:
    from mgcda_dist.inference.sources import find_sources

    for name in ("one/a/x.png", "one/x.png", "one/x.jpg", "one/.hidden.png", "two/one/x.png", "two/one/X.webp"):
        _picture(tmp_path / name)
    _picture(tmp_path / "one" / "old" / "x.png")
    (tmp_path / "one" / "old" / "predictions.json").write_text("{}")  # results are no inputs
    os.symlink(tmp_path / "one", tmp_path / "one" / "a" / "loop")
    os.symlink(tmp_path / "one" / "x.png", tmp_path / "one" / "z.png")

    def names(*inputs: str) -> list[str]:
        return [source.name for source in find_sources([tmp_path / each for each in inputs], tmp_path / "out")]

    assert names("one") == ["x_jpg", "x_png", "a/x"]
    assert names("one/x.png") == ["x"]
    assert names("one", "two/one") == ["one/x_jpg", "one/x_png", "one/a/x", "one-2/X_webp", "one-2/x_png"]
    assert names("one/x.png", "one/a/x.png") == ["x_png", "x_png-2"]
    with pytest.raises(ConfigError, match="does not exist"):
        names("three")
    (tmp_path / "three").mkdir()
    with pytest.raises(ConfigError, match="no image and no video"):
        names("three")


def test_names_leave_the_summary_and_the_frames_of_videos_alone(tmp_path: Path) -> None:
    from mgcda_dist.inference.sources import find_sources

    def names(*files: str) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        found = {
            source.path.relative_to(folder).as_posix(): source.name
            for source in find_sources([folder], tmp_path / "out")
        }
        return [found[name] for name in files]

    def find_sources_of(*inputs: Path) -> list[str]:
        return [source.name for source in find_sources(inputs, tmp_path / "out")]

    assert names("predictions.jpg", "sub/predictions.jpg") == ["predictions_jpg", "sub/predictions"]
    assert names("Predictions.avi", "predictions_avi.png") == ["Predictions_avi", "predictions_avi-2"]
    assert names("drive.avi", "drive/000001.jpg", "drive/000002.jpg") == ["drive_avi", "drive/000001", "drive/000002"]
    assert names("Drive.avi", "drive/1000000.jpg") == ["Drive_avi", "drive/1000000"]
    assert names("drive.avi", "drive_avi/000001.jpg", "drive/000001.jpg")[0] == "drive_avi-2"
    # Names that do not meet stay as they are.
    assert names("drive.avi", "drive/front.jpg", "drive/000001/x.jpg") == ["drive", "drive/front", "drive/000001/x"]
    assert names("x.jpg", "x.png", "x_jpg.bmp") == ["x_jpg", "x_png", "x_jpg-2"]
    folder = tmp_path / "2"
    assert find_sources_of(folder / "drive.avi", folder / "drive") == ["drive_avi", "drive/000001", "drive/000002"]


def test_no_result_is_written_over_another_input_s(run: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "in" / "predictions.png")
    _picture(tmp_path / "in" / "drive" / "000001.png", 1)
    _video(tmp_path / "in" / "drive.avi", 3)
    words = ("predict", run, tmp_path / "in", "-o", tmp_path / "out", "-w", "npy")
    assert invoke(*words).exit_code == 0
    assert len(_json(tmp_path / "out" / "predictions.json")["inputs"]) == 3
    assert _json(tmp_path / "out" / "predictions_png.json")["input"]["path"].endswith("predictions.png")
    assert np.load(tmp_path / "out" / "drive" / "000001.score.npy").shape == (50, 71)
    assert np.load(tmp_path / "out" / "drive_avi" / "000001.score.npy").shape == (50, 72)
    assert "(3 of them before)" in invoke(*words).output


def test_an_image_whose_input_would_be_too_large_is_skipped(run: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "in" / "a.png")
    Image.fromarray(np.zeros((2, 4000, 3), np.uint8)).save(tmp_path / "in" / "long.png")
    result = invoke("predict", run, tmp_path / "in", "-o", tmp_path / "out", "--height", "200", "-w", "none")
    assert result.exit_code == 1, result.output
    (failed,) = _json(tmp_path / "out" / "predictions.json")["failed"]
    assert failed["input"].endswith("long.png") and "`height_px` 200 makes it 200×400000" in failed["problem"]


def test_frames_that_could_not_be_read_are_said(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    _video(tmp_path / "in" / "cut.avi", 7)
    whole = (tmp_path / "in" / "cut.avi").read_bytes()
    (tmp_path / "in" / "cut.avi").write_bytes(b"00dc".join(whole.split(b"00dc")[:5]))  # each begins a frame
    _video(tmp_path / "in" / "whole.avi", 3)
    words = ("predict", run, tmp_path / "in", "-o", tmp_path / "out", "-w", "none")
    for _ in range(2):  # … by a resumed prediction, too
        result = invoke(*words)
        record = _json(tmp_path / "out" / "cut.json")
        assert record["frames_read"] < record["frames_announced"] - 1
        note = f"note: cut: {record['frames_read']} of the 7 frames that its header announces could be read"
        assert note in result.output and "whole:" not in result.output
    entries = _json(tmp_path / "out" / "predictions.json")["inputs"]
    assert [len(each.get("notes", [])) for each in entries] == [1, 0]


@pytest.mark.parametrize(
    ("read", "announced", "said"),
    [(2, 3, True), (8, 10, True), (97, 100, True), (98, 100, False), (19, 20, False), (5, 0, False), (12, 10, False)],
)
def test_a_header_may_be_off_by_a_frame_or_two(read: int, announced: int, said: bool) -> None:
    content = {"frames_read": read, "frames_announced": announced, "fps": 25.0, "every": 1}
    assert bool(module.notes_of(content, overlay=True)) is said


def test_files_that_are_passed_over_are_counted_by_suffix(run: Path, tmp_path: Path) -> None:
    for name in ("a.gif", "c.HEIC", "deep/d.heic", "notes", ".hidden.gif", "Thumbs.db"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    _picture(tmp_path / "in" / "b.png")
    words = ("predict", run, tmp_path / "in", "-w", "none", "-o")
    result = invoke(*words, tmp_path / "out")
    assert result.exit_code == 0
    says = "note: 4 files are neither images nor videos that can be read: .gif (1), .heic (2), no suffix (1)"
    assert says in result.output
    for name in ("a.gif", "c.HEIC", "deep/d.heic", "notes"):
        (tmp_path / "in" / name).unlink()
    assert "neither" not in invoke(*words, tmp_path / "two").output


def test_a_slow_video_has_the_lowest_rate_that_can_be_written(run: Path, tmp_path: Path) -> None:
    _video(tmp_path / "clip.avi", 3)
    words = ("predict", run, tmp_path / "clip.avi", "-o", tmp_path / "out", "--every", "6000")
    for _ in range(2):
        result = invoke(*words)
        assert result.exit_code == 0, result.output
        assert "note: clip: its overlay has 0.01 frames per second" in result.output
    written = cv2.VideoCapture(str(tmp_path / "out" / "clip.overlay.mp4"))
    assert written.read()[0] and written.get(cv2.CAP_PROP_FPS) == pytest.approx(0.01)
    written.release()


def test_exif_orientation_is_applied(run: Path, tmp_path: Path) -> None:
    pixels = _picture(tmp_path / "a.png", size=(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    assert invoke("predict", run, tmp_path / "turned.jpg", "-o", tmp_path / "out", "-w", "npy").exit_code == 0
    record = _json(tmp_path / "out" / "turned.json")
    assert (record["width"], record["height"]) == (40, 60)
    assert np.load(tmp_path / "out" / "turned.score.npy").shape == (60, 40)
    stored = ("predict", run, tmp_path / "turned.jpg", "-o", tmp_path / "stored", "-w", "npy", "--exif", "stored")
    assert invoke(*stored).exit_code == 0
    assert np.load(tmp_path / "stored" / "turned.score.npy").shape == (40, 60)
    assert _json(tmp_path / "stored" / "predictions.json")["settings"]["exif"] == "stored"


def test_the_model_is_an_option_too(run: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    first = invoke("predict", run, tmp_path / "a.png", "-o", tmp_path / "first", "-w", "npy")
    named = invoke("predict", tmp_path / "a.png", "--model", run / "model", "-o", tmp_path / "named", "-w", "npy")
    assert first.exit_code == named.exit_code == 0, named.output
    assert (tmp_path / "first" / "a.score.npy").read_bytes() == (tmp_path / "named" / "a.score.npy").read_bytes()
    assert "model:" not in first.output + named.output
    # All arguments are inputs then, also a folder that could be a model.
    assert "holds no image" in str(refusal("predict", run, "--model", run, "-o", tmp_path / "other"))


def test_what_is_neither_a_model_nor_an_input_is_refused(run: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    assert "nothing to predict" in str(refusal("predict", run))
    wrong = str(refusal("predict", tmp_path / "runs" / "typo", tmp_path / "a.png"))
    assert "typo" in wrong and "does not exist" in wrong and "a run folder" in wrong
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("name: unfinished\n")
    assert "holds no trained model" in str(refusal("predict", tmp_path / "unfinished", tmp_path / "a.png"))
    assert "does not exist" in str(refusal("predict", tmp_path / "a.png", "--model", tmp_path / "typo"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--threshold", "high"], "no threshold"),
        (["--threshold", "nan"], "finite"),
        (["--threshold", "best_f1:moon"], "not evaluated on that set"),
        (["--write", "overlays"], "did you mean overlay"),
        (["--range", "3,1"], "no range"),
        (["--device", "tpu9"], "cannot be used"),
        (["--device", "cuda:77"], "cannot be used"),
        (["--window", "100"], "no size"),
        (["--scales", "0"], "scales.0: 0.0: input should be greater than 0"),
        (["--scales", "-1"], "greater than 0"),
        (["--scales", "0,75"], "greater than 0"),
        (["--scales", "nan"], "scales.0: nan"),
        (["--scales", "1e9"], "less than or equal to 8"),
        (["--height", "10000000"], "height_px: 10000000: input should be less than or equal to 32768"),
        (["--longest-side", "10000000"], "less than or equal to 32768"),
    ],
)
def test_invalid_options_are_refused_with_a_remedy(run: Path, tmp_path: Path, words: list[str], says: str) -> None:
    _picture(tmp_path / "a.png")
    assert says in str(refusal("predict", run, tmp_path / "a.png", "-o", tmp_path / "out", *words))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_training_dependencies_are_not_needed(run: Path, middle: float, tmp_path: Path) -> None:
    """The command with images and a video, without the packages that only training needs."""
    _picture(tmp_path / "in" / "a.png")
    _video(tmp_path / "in" / "clip.avi", 2)
    training = {
        "aiohttp", "deepspeed", "fsspec", "h5py", "jinja2", "matplotlib", "mlflow", "onnxruntime", "onnxscript",
        "pandas", "psutil", "ray", "scipy", "sklearn", "webdataset", "yaml",
    }  # fmt: skip
    assert not training & (NEEDED | {"cv2", "rich", "typer"})
    words = ("predict", run, tmp_path / "in", "-o", tmp_path / "out", "-w", "overlay,npy,png", f"--threshold={middle}")
    run_without(training, "from mgcda_dist.cli.main import app; app(sys.argv[1:])", *words)
    assert (tmp_path / "out" / "a.overlay.png").exists() and (tmp_path / "out" / "clip.overlay.mp4").exists()
