"""The report as a file: everything is in it, nothing from outside, nothing unescaped; a gap costs a sentence."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.reports.evaluated import ANOMALY_CODE, FramePictures, read_sets
from mgcda_dist.reports.gallery import build_galleries
from mgcda_dist.reports.html import render_report, write_report
from mgcda_dist.reports.pictures import crop_uri, mistakes
from mgcda_dist.reports.runs import RunRecord, find_runs
from tests.support.evaluations import write_evaluated_run

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [
        write_evaluated_run(root / "strong", skill=4.0),
        write_evaluated_run(root / "weak", skill=1.0, mdat={"enabled": False}),
    ]


def records(*folders: Path) -> list[RunRecord]:
    return find_runs([str(folder) for folder in folders])[0]


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        (self.scripts if inside == "script" else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_a_page_about_two_runs_has_everything(runs: list[Path], tmp_path: Path) -> None:
    written = write_report(records(*runs), tmp_path / "new" / "report.html")
    assert written.missing == [] and written.num_sets == 2 and written.num_frames >= 4
    assert [path.name for path in written.path.parent.iterdir()] == ["report.html"]
    page = Page(written.path.read_text(encoding="utf-8"))
    for words in (
        "strong", "weak", "seen", "plain", "convention pooled", "AP ↑", "mIoU ↑", "mgcda train strong.yaml", "no GPU",
        "c" * 12, "mdat.enabled", "IoU per class", "Discriminator accuracy", "chance 0.5", "false positive rate, %",
        "missed anomalies", "strong has something to say", "Differences", "Learning rates",
    ):  # fmt: skip
        assert words in page.text, words
    results = json.loads((runs[0] / "results.json").read_text())["sets"]["seen"]
    assert f"{100 * results['ap']:.2f}" in page.text
    assert re.search(r"\[\d+\.\d\d, \d+\.\d\d\]", page.text)
    assert "NaN" not in page.text and "nan" not in page.text.split()


def test_nothing_comes_from_outside(runs: list[Path]) -> None:
    text, _, _ = render_report(records(*runs))
    page = Page(text)
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), attributes
        assert "style" not in attributes, "the policy forbids style attributes"
        for name in ("src", "href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/webp;base64,", "#")), (tag, value)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)


def test_the_policy_admits_this_script_and_this_style(runs: list[Path]) -> None:
    text, _, _ = render_report(records(runs[0]))
    policy = next(a["content"] for t, a in Page(text).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(content) == 1
        assert base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode() in policy


def test_no_word_of_a_run_becomes_markup(runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    shutil.copytree(runs[0], folder)
    for file in folder.rglob("*.json*"):
        text = file.read_text()
        for word in ("drive/frame", "strong has something", "drawn", "road"):
            text = text.replace(word, json.dumps(EVIL + word)[1:-1])
        file.write_text(text)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("name: strong", "name: " + json.dumps(EVIL)))
    text, _, missing = render_report(records(folder, runs[1]), title=EVIL)
    assert missing == []
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2 and not [a for t, a in page.elements if t == "img" and a.get("src") == "x"]
    assert page.text.count("<script>alert(1)</script>") > 5
    facts = json.loads(page.scripts[0])
    assert facts["galleries"][0]["frames"][0]["key"].startswith(EVIL)


def test_secrets_in_addresses_are_not_handed_on(runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + "uri: https://me:hunter2@host/x\n")
    with (folder / "events.jsonl").open("a") as file:
        file.write(
            json.dumps({"time": 1.0, "kind": "note", "text": "MLflow at https://me:hunter2@host is down"}) + "\n"
        )
    text, _, _ = render_report(records(folder, runs[1]))
    assert "hunter2" not in text and "https://…@host/x" in text


def damage(path: str, content: bytes | None) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        target = folder / path
        if content is not None:
            target.write_bytes(content)
        elif target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    return apply


def without_evaluation(folder: Path) -> None:
    shutil.rmtree(folder / "evaluation")
    (folder / "results.json").unlink()


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        (without_evaluation, "has no evaluation yet"),
        (damage("evaluation/sets", None), "no curves and no frames were kept"),
        (damage("evaluation/sets/seen/curves.json", None), "curves.json is not there"),
        (damage("evaluation/sets/seen/curves.json", b'{"threshold": [1.0, 2'), "curves.json cannot be read"),
        (damage("evaluation/sets/seen/curves.json", b'{"threshold": [1], "recall": []}'), "curves.json cannot be read"),
        (damage("evaluation/sets/seen/frames.json", b"[]"), "frames.json cannot be read"),
        (damage("evaluation/sets/seen/frames.json", b'{"frames": 3}'), "frames.json cannot be read"),
        (damage("evaluation/sets/seen/frames.npz", b"PK"), "could not be compared"),
        (damage("evaluation/sets/seen/frames.npz", None), ""),
        (damage("metrics.jsonl", None), "has logged no step yet"),
        (damage("metrics.jsonl", b'{"step": 0, "time": 1.0, "metr'), "has logged no step yet"),
        (damage("events.jsonl", b'{"time": 1'), ""),
        (damage("manifests.json", b"{"), ""),
        (damage("provenance.json", None), ""),
    ],
)
def test_what_is_missing_costs_a_sentence(
    runs: list[Path], tmp_path: Path, damaged: Callable[[Path], None], sentence: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(runs[0], folder)
    damaged(folder)
    for chosen in ((folder,), (folder, runs[1])):
        _, _, missing = render_report(records(*chosen))
        if sentence != "could not be compared" or len(chosen) > 1:
            assert sentence in " ".join(missing)


def test_a_missing_picture_costs_a_frame(runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(runs[0], folder)
    pictures = sorted((folder / "evaluation" / "sets" / "seen" / "frames").glob("*.jpg"))
    pictures[0].write_bytes(b"\xff\xd8 no jpeg")
    _, (_, before), _ = render_report(records(runs[0]))
    _, (_, after), missing = render_report(records(folder))
    assert after == before - 1 and pictures[0].name in " ".join(missing)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_text("name: young\noptim: {steps: 10}\n")
    text, counts, missing = render_report(records(tmp_path / "young"))
    assert counts == (0, 0) and len(missing) == 2
    assert "No run has been evaluated yet" in Page(text).text


def test_the_page_keeps_to_its_size(runs: list[Path]) -> None:
    sets = [read_sets(record)[0] for record in records(*runs)]
    full, said = build_galleries(sets, 10**8)
    assert not said
    room = sum(gallery.num_bytes for gallery in full) - 2000
    small, said = build_galleries(sets, room)
    assert sum(gallery.num_bytes for gallery in small) <= room and "to keep the page small" in said[0]
    assert max(len(gallery.frames) for gallery in small) < max(len(gallery.frames) for gallery in full)
    none, said = build_galleries(sets, 1000)
    assert not any(gallery.frames for gallery in none) and "do not fit" in said[0]


def test_the_slider_gives_the_numbers_of_the_curves(runs: list[Path]) -> None:
    sets = [read_sets(record)[0] for record in records(runs[0])]
    scale = build_galleries(sets, 10**8)[0][0].scales[0]
    seen = sets[0][0]
    assert seen.curves is not None and seen.levels is not None
    # The page shows levels with five digits, in which neighbouring points of the curve may be one.
    assert np.allclose(scale["levels"], seen.levels, rtol=1e-4)
    compared = 0
    for level, recall, precision in zip(seen.levels, scale["recall"], scale["precision"], strict=True):
        for row in np.flatnonzero(seen.curves.threshold == level):
            assert math.isclose(recall, seen.curves.recall[row], rel_tol=1e-4)
            assert math.isclose(precision, seen.curves.precision[row], rel_tol=1e-4)
            compared += 1
    assert compared > len(seen.levels) / 2
    best = scale["best"]
    f1 = 2 * scale["recall"][best] * scale["precision"][best] / (scale["recall"][best] + scale["precision"][best])
    assert math.isclose(f1, seen.row.metrics["best_f1"], abs_tol=0.01)


def test_mistakes_are_found_ranked_and_outlined() -> None:
    level, truth = np.zeros((60, 100), np.uint8), np.zeros((60, 100), np.uint8)
    truth[10:20, 10:20] = ANOMALY_CODE
    level[8:22, 8:22] = 200  # found, with a halo: no mistake
    truth[40:50, 10:30] = ANOMALY_CODE  # missed
    level[40:55, 60:90] = 200  # false alarm, large
    level[5:12, 60:70] = 255  # false alarm, small and sure
    level[30, 50] = 255  # a speck
    found = mistakes(FramePictures(np.zeros((60, 100, 3), np.uint8), level, truth), 150)
    assert [(m.kind, m.region.any(axis=1).argmax()) for m in found] == [
        ("false alarm", 40),
        ("false alarm", 5),
        ("missed", 40),
    ]
    assert found[0].share == pytest.approx(450 / 6000) and found[1].level == 255
    for mistake in found:
        assert crop_uri(np.zeros((60, 100, 3), np.uint8), mistake).startswith("data:image/webp;base64,")


def test_levels_survive_in_the_page(runs: list[Path]) -> None:
    """The script reads from a map the levels that the evaluation wrote."""
    import io

    (sets, _) = read_sets(records(runs[0])[0])
    gallery = build_galleries([sets], 10**8)[0][0]
    pictures = sets[0].kept[0].pictures()
    with Image.open(io.BytesIO(base64.b64decode(gallery.frames[0].maps[0].partition(",")[2]))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(pixels[..., 0], pictures.level)
    np.testing.assert_array_equal(pixels[..., 1], pictures.truth)
