import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.choices import ANOMALY, VOID
from mgcda_dist.evaluation.metrics import CurvePoints
from mgcda_dist.evaluation.set_result import PanelRow
from mgcda_dist.reports.figures import panel_figure, plots_figure
from mgcda_dist.reports.lettering import drawable, families
from mgcda_dist.reports.palette import ANOMALY_COLOUR, class_colours
from mgcda_dist.reports.plots import curve_plots, history_plots


def row(height: int, width: int, key: str = "frame") -> PanelRow:
    rng = np.random.default_rng(0)
    label = np.full((height, width), 253, np.uint8)
    label[: height // 4] = VOID
    label[height // 2 :, : width // 2] = ANOMALY
    score = rng.standard_normal((height, width)).astype(np.float32)
    image = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    return PanelRow(key, image, rng.integers(0, 3, (height, width)).astype(np.uint8), score, label)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def near(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=2) < tolerance).sum())


def test_panel_shows_every_frame_and_marks_anomalies(tmp_path: Path) -> None:
    names = ("road", "sky", "unheard_of")
    one = pixels(panel_figure([row(90, 160)], names, tmp_path / "new" / "one.png"))
    three = pixels(panel_figure([row(90, 160), row(120, 120), row(60, 160)], names, tmp_path / "three.png", title="t"))
    assert three.shape[1] == one.shape[1] and three.shape[0] > 1.8 * one.shape[0]
    assert near(one, ANOMALY_COLOUR) > 1000
    assert near(one, (140, 140, 140), 2) > 1000
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["one.png"]


def test_names_of_any_script_are_told_apart(tmp_path: Path) -> None:
    frames = [row(30, 40, key="道路/$x$")]
    one = pixels(panel_figure(frames, ("道路", "天空", r"$\frac"), tmp_path / "one.png", title="$a_$"))
    other = pixels(panel_figure(frames, ("天空", "道路", r"$\frac"), tmp_path / "other.png", title="$a_$"))
    assert one.shape != other.shape or (one != other).any()


def test_signs_that_no_font_has_are_code_points() -> None:
    assert drawable("дорога ü") == "дорога ü" and families(["дорога ü"]) == ["DejaVu Sans"]
    assert drawable("a\U0010fffdb") == "aU+10FFFDb" and drawable("$x$") == r"\$x\$"


def test_panel_of_large_frames_and_constant_or_broken_scores(tmp_path: Path) -> None:
    large = row(1024, 2048, key="a/" + "very_long_name_" * 10)
    constant = PanelRow("constant", large.image, large.predicted, np.zeros((1024, 2048), np.float32), large.label)
    broken = PanelRow("nan", large.image, large.predicted, np.full((1024, 2048), np.nan, np.float32), large.label)
    path = panel_figure([constant, broken], ("road", "sky"), tmp_path / "p.png")
    assert pixels(path).shape[1] < 2000 and path.stat().st_size < 4e6


def test_curves(tmp_path: Path) -> None:
    recall, precision, fpr = np.linspace(0.01, 1, 100), np.linspace(1, 0.1, 100), np.linspace(0, 1, 100)
    points = CurvePoints(np.linspace(1, 0, 100), recall, precision, fpr)
    nothing = CurvePoints(*[np.zeros(0)] * 4)
    metrics = {"ap": 0.55, "auroc": 0.66, "fpr95": 0.9}
    plots = curve_plots([("full $x_1$", 0, points, metrics), ("nothing", 1, nothing, {})])
    assert [line.note for line in plots[1].lines] == ["AUROC 66.00 %, FPR95 90.00 %"]
    assert near(pixels(plots_figure(plots[:1], tmp_path / "pr.png", "t $")), (0, 114, 178), 10) > 200
    assert near(pixels(plots_figure(plots[1:], tmp_path / "roc.png", "t")), (0, 114, 178), 10) > 400


@pytest.mark.parametrize("num_points", [0, 1, 20, 1000])
def test_history_draws_what_there_is(tmp_path: Path, num_points: int) -> None:
    steps = list(range(0, 10 * num_points, 10))
    values = [1.0 / (1 + step) for step in steps]
    names = ["loss/total", "loss/seg", "lr/heads", "mdat/stride16/accuracy", "mdat/lambda", "eval/camvid/ap"]
    history: dict[str, tuple[list[int], list[float]]] = {name: (steps, values) for name in names}  # noqa: C420
    history["mdat/stride16/accuracy_over_chance"] = (steps, [2 * value for value in values])
    history["loss/cacl"] = (steps, [float("nan")] * num_points)
    history["time/images_per_s"] = (steps, [0.0] * num_points)
    plots = [plot for _, plot in history_plots([("run", history)])]
    assert len(plots) == (5 if num_points else 0)
    assert pixels(plots_figure(plots, tmp_path / "h.png", "t")).shape[2] == 3


def test_threads_may_draw(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=panel_figure, args=([row(30, 40)], ("road",), tmp_path / f"{index}.png"))
        for index in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 3


def test_colours_of_no_class_are_an_empty_table() -> None:
    assert class_colours(()).shape == (0, 3) and class_colours(("road",)).dtype == np.uint8
