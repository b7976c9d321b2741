"""Charts: well-formed, escaped, with legend and units, whatever the numbers are."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mgcda_dist.reports.charts import Chart, line_chart
from mgcda_dist.reports.plots import Axis, Line, Plot, number


def drawn(y: list[float], **axis: object) -> tuple[Chart, ElementTree.Element]:
    chart = line_chart("c", Plot("t", Axis("step"), Axis("loss", **axis), [Line("a", list(range(len(y))), y)]))  # pyright: ignore[reportArgumentType]
    json.dumps(chart.facts, allow_nan=False)
    return chart, ElementTree.fromstring(str(chart.svg))


def points(root: ElementTree.Element) -> list[tuple[float, float]]:
    path = next((node.get("d", "") for node in root.iter("path") if node.get("class") == "line raw"), "")
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


@pytest.mark.parametrize(
    "y",
    [
        [], [1.0], [0.0, 0.0], [math.nan, math.nan], [1.0, math.nan, 2.0], [1e-12, 1e12], [-5.0, 5.0],
        [math.inf, 1.0, -math.inf], [1e-310, 1.0], list(np.linspace(0, 1, 5000)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("log", [False, True])
def test_any_numbers_make_a_chart_within_its_frame(y: list[float], log: bool) -> None:
    chart, root = drawn(y, log=log, from_zero=not log)
    for px, py in points(root):
        assert 46 <= px <= 350 and 10 <= py <= 186
    texts = [node.text for node in root.iter("text")]
    assert "step" in texts and "loss" in texts and len(texts) > 4
    assert len(chart.facts["series"][0]["x"]) <= 700


def test_a_gap_stays_a_gap_and_a_spike_stays_a_spike() -> None:
    path = next(
        node for node in drawn([1.0, 2.0, math.nan, 3.0, 4.0])[1].iter("path") if node.get("class") == "line raw"
    )
    assert path.get("d", "").count("M") == 2
    spiky = [0.0] * 4000
    spiky[2345] = 7.0
    assert max(drawn(spiky)[0].facts["series"][0]["y"]) == 7


def test_logarithmic_ticks_are_powers_of_ten() -> None:
    _, root = drawn([1e-3, 1.0, 1e3], log=True)
    values = [
        float(node.text or "") for node in root.iter("text") if node.get("class") is None and node.get("x") == "41"
    ]
    assert len(values) >= 3 and all(math.log10(value).is_integer() for value in values)


def test_the_same_values_give_the_same_bytes() -> None:
    assert drawn([1.0, 3.0, 2.0])[0].svg == drawn([1.0, 3.0, 2.0])[0].svg


def test_words_are_escaped_and_never_become_markup() -> None:
    evil = '"><script>alert(1)</script>&'
    line = Line(evil, [0, 1], [0, 1], dots=((0.5, 0.5, evil),), note=evil)
    chart = line_chart("c", Plot(evil, Axis(evil), Axis(evil), [line], (0.5, evil), [([0, 1], [0, 1], evil)]))
    root = ElementTree.fromstring(str(chart.svg))
    assert "script" not in {node.tag for node in root.iter()}
    assert evil in {node.text for node in root.iter("text")}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "–"),
        (0.0, "0"),
        (1234567.0, "1.235e6"),
        (0.000012345, "1.234e−5"),
        (-3.61549, "−3.615"),
        (12345.0, "12345"),
    ],
)
def test_numbers_for_readers(value: float, text: str) -> None:
    assert number(value) == text


def test_percent_for_readers() -> None:
    assert number(0.74825, percent=True) == "74.83" or number(0.74825, percent=True) == "74.82"


def test_a_mark_outside_the_axes_is_drawn_on_their_edge() -> None:
    """As a false positive rate of 0 is, of maps that separate perfectly, on a logarithmic axis."""
    line = Line("a", [0.01, 1.0], [0.5, 1.0], dots=((0.0, 0.95, "FPR95 0.00 %"), (0.1, 2.0, "high")))
    plot = Plot("ROC", Axis("FPR", 1e-3, 1.0, log=True), Axis("TPR", 0.0, 1.0), [line])
    titles = [node.text for node in ElementTree.fromstring(str(line_chart("c", plot).svg)).iter("title")]
    assert titles == ["FPR95 0.00 %", "high"]
