"""`mgcda evaluate` on real files with a small network: what the folder holds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from mgcda_dist import build
from mgcda_dist.choices import CLASS_SPACES
from mgcda_dist.config.keys import description
from mgcda_dist.config.run import CheckpointConfig
from mgcda_dist.data.frames import Frame
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import CheckpointError, ConfigError
from mgcda_dist.evaluation.bootstrap import ImageTables, bootstrap
from mgcda_dist.evaluation.folder import free_folder, write_evaluation
from mgcda_dist.evaluation.job import EvaluationJob, run_job
from mgcda_dist.evaluation.pixel import PixelHistogram
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.evaluation_request import EvaluationOptions, model_request, sets_of
from tests.support import shards as made
from tests.support.commands import invoke, refusal
from tests.support.exported import write_run


@pytest.fixture(scope="module")
def evaluation(tiny_shards: Path) -> dict[str, Any]:
    """Of a run: one set, at its own size."""
    sets = [{"name": "unseen", "shards": f"{tiny_shards}/real_day/test"}]
    return {"sets": sets, "kept_frames": 1, "height_px": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, evaluation: dict[str, Any]) -> Path:
    """The folder of a run whose network was never trained."""
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", evaluation)


def _evaluated(run: Path, out: Path, **options: Any) -> dict[str, Any]:
    request = model_request(run, [], EvaluationOptions(**options))
    done = run_job(request.job, Collectives(), torch.device("cpu"))
    write_evaluation(done.record(), done.results, out)
    return json.loads((out / "results.json").read_text())


def _frames(run: Path) -> list[Frame]:
    """The frames of the run's own evaluation set."""
    config, _ = build.load_model(run / "model")
    frames = build.evaluation_frames(config.evaluation.sets[0], config.data)
    return [frames[index] for index in range(len(frames))]


def _energy(run: Path, frame: Frame) -> NDArray[np.float32]:
    """The score of each pixel of a frame, by PyTorch alone."""
    _, network = build.load_model(run / "model")
    with torch.no_grad():
        logits = network(torch.as_tensor(frame.image).permute(2, 0, 1).unsqueeze(0)).logits
    logits = torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")
    return -torch.logsumexp(logits, 1)[0].numpy()


def _average_precision(frames: list[Frame], scores: list[NDArray[np.floating]]) -> float:
    """scikit-learn's, of all valid pixels."""
    valid = [frame.label != 255 for frame in frames]
    labels = [frame.label[mask] == 254 for frame, mask in zip(frames, valid, strict=True)]
    values = [score[mask] for score, mask in zip(scores, valid, strict=True)]
    return float(average_precision_score(np.concatenate(labels), np.concatenate(values)))


def test_a_run_evaluated_in_windows_is_shown_whole_frames_when_asked_to(
    evaluation: dict[str, Any], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "windowed", evaluation | {"window_px": (64, 64)})
    for asked, window_px in ((None, (64, 64)), ((), None)):
        network = model_request(run, [], EvaluationOptions(window_px=asked)).job.settings.network
        assert network is not None and network.augmentation.window_px == window_px


def test_the_folder_holds_what_it_says(run: Path, tmp_path: Path, tiny_shards: Path) -> None:
    results = _evaluated(run, tmp_path)
    row = results["sets"]["unseen"]
    assert results["convention"] == "pooled" and results["score"] == "energy"
    assert results["subject"]["kind"] == "model" and len(results["subject"]["digest"]) == 64
    for metric in ("ap", "miou"):
        assert row["intervals"][metric][0] <= row[metric] <= row["intervals"][metric][1]
    assert set(row) >= {"ap", "auroc", "fpr95", "best_f1", "miou", "iou", "frames", "manifest_digest", "pixels"}
    frames = _frames(run)
    assert row["ap"] == pytest.approx(_average_precision(frames, [_energy(run, each) for each in frames]), abs=1e-4)
    folder = tmp_path / "sets" / "unseen"
    tables = ImageTables.load(folder / "frames.npz")
    assert len(tables) == row["frames"] == len(frames)
    assert bootstrap(tables)["ap"].value == pytest.approx(row["ap"], abs=1e-3)
    assert bootstrap(tables)["miou"].value == pytest.approx(row["miou"], abs=1e-12)
    curves = json.loads((folder / "curves.json").read_text())
    assert len({len(curves[name]) for name in ("threshold", "recall", "precision", "fpr")}) == 1
    assert len(curves["recall"]) <= 500
    listing = json.loads((folder / "frames.json").read_text())
    assert [each["key"] for each in listing["frames"]] == [frame.key for frame in frames]
    assert len(listing["score_levels"]) <= 256 and listing["score_levels"] == sorted(listing["score_levels"])
    kept = [each for each in listing["frames"] if "image" in each]
    assert [each["key"] for each in sorted(kept, key=lambda each: each["ap"])] == listing["kept"]
    ranked = sorted(each["ap"] for each in listing["frames"] if "ap" in each)
    assert sorted(each["ap"] for each in kept) == [ranked[0], ranked[-1]]
    # A picture of scores gives the scores back, in levels.
    levels, frame = listing["score_levels"], next(frame for frame in frames if frame.key == kept[0]["key"])
    score = _energy(run, frame)
    picture = cv2.imread(str(folder / kept[0]["score"]), cv2.IMREAD_UNCHANGED)
    label = cv2.imread(str(folder / kept[0]["label"]), cv2.IMREAD_UNCHANGED)
    image = cv2.imread(str(folder / kept[0]["image"]))
    assert picture is not None and image is not None and label is not None
    assert picture.shape == score.shape == image.shape[:2] and (label == frame.label).all()
    for level in range(1, len(levels), 37):
        assert ((picture >= level) == (score >= levels[level])).mean() > 0.9999


