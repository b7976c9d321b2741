"""docs/add-a-dataset.md and add-a-dataset-package.md, followed word for word in a copy of the repository."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.pages import apply, commands_of, copy_of_repository, edits_of, run

PAGES = [REPOSITORY / "docs" / name for name in ("add-a-dataset.md", "add-a-dataset-package.md")]

USE = """\
import shlex
import shutil
import sys
from pathlib import Path

from typer.testing import CliRunner

from mgcda_dist import build
from mgcda_dist.cli.main import app
from mgcda_dist.config.load import load_config
from mgcda_dist.data.shards.sheet import read_tiles


def mgcda(*words):
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    print(done.output)


for line in sys.argv[1].splitlines():
    if line.startswith("export "):
        continue
    name, *words = shlex.split(line, comments=True)
    assert name == "mgcda"
    mgcda(*(str(Path(word).expanduser()) if word.startswith("~") else word for word in words))
config = load_config("configs/my_dataset.yaml", ["data.loader_workers=0", "runs=runs"]).config
batch = next(iter(build.training_stream(config, 0, 1)))
print(sorted(set(batch.label.unique().tolist())), batch.keys[0].split("/")[0])
frames = build.evaluation_frames(config.evaluation.sets[0], config.data)
print(len(frames), sorted(set(frames[0].label.ravel().tolist())))
(_, legend) = read_tiles(frames.manifest, 2)
print(list(legend), len(set(legend.values())))
folder = Path("runs/my_dataset")
build.save_model(config, build.segmenter(config), folder / "model")
shutil.copy("configs/my_dataset.yaml", folder / "config.yaml")
mgcda("evaluate", str(folder))
mgcda("report", str(folder))
"""


def _write_data(folder: Path) -> None:
    """Six frames in the page's layout: sky over a road with a car and an anomaly."""
    label = np.zeros((64, 96), np.uint8)
    label[:30], label[30:], label[40:50, 10:40], label[50:60, 60:80] = 3, 1, 2, 7
    for split, names in (("train", "abcd"), ("val", "ef")):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for name in names:
            noise = np.random.default_rng(ord(name)).integers(0, 256, (64, 96, 3), np.uint8)
            cv2.imwrite(str(folder / "images" / split / f"{name}.jpg"), noise)
            cv2.imwrite(str(folder / "labels" / split / f"{name}.png"), label)


def _write_own(folder: Path) -> None:
    """Two frames of one camera and one of another, in the layout of the page's own reader."""
    folder.mkdir(parents=True)
    for name in ("front_a", "front_b", "rear"):
        noise = np.random.default_rng(len(name)).integers(0, 256, (32, 48, 3), np.uint8)
        cv2.imwrite(str(folder / f"{name}.jpg"), noise)
        cv2.imwrite(str(folder / f"{name}_ids.png"), np.full((32, 48), 3, np.uint8))


@pytest.mark.slow
def test_the_pages_word_for_word(tmp_path: Path) -> None:
    root, edits = copy_of_repository(tmp_path), [edit for page in PAGES for edit in edits_of(page)]
    code = [edit.path for edit in edits if edit.path.startswith("mgcda_dist/")]
    assert len(code) <= 3 and len([edit for edit in edits if edit.path.startswith("tests/")]) == 1
    _write_data(root / "my_dataset")
    _write_own(root / "my_frames" / "train")
    apply(edits, root)
    (root / "use.py").write_text(USE)
    commands = [block for page in PAGES for block in commands_of(page)]
    output = run(f"python use.py {shlex.quote(''.join(commands[1:]))}", root)
    assert "2 taken, 2 passed over, because\n  of another camera: 2 (train/rear.jpg, train/rear_ids.png)" in output, (
        output
    )
    assert "my_frames/train: 2 samples in 1 shard, no problem" in output, output
    assert "6 samples" in output or output.count("no problem") == 3, output
    assert (root / "my_dataset_train.png").is_file() and (root / "preview.png").is_file()
    # road8: 0 road, 4 sky, 5 vehicle, 254 anomaly
    expected = ["[0, 4, 5, 254, 255] mine", "2 [0, 4, 5, 254]", "['road', 'car', 'sky', 'anomaly'] 4"]
    assert [line for line in output.splitlines() if line in expected] == expected, output
    assert "mine_val" in (root / "report.html").read_text()
    files = "tests/data/test_labels.py tests/data/shards/test_sources.py tests/data/shards/sources/test_my_dataset.py"
    run(f"python -m pytest -q {files} tests/cli/test_shards.py -k 'labels or readme or reader or my_dataset'", root)
