"""An exported model: the scores of the evaluation, without the training code's dependencies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mgcda_dist import build
from mgcda_dist.data import pixels
from mgcda_dist.errors import CheckpointError
from mgcda_dist.evaluation.test_time import TestTimeAugmentation, score_map
from mgcda_dist.inference.model import load_exported
from mgcda_dist.models.scores import scorer
from tests.support.commands import run_without
from tests.support.exported import NEEDED, write_run

ENERGY = scorer("energy")
_PREDICT = """
import numpy as np
from mgcda_dist.inference.model import load_exported
scores, classes = load_exported(sys.argv[1]).predict(np.load(sys.argv[2]))
np.save(sys.argv[3], scores)
"""


def _image(height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_scores_are_those_of_the_network(run: Path) -> None:
    model = load_exported(run)
    scores, classes = model.predict(_image(), height_px=0)
    _, network = build.load_model(run / "model")
    expected, predicted = score_map(network, _image(), (50, 70), score=ENERGY)
    assert np.array_equal(scores, expected)
    assert np.array_equal(classes, predicted)
    assert model.name == "tiny" and model.class_names[0] == "road" and len(model.digest) == 64


def test_the_run_s_height_is_used_and_the_result_has_the_image_s_size(run: Path) -> None:
    model = load_exported(run / "model")
    assert model.height_px == 32
    scores, _ = model.predict(_image())
    shown = pixels.resized(_image(), 32, 45)
    assert np.array_equal(scores, score_map(model.network, shown, (50, 70), score=ENERGY)[0])
    assert scores.shape == (50, 70)
    assert not np.array_equal(scores, model.predict(_image(), augmentation=TestTimeAugmentation(flip=True))[0])


def test_the_run_s_augmentation_is_the_default(tmp_path: Path) -> None:
    options = {"scales": [0.5, 1.0], "flip": True, "window_px": [64, 64], "window_overlap": 0.5, "blur": True}
    model = load_exported(write_run(tmp_path / "averaging", options))
    augmentation = TestTimeAugmentation((0.5, 1.0), True, (64, 64), 0.5)
    assert model.augmentation == augmentation and model.blur
    scores, _ = model.predict(_image(90, 110), height_px=0)
    shown = score_map(model.network, _image(90, 110), (90, 110), score=ENERGY, augmentation=augmentation, blur=True)[0]
    assert np.array_equal(scores, shown)
    once, _ = model.predict(_image(), height_px=0, augmentation=TestTimeAugmentation(), blur=False)
    assert np.array_equal(once, score_map(model.network, _image(), (50, 70), score=ENERGY)[0])


def test_only_torch_timm_and_their_dependencies_are_needed(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", _image())
    stack = {"cv2", "deepspeed", "matplotlib", "mlflow", "pandas", "ray", "scipy", "typer", "webdataset"}
    assert not stack & NEEDED
    run_without(stack, _PREDICT, run, tmp_path / "image.npy", tmp_path / "scores.npy")
    # Images are resized within a grey level of OpenCV.
    expected = load_exported(run).predict(_image())[0]
    assert np.load(tmp_path / "scores.npy") == pytest.approx(expected, abs=0.02 * float(np.ptp(expected)))


@pytest.mark.parametrize("size", [(25, 35), (31, 43), (49, 69), (80, 112), (125, 175)])
def test_without_opencv_images_are_resized_by_the_same_rule(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    ours = pixels.resized(_image(), *size).astype(int)
    monkeypatch.setattr(pixels, "cv2", None)
    assert np.abs(pixels.resized(_image(), *size).astype(int) - ours).max() <= 1


def test_missing_and_damaged_models_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_exported(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no trained model"):
        load_exported(tmp_path)
    folder = write_run(tmp_path / "damaged") / "model"
    content = json.loads((folder / "model.json").read_text())
    content["architecture"]["num_classes"] = 3
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_exported(folder)
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="not an exported model"):
        load_exported(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="not an exported model"):
        load_exported(folder)


def test_loading_does_not_change_the_global_generator(run: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_exported(run)
    assert torch.equal(torch.rand(1), expected)