def test_the_measurement_of_a_checkpoint_costs_no_interval_and_no_curve(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rank waits for it, and nobody reads them: `Validation.measure` takes the metrics alone."""
    config, network = build.load_model(run / "model")
    best = CheckpointConfig.model_validate({"best": {"set": config.evaluation.sets[0], "metric": "ap"}})
    config = config.model_copy(update={"checkpoint": best})
    tracking = config.tracking.model_copy(update={"preview_frames": 2})
    jobs = [build.validation_job(config), build.preview_job(config.model_copy(update={"tracking": tracking}))]
    whole = build.evaluation_job(config, run / "model")
    assert not whole.metrics_only and EvaluationJob.of_json(whole.as_json()) == whole
    (expected,) = run_job(whole, Collectives(), torch.device("cpu")).results
    assert expected.intervals and expected.curves.recall.size
    monkeypatch.setattr("mgcda_dist.evaluation.evaluate.bootstrap", lambda *_, **__: pytest.fail("nobody reads it"))
    monkeypatch.setattr(PixelHistogram, "curves", lambda *_: pytest.fail("nobody reads it"))
    for job in jobs:
        assert job is not None
        (result,) = run_job(job, Collectives(), torch.device("cpu"), network=network.eval()).results
        assert len(result.panel) == job.panel_frames
        if job is jobs[0]:
            assert result.metrics() == expected.metrics() and not result.intervals


def test_evaluations_do_not_overwrite_each_other(run: Path, tmp_path: Path) -> None:
    plain, blurred = (model_request(run, [], EvaluationOptions(blur=blur)).job.identity() for blur in (None, True))
    assert plain != blurred
    wanted = tmp_path / "evaluation"
    assert free_folder(wanted, plain) == wanted
    results = _evaluated(run, wanted)
    assert results["evaluation_id"] == plain
    assert free_folder(wanted, plain) == wanted
    assert free_folder(wanted, blurred) == tmp_path / "evaluation-2"
    (wanted / "results.json").write_text("{")
    assert free_folder(wanted, plain) == tmp_path / "evaluation-2"


def test_names_and_places_of_checkpoints(run: Path, tmp_path: Path, tiny_shards: Path) -> None:
    config, network = build.load_model(run / "model")
    for step in (10, 20):
        build.save_model(config, network, tmp_path / f"other/checkpoints/step-{step:08d}/model")
    newest = model_request(tmp_path / "other", sets_of([f"{tiny_shards}/real_day/test"]), EvaluationOptions())
    assert newest.job.name == "tiny_step-00000020"
    assert newest.beside == tmp_path / "other/evaluation-step-00000020"
    assert model_request(run, [], EvaluationOptions()).beside == run / "evaluation"
    assert model_request(run / "model", [], EvaluationOptions(), name="mine").job.name == "mine"


def test_a_typo_says_what_was_meant(run: Path, tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*real_day/test\?"):
        sets_of([str(tiny_shards / "real_dya" / "test")])
    with pytest.raises(ConfigError, match=r"did you mean .*real_day/train or .*test"):
        sets_of([str(tiny_shards / "real_day")])
    with pytest.raises(CheckpointError, match=r"does not exist\n.*did you mean .*tiny\?"):
        model_request(run.with_name("tinny"), [], EvaluationOptions())
    assert [entry.name for entry in sets_of([f"x={tiny_shards}/real_day/test"])] == ["x"]
    both = sets_of([str(tiny_shards / "real_day/test"), str(tiny_shards / "real_day/test")])
    assert [entry.name for entry in both] == ["real_day_test_0", "real_day_test_1"]
    urls = sets_of(["s3://bucket/road/test", "x=https://host/shards?version=2"])
    assert [(entry.name, entry.shards) for entry in urls] == [
        ("road_test", "s3://bucket/road/test"),
        ("x", "https://host/shards?version=2"),
    ]


# -------------------------------------------------------------------------------------------------- the command itself


def test_maps_of_a_model_measure_what_the_model_does(run: Path, tmp_path: Path, tiny_shards: Path) -> None:
    h5py = pytest.importorskip("h5py")
    data = ["--data", f"unseen={tiny_shards}/real_day/test"]
    options = ["--convention", "pooled,pooled_nearest,per_image,skip_empty"]
    components = ["--components", "obstacle", "--instances"]
    done = invoke("evaluate", run, *data, *options, *components, "--submission", "smiyc", "--out", tmp_path / "model")
    assert done.exit_code == 0, done.output
    maps = next((tmp_path / "model/submission/anomaly_p/tiny").iterdir())
    done = invoke("evaluate", "--maps", f"foreign={maps}", *data, *options, *components, "--out", tmp_path / "maps")
    assert done.exit_code == 0, done.output
    model, foreign = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("model", "maps"))
    assert foreign["subject"].items() >= {"name": "foreign", "kind": "maps", "class_space": ""}.items()
    first, second = model["sets"]["unseen"], foreign["sets"]["unseen"]
    assert "miou" in first and "miou" not in second
    for convention, numbers in first["conventions"].items():
        for name, value in numbers.items():
            # In between were numbers of 11 bits, and the network was never trained: its scores are all alike.
            assert second["conventions"][convention][name] == pytest.approx(value, abs=0.02), (convention, name)
    frames, scores = _frames(run), list[NDArray[np.floating]]()
    for frame in frames:
        with h5py.File(maps / f"{frame.key}.hdf5") as file:
            scores.append(file["value"][:])
    assert second["ap"] == pytest.approx(_average_precision(frames, scores), abs=1e-4)
    assert (tmp_path / "maps/results.md").read_text().startswith("Per cent.")
    assert not list((tmp_path / "maps").glob("pictures/panel*"))


def test_several_at_once_share_a_table(run: Path, tmp_path: Path) -> None:
    done = invoke("evaluate", run, f"again={run}", "--max-frames", 2, "--kept", 0, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "again" in done.output and "tables of all" in done.output
    text = (tmp_path / "results.tex").read_text()
    assert r"tiny & " in text and "again & " in text
    for name in ("tiny", "again"):
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert results["sets"]["unseen"]["frames"] == 2 and results["sets"]["unseen"]["max_frames"] == 2
        assert not any((tmp_path / name / "sets/unseen/frames").iterdir())


def test_every_test_time_option_is_recorded_and_makes_another_evaluation(run: Path, tmp_path: Path) -> None:
    options = ["--scales", "0.5,1", "--flip", "--window", "64x96", "--overlap", "0.5", "--blur", "--height", "64"]
    done = invoke("evaluate", run, "--max-frames", 2, "--score", "entropy", *options, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    expected = {"score": "entropy", "scales": [0.5, 1.0], "flip": True, "window_px": [64, 96], "window_overlap": 0.5}
    assert results.items() >= (expected | {"blur": True, "height_px": 64}).items()
    assert "another evaluation" in str(refusal("evaluate", run, "--max-frames", 2, "--out", tmp_path))
    again = invoke("evaluate", run, "--max-frames", 2, "--score", "entropy", *options, "--out", tmp_path)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert invoke("evaluate", run, "--max-frames", 2, "--out", tmp_path, "--overwrite").exit_code == 0


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "names", [["sets/keep.txt", "results.md"], ["photo.jpg"], ["logs/worker-0.log", "config.yaml"]]
)
def test_files_of_others_are_never_deleted_and_not_joined_unless_asked(
    run: Path, tmp_path: Path, names: list[str]
) -> None:
    mine, words = tmp_path / "mine", ("evaluate", run, "--max-frames", 1, "--out")
    for name in (f"{place}{name}" for place in ("", "tiny/") for name in names):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("mine")
    before = _tree(mine)
    assert "holds other files\n  → give another folder, or `overwrite`" in str(refusal(*words, mine))
    assert "holds other files" in str(refusal("evaluate", run, f"b={run}", "--max-frames", 1, "--out", mine))
    assert _tree(mine) == before
    done = invoke(*words, mine, "--overwrite")
    assert done.exit_code == 0, done.output
    kept = [name for name in before if name not in ("results.md", "logs/worker-0.log")]
    assert all((mine / name).read_text() == "mine" for name in kept) and (mine / "results.json").is_file()
    assert free_folder(mine / "tiny", "x") == mine / "tiny-2"


def test_tables_of_all_replace_no_others(run: Path, tmp_path: Path) -> None:
    both = ("evaluate", run, f"b={run}", "--max-frames", 1, "--out")
    (tmp_path / "results.tex").write_text("mine")
    assert "holds other files" in str(refusal(*both, tmp_path))
    (tmp_path / "results.tex").unlink()
    (tmp_path / "photo.jpg").write_text("mine")
    assert invoke(*both, tmp_path).exit_code == invoke(*both, tmp_path).exit_code == 0
    assert "another evaluation" in str(refusal(*both, tmp_path / "b"))


@pytest.mark.parametrize("left", ["begun", "written"])
def test_an_evaluation_that_was_killed_is_made_again_in_its_folder(run: Path, tmp_path: Path, left: str) -> None:
    words = ("evaluate", run, "--max-frames", 2, "--kept", 1, "--out", tmp_path)
    if left == "written":
        assert invoke(*words).exit_code == 0
        for name in ("results.json", "results.tex", "sets/unseen/frames.json"):
            (tmp_path / name).unlink()
        (tmp_path / "sets/unseen/.curves.json.12345678.part").touch()
        (tmp_path / ".results.tex.12345678.part").touch()
        (tmp_path / "sets/gone/frames").mkdir(parents=True)
        (tmp_path / "sets/gone/frames/00_a.score.png").touch()
    else:
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs/worker-0.log").touch()
        (tmp_path / "events.jsonl").touch()
    assert free_folder(tmp_path, "x") == tmp_path
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "sets").iterdir()} == {"unseen"}
    assert not any("part" in name for name in _tree(tmp_path / "sets"))


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_frame(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgcda_dist.evaluation.job.run_job", lambda *_, **__: pytest.fail("a frame was evaluated"))
    monkeypatch.setattr("mgcda_dist.training.worker.run_job", lambda *_, **__: pytest.fail("a frame was evaluated"))
    (tmp_path / "afile").write_text("mine")
    for overwrite in ([], ["--overwrite"]):
        words = ("evaluate", run, *overwrite, "--out")
        assert "afile: is a file\n  → give a folder" in str(refusal(*words, tmp_path / "afile"))
        assert "below: cannot be written to (Not a directory)" in str(refusal(*words, tmp_path / "afile/below"))
        several = ("evaluate", f"b={run}", run, *overwrite, "--out", tmp_path / "afile")
        assert "afile/b: cannot be written to (Not a directory)" in str(refusal(*several))
    assert (tmp_path / "afile").read_text() == "mine"


def test_wrong_commands_say_what_to_do(run: Path, tmp_path: Path, tiny_shards: Path) -> None:
    maps, data = tmp_path / "maps", ["--data", str(tiny_shards / "real_day/test")]
    maps.mkdir()
    assert "nothing to evaluate" in str(refusal("evaluate", *data))
    assert "give `data`" in str(refusal("evaluate", "--maps", maps))
    assert "holds no score map" in str(refusal("evaluate", "--maps", maps, *data))
    np.save(maps / "x.npy", np.zeros((4, 4)))
    assert "have no map" in str(refusal("evaluate", "--maps", maps, *data))
    assert "only score maps are evaluated" in str(refusal("evaluate", "--maps", maps, *data, "--flip"))
    assert "conventions.0: 'poold'" in str(refusal("evaluate", run, "--convention", "poold"))
    assert "no list of numbers" in str(refusal("evaluate", run, "--scales", "1;2"))
    assert "no size" in str(refusal("evaluate", run, "--window", "512"))
    assert "two of the evaluated are called 'tiny'" in str(refusal("evaluate", run, run / "model", "--out", tmp_path))
    assert "is no name" in str(refusal("evaluate", f"a/b={run}"))
    objects = tiny_shards / "objects/train"
    assert "holds objects" in str(refusal("evaluate", run, "--data", objects))


def test_frames_without_anomalies_have_miou_only(run: Path, tmp_path: Path, tiny_shards: Path) -> None:
    data = ("--data", f"plain={tiny_shards}/render_b/train", "--max-frames", 3)
    done = invoke("evaluate", run, *data, "--components", "anomaly", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    row = json.loads((tmp_path / "results.json").read_text())["sets"]["plain"]
    assert "ap" not in row and "mean_f1" not in row and set(row["intervals"]) == {"miou"}
    listing = json.loads((tmp_path / "sets/plain/frames.json").read_text())
    assert listing["kept"] and all("ap" not in frame and "miou" in frame for frame in listing["frames"])


def test_labels_without_anomalies_and_classes_are_named(tmp_path: Path) -> None:
    image, _ = made.frame(0)
    blank = made.encoded(np.zeros(image.shape[:2], np.uint8))
    samples = [SourceSample("a", made.encoded(image), "png", blank)]
    write_shards(samples, tmp_path / "set", dataset="plain", split="test", label_format="binary", samples_per_shard=1,
                 workers=1)  # fmt: skip
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", np.zeros(image.shape[:2], np.float32))
    done = invoke("evaluate", "--maps", tmp_path / "maps", "--data", f"blank={tmp_path}/set", "--out", tmp_path / "out")
    assert done.exit_code == 0 and "note: blank: no anomaly pixel in its labels" in done.output, done.output


def test_results_are_broken_down_by_category_and_folder(tmp_path: Path) -> None:
    samples: list[SourceSample] = []
    generator = np.random.default_rng(0)
    for number in range(6):
        image, _ = made.frame(number)
        label = np.ones(image.shape[:2], np.uint8)
        label[5:15, 5:25] = 2 if number % 2 else 23
        label[:3] = 0
        key = f"{'day' if number < 4 else 'night'}/{number:04d}"
        samples.append(SourceSample(key, made.encoded(image), "png", made.encoded(label)))
        scores = generator.normal(2.0 * (label > 1) + (label == 23), 1.0).astype(np.float32)
        (tmp_path / "maps" / key).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "maps" / f"{key}.npy", scores)
    write_shards(samples, tmp_path / "laf", dataset="lost_and_found", split="test", label_format="lost_and_found_ids",
                 samples_per_shard=4, workers=1)  # fmt: skip
    done = invoke("evaluate", "--maps", tmp_path / "maps", "--data", f"laf={tmp_path}/laf", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    row = json.loads((tmp_path / "out/results.json").read_text())["sets"]["laf"]
    assert set(row["categories"]) == {"emotional hazards", "standard objects"}
    assert row["categories"]["emotional hazards"]["anomaly_pixels"] == 3 * 200
    assert (
        row["categories"]["emotional hazards"]["auroc"] > row["auroc"] > row["categories"]["standard objects"]["auroc"]
    )
    assert {name: group["frames"] for name, group in row["groups"].items()} == {"day": 4, "night": 2}
    text = (tmp_path / "out/results.md").read_text()
    assert "| laf | maps | emotional hazards | 3 | 600 |" in text and "| laf | maps | night | 2 | 400 |" in text


def test_a_model_of_another_class_space_is_measured_in_its_own(evaluation: dict[str, Any], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation, "idd7")
    done = invoke("evaluate", run, "--max-frames", 3, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["subject"]["class_space"] == "idd7"
    assert set(results["sets"]["unseen"]["iou"]) <= set(CLASS_SPACES["idd7"])
    assert results["sets"]["unseen"]["pixels"]["anomaly"] > 0


def test_an_impossible_option_is_refused_with_its_meaning(run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        model_request(run, [], EvaluationOptions(scales=[]))
    assert (caught.value.where, caught.value.problem[:4]) == ("scales", "[]: ")
    assert caught.value.remedy == description(("evaluation", "scales"))


def test_a_model_from_elsewhere_runs_no_command(tmp_path: Path, tiny_shards: Path) -> None:
    place = f"{tiny_shards}/real_day/test pipe:touch {tmp_path}/run; cat {tiny_shards}/real_day/test/{{}}"
    model = write_run(tmp_path / "x", {"sets": [{"name": "unseen", "shards": place}]}) / "model"
    with pytest.raises(ConfigError, match=r"the model's own configuration names a command: .*pipe:touch"):
        model_request(model, [], EvaluationOptions())
    assert not (tmp_path / "run").exists()
    assert model_request(model, sets_of([f"x={place}"]), EvaluationOptions()).job.sets[0].shards == place
