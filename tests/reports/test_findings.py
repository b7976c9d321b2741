"""The sheet of findings: what counts as found, missed and a false alarm, and the picture of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.reports.findings import Shown, findings_figure, findings_of
from mgcda_dist.reports.pictures import FALSE_ALARM_COLOUR, HIT_COLOUR, MISSED_COLOUR


def frame(note: str = "") -> Shown:
    """Two anomalies, of which one is found, an alarm on nothing, one on void, and a speck."""
    score, label = np.zeros((120, 200), np.float32), np.zeros((120, 200), np.uint8)
    label[20:60, 20:60] = ANOMALY
    score[18:62, 18:62] = 2  # with a halo
    label[20:60, 90:130] = ANOMALY
    score[20:30, 90:130] = 2  # a quarter of it
    score[90:110, 20:60] = 2
    label[90:110, 90:130] = VOID
    score[90:110, 90:130] = 2
    score[5:9, 180:184] = 2
    image = np.full((120, 200, 3), 90, np.uint8)
    return Shown("scene", image, score, label, note)


def test_regions_are_found_missed_and_false_alarms() -> None:
    shown = frame()
    result = findings_of(shown.score, shown.label, 1.0)
    assert (result.num_anomalies, result.num_found, result.num_false_alarms) == (2, 1, 1)
    assert result.in_words() == "1 of 2 found, 1 false alarm"
    assert result.found[18:62, 18:62].all() and not result.found[62:].any() and not result.found[:10].any()
    assert result.missed[20:60, 90:130].all() and result.missed.sum() == 40 * 40
    assert result.false_alarms.sum() == 20 * 40


def test_a_threshold_that_nothing_reaches_misses_all() -> None:
    shown = frame()
    assert findings_of(shown.score, shown.label, 3.0).in_words() == "0 of 2 found, 0 false alarms"
    # One that all reaches finds all; the region holds enough anomaly to be no false alarm.
    assert findings_of(shown.score, shown.label, 0.0).in_words() == "2 of 2 found, 0 false alarms"


def test_the_sheet_shows_each_in_its_colour(tmp_path: Path) -> None:
    frames = [frame(), frame("worst of 2 by AP")]
    sheet = findings_figure(frames, tmp_path / "new" / "some.png", threshold=1.0, source="best F1 on a")
    nothing = findings_figure(frames, tmp_path / "none.png", threshold=3.0, source="best F1 on a", title="$a_$")
    shown, empty = drawn(sheet), drawn(nothing)
    assert min(shown.values()) > 200
    assert empty["found"] == empty["alarm"] == 0 and empty["missed"] > shown["missed"]


def drawn(path: Path) -> dict[str, int]:
    """Pixels of each colour in the right column."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.int16)
    pixels = pixels[: 3 * pixels.shape[0] // 4, 2 * pixels.shape[1] // 3 :]
    colours = {"found": HIT_COLOUR, "missed": MISSED_COLOUR, "alarm": FALSE_ALARM_COLOUR}
    return {name: int((np.abs(pixels - np.array(colour)).max(axis=2) < 40).sum()) for name, colour in colours.items()}
