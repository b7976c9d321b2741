"""`mgcda init`: the written project works as its README says, by options and by questions; nothing is overwritten."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mgcda_dist.checks.domains import unaligned
from mgcda_dist.checks.idle import idle
from mgcda_dist.checks.unlabelled import unlabelled
from mgcda_dist.cli.main import app
from mgcda_dist.config.load import load_config
from tests.support.commands import invoke, mgcda, refusal, typed
from tests.support.pages import commands_of

TINY = ("--backbone", "test_resnet.r160_in1k", "--weights", "none", "--crop", "64x96", "--steps", "2")


def _fill(folder: Path, ids: list[int], count: int = 8) -> None:
    """Frames of two classes, and test frames with an anomaly."""
    generator = np.random.default_rng(0)
    for place in ("labelled", "unlabelled", "test"):
        for index in range(count if (folder / "data" / place).is_dir() else 0):
            image = generator.integers(0, 256, (80, 120, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"data/{place}/images/f{index}.png"), image)
            label = np.full((80, 120), ids[0] if place == "labelled" else 0, np.uint8)
            label[30:50, 40 + index : 70] = ids[1] if place == "labelled" else 1
            if place != "unlabelled":
                cv2.imwrite(str(folder / f"data/{place}/labels/f{index}.png"), label)


@pytest.mark.extended
@pytest.mark.cluster
@pytest.mark.timeout(280)
def test_the_readme_works_word_for_word(tmp_path: Path) -> None:
    project = tmp_path / "ours"
    assert invoke("init", project, "--classes", "road=0,no=7", "--no-ask", *TINY).exit_code == 0
    _fill(project, [0, 7])
    said = ""
    for line in "".join(commands_of(project / "README.md")).splitlines():
        program, *words = shlex.split(line)
        # A training in a process of its own, as everywhere; the others save the seconds of theirs.
        done = (mgcda if words[0] == "train" else typed)(*words, cwd=project)
        assert program == "mgcda" and not done.returncode, f"{line}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    assert "8 taken, 0 passed over" in said and "config.yaml: ok. 2 streams of 2 domains" in said
    assert (project / "preview.png").is_file() and (project / "report.html").is_file()
    assert (project / "runs/ours/results.json").is_file() and (project / "predictions/f0.overlay.png").is_file()


def test_without_other_frames_nothing_is_aligned_or_measured(tmp_path: Path) -> None:
    project = tmp_path / "ours"
    words = ("--name", "1st", "--classes", "cityscapes19", "--no-unlabelled", "--no-test", "--objects", "coco")
    assert invoke("init", project, "--no-ask", *words, *TINY).exit_code == 0
    config = load_config(project / "config.yaml").config
    assert (config.name, config.data.class_space, config.mdat.enabled) == ("1st", "cityscapes19", False)
    assert len(config.data.streams) == 1 and not config.evaluation.sets
    page = (project / "README.md").read_text()
    assert "--label-format cityscapes_ids" in page and "mgcda shards write coco data/coco shards/objects" in page
    assert "data/test" not in page and "predict runs/1st data/labelled/images --out predictions --threshold 0" in page
    folders = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_dir()}
    assert {"data/labelled/images", "data/coco/annotations"} <= folders and "data/test" not in folders


def test_no_key_of_a_project_is_doubtful(tmp_path: Path) -> None:
    """Of what needs no shards: objects where something says what is normal, and no switch without use."""
    for name, words in {"both": [], "labelled": ["--no-unlabelled"]}.items():
        assert invoke("init", tmp_path / name, "--no-ask", *words).exit_code == 0
        config = load_config(tmp_path / name / "config.yaml").config
        assert [*unlabelled(config), *idle(config), *unaligned(config, {})] == []


def test_questions_and_options_write_the_same(tmp_path: Path) -> None:
    answers = ["mine", "road, sky=5", "y", "n", "n", "128x256", "7"]
    asked = CliRunner().invoke(app, ["init", str(tmp_path / "a"), "--ask"], input="\n".join([*answers, ""]))
    assert asked.exit_code == 0, asked.output
    words = "--name mine --classes road,sky=5 --no-test --crop 128x256 --steps 7 --no-ask"
    assert invoke("init", tmp_path / "b", *words.split()).exit_code == 0
    for name in ("config.yaml", "README.md", ".gitignore", "config.schema.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    written = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    assert written["data"]["class_space"]["ids"] == {"own": {0: "road", 5: "sky", 255: "void"}}
    assert (tmp_path / "a/config.yaml").read_text().startswith("# yaml-language-server: $schema=config.schema.json\n")
    defaults = CliRunner().invoke(app, ["init", str(tmp_path / "c"), "--ask"], input="\n" * 7)
    assert defaults.exit_code == 0 and invoke("init", tmp_path / "d" / "c", "--no-ask").exit_code == 0
    assert (tmp_path / "c/config.yaml").read_text() == (tmp_path / "d/c/config.yaml").read_text()


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    assert "is not empty" in refusal("init", tmp_path, "--no-ask").problem
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "is not empty" in refusal("init", tmp_path / "thesis.tex", "--no-ask").problem


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--classes road,road", "there twice"),
        ("--classes road=0,car=0", "there twice"),
        ("--classes road=x", "is no id"),
        ("--classes road=²", "is no id"),
        ("--classes road=256", "over 255"),
        ("--classes void,road", "'void' is no name of a class"),
        ("--classes ,", "no class is named"),
        ("--name ../x", "is no name of a run"),
        ("--crop 10", "is no size"),
    ],
)
def test_answers_that_cannot_be_are_refused_and_nothing_is_written(tmp_path: Path, words: str, says: str) -> None:
    error = refusal("init", tmp_path / "new", "--no-ask", *words.split())
    assert says in error.problem and error.remedy and not (tmp_path / "new").exists()


def test_the_readme_says_what_the_labels_hold(tmp_path: Path) -> None:
    assert invoke("init", tmp_path / "p", "--no-ask", "--classes", "road=1,ground=255").exit_code == 0
    page = (tmp_path / "p/README.md").read_text()
    assert re.search(r"labels/NAME.png +one id per pixel: 1 road, 255 ground\n", page)
    assert load_config(tmp_path / "p/config.yaml").config.data.class_names == ("road", "ground")


@pytest.mark.parametrize("place", ["afile/ours", "/proc/ours", "x" * 300])
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "afile").touch()
    error = refusal("init", tmp_path / place, "--name", "ours", "--no-ask")
    assert "cannot be written to" in error.problem and error.remedy == "give a folder that can be written to"
