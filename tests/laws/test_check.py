"""Losses of the package and its plug-ins keep the laws; every planted fault is named by the law that it breaks."""

from __future__ import annotations

import re

import pytest

from mgcda_dist.choices import OUTLIER_LOSSES
from mgcda_dist.errors import ConfigError
from mgcda_dist.laws import Finding, LawsReport, check_laws, subject_of
from tests.support.planted import CountingHead

PLUGINS = ["meta_ood", "pebal", "densehybrid", "uem", "ulre"]
PLANTED = "python:tests.support.planted:"
COUNTING = {"name": "unknown", "use": f"{PLANTED}{CountingHead.__name__}"}


def _in_one_process(name: str, **options: object) -> LawsReport:
    return check_laws(subject_of(name, **options), worlds=(), zero_stages=(), with_onnx=False)  # type: ignore[arg-type]


def _broken(report: LawsReport) -> dict[str, Finding]:
    return {each.title if each.law in ("4", "5") else each.law: each for each in report.broken}


@pytest.mark.parametrize("name", [*OUTLIER_LOSSES, *(f"plugin:{each}" for each in PLUGINS), f"{PLANTED}Sound"])
def test_what_the_package_brings_keeps_the_laws(name: str) -> None:
    report = _in_one_process(name)
    assert not report.broken, report.broken
    laws = {each.law: each for each in report.findings}
    assert set(laws) == {"1, 6", "2", "3", "4", "5", "parts", "sign"}
    cases = "with mdat and cacl and teacher, without mdat, without cacl, without teacher"
    assert (laws["parts"].title, laws["parts"].verdict, laws["parts"].number) == (cases, "kept", 0.0)
    assert laws["sign"].verdict == ("not applicable" if name == "none" else "kept")


@pytest.mark.parametrize(("name", "sign"), [("set_loss", "not applicable"), ("rba", "kept"), ("mask2anomaly", "kept")])
def test_losses_of_masks_keep_the_laws(name: str, sign: str) -> None:
    report = _in_one_process(f"plugin:{name}", arguments={"num_queries": 12, "num_points": 64})
    assert not report.broken, report.broken
    assert report.findings[-1].verdict == sign


@pytest.mark.parametrize(
    ("planted", "law", "says"),
    [
        ("MeanOverImages", "1, 6", "that looks like a mean over images; return the sum"),
        ("MeanOverPixels", "1, 6", "that looks like a mean over (pixels of a class|anomalous pixels|what .* is over)"),
        ("PlaceInBatch", "1, 6", "depends on the place of an image in its batch"),
        ("GlobalGenerator", "2", "draws from the global generator of torch"),
        ("Memory", "2", "remembers calls"),
        ("NothingIsNoNumber", "3", "the loss is nan: a mean over nothing"),
        ("NothingIsNoGraph", "3", "trained parameters get no gradient, first .*heads.unknown"),
        ("RankWithoutAsking", "1, 6", "asks torch.distributed"),
        ("Sign", "sign", "moving inliers down along the score raises the loss .*down rises by"),
    ],
)
def test_a_planted_fault_is_named(planted: str, law: str, says: str) -> None:
    found = _broken(_in_one_process(PLANTED + planted))
    assert law in found, found
    assert re.search(says, found[law].said), found[law]


def test_a_head_that_moves_a_buffer_is_refused() -> None:
    """By the check of every network, in words; nothing could be trained with it."""
    with pytest.raises(ConfigError, match=r"changes buffers in its forward pass: .*calls"):
        _in_one_process(f"{PLANTED}Named", heads=[COUNTING])


def test_a_dropped_head_that_moves_a_buffer_is_named() -> None:
    """No check of the network sees it."""
    report = _in_one_process(f"{PLANTED}Named", heads=[{**COUNTING, "kept": False}])
    found = _broken(report)["no buffer changes in a forward pass"]
    assert "calls" in found.where and found.number


def test_a_score_that_sees_other_images_is_named() -> None:
    found = _broken(_in_one_process(f"{PLANTED}Sound", score=f"{PLANTED}MixingScore"))
    assert found["score by halves equals the whole"].where == "each image by itself"


def test_an_argument_reaches_the_loss() -> None:
    report = _in_one_process("plugin:uem", arguments={"weight": -1.0})
    assert [each.law for each in report.broken] == ["sign"], "a weight below 0 turns the loss around"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("plugin:uemm", {}, "did you mean uem"),
        ("uem", {}, "write plugin:uem"),
        ("energy_hing", {}, "did you mean energy_hinge"),
        ("configs/methods/uemm.yaml", {}, "did you mean configs/methods/uem.yaml"),
        ("plugin:uem_score", {}, "is a score"),
        ("plugin:uem", {"score": "enrgy"}, "did you mean energy"),
        ("energy_hinge", {"arguments": {"inlier_energy": -5}}, "loss.inlier_energy"),
        ("configs/methods/uem.yaml", {"score": "energy"}, "model.score"),
        ("plugin:uem", {"arguments": {"wieght": 2}}, "wieght"),
    ],
)
def test_a_slip_has_a_remedy(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        subject_of(name, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_real_ranks_agree() -> None:
    report = check_laws(subject_of("plugin:uem"), worlds=(2,), zero_stages=(), with_onnx=False)
    assert not report.broken, report.broken
    first = report.findings[0]
    assert first.title == "W = 1, 2 and accumulation agree" and first.number is not None and first.number < 1e-9


@pytest.mark.slow
def test_a_planted_rank_is_named() -> None:
    report = check_laws(subject_of(f"{PLANTED}Rank"), worlds=(2,), zero_stages=(), with_onnx=False)
    (found,) = report.broken
    assert found.law == "1, 6" and "on rank 1 of 2: it depends on the rank" in found.said
    assert found.number is not None and found.number > 1e-3


@pytest.mark.extended
def test_zero_trains_as_one_process() -> None:
    report = check_laws(subject_of("plugin:densehybrid"), worlds=(2,))
    assert {each.law: each.verdict for each in report.findings}["zero"] == "kept"
    assert not report.broken, report.broken
