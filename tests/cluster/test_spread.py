"""`mgcda shards write … --workers ray` on one machine: the same folder as one process; the errors of the tasks."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.conftest import REPOSITORY
from tests.data.shards.test_write import content
from tests.support.commands import mgcda, refusal
from tests.support.shards import frame


def write_source(folder: Path, num_frames: int) -> Path:
    """Frames in the layout of `plain`, with labels of road8."""
    for number in range(num_frames):
        image, label = frame(number)
        for name, pixels in (("images", image[..., ::-1]), ("labels", label)):
            (folder / name / "train").mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / name / "train" / f"{number:03d}.png"), pixels)
    return folder


@pytest.mark.extended
@pytest.mark.cluster
def test_a_one_node_ray_writes_the_bytes_of_one_process(tmp_path: Path) -> None:
    write_source(tmp_path / "src", 10)
    (tmp_path / "src/images/train/notes.txt").write_text("passed over, with a word in the manifest")
    words = ("--label-format", "road8", "--samples-per-shard", "3")
    here = mgcda("shards", "write", "plain", "src", "a", *words, cwd=tmp_path)
    ray = mgcda("shards", "write", "plain", "src", "b", *words, "--workers", "ray", cwd=tmp_path)
    assert (here.returncode, ray.returncode) == (0, 0), here.stderr + ray.stderr
    assert ray.stderr.endswith("shards by node: 127.0.0.1 4\n")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    (tmp_path / "src/images/train/007.png").write_bytes(b"no picture")
    # By a reader of one's own, which the tasks import.
    own, path = ("python:tests.support.readers:Frames", "src"), {"PYTHONPATH": str(REPOSITORY)}
    words = words[2:]
    bad = mgcda("shards", "write", *own, "c", *words, "--workers", "ray", cwd=tmp_path, env=path)
    alone = mgcda("shards", "write", *own, "d", *words, cwd=tmp_path, env=path)
    assert bad.returncode == alone.returncode == 2 and "007" in bad.stderr
    assert bad.stderr.splitlines()[-1] == alone.stderr.splitlines()[-1], "an error of a task reads like any other"


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5"])
def test_another_word_than_ray_is_refused(tmp_path: Path, given: str) -> None:
    assert (
        "is no number of threads"
        in refusal("shards", "write", "plain", tmp_path, tmp_path / "a", f"--workers={given}").problem
    )
