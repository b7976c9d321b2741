"""`mgcda shards …` as users type it: exit codes, messages and files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
import typer

from mgcda_dist.cli.main import app
from mgcda_dist.cli.shards import _refuse_foreign
from mgcda_dist.data.labels import LABEL_FORMATS
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.sources import SOURCES
from tests.conftest import REPOSITORY
from tests.data.shards.sources.test_fishyscapes import static
from tests.support.commands import start_mgcda, typed
from tests.support.configs import tiny_content, write_config
from tests.support.pictures import frame_file
from tests.support.tars import plain_tar
from tests.support.watched import wait_for

mgcda = partial(typed, "shards")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CamVid of twelve generated frames; two of its validation frames are in train, too."""
    folder = tmp_path_factory.mktemp("camvid")
    generator = np.random.default_rng(0)
    for split, indices in (("train", range(12)), ("val", range(10, 16))):
        (folder / split).mkdir()
        (folder / f"{split}annot").mkdir()
        for i in indices:
            image = cv2.resize(np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8), (64, 48))
            label = generator.integers(0, 12, (48, 64)).astype(np.uint8)
            cv2.imwrite(str(folder / split / f"f{i:02d}.png"), image)
            cv2.imwrite(str(folder / f"{split}annot" / f"f{i:02d}.png"), label)
    return folder


def test_write_list_verify_show(dataset: Path, tmp_path: Path) -> None:
    written = mgcda("write", "camvid", dataset, "shards/camvid/train", "--samples-per-shard", 5, "--resize-height", 24,
                    "--format", "webp", "--quality", 80, "--fast-labels", cwd=tmp_path)  # fmt: skip
    assert written.returncode == 0 and "camvid" in written.stdout and written.stderr == ""
    manifest = Manifest.open(tmp_path / "shards" / "camvid" / "train")
    assert manifest.shard_sizes.tolist() == [5, 5, 2]
    options = {"resize_height_px": 24, "image_format": "webp", "quality": 80, "exif": None, "fast_labels": True,
               "samples_per_shard": 5}  # fmt: skip
    assert manifest.options == options and manifest.provenance["licence"]
    assert mgcda("write", "camvid", dataset, "shards/camvid/val", "--split", "val", cwd=tmp_path).returncode == 0

    listed = mgcda("ls", cwd=tmp_path)
    assert listed.returncode == 0 and manifest.digest[:12] in listed.stdout
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == ["shards/camvid/train", "shards/camvid/val"]

    verified = mgcda("verify", "shards/camvid", cwd=tmp_path)
    assert verified.returncode == 1
    for line in (
        "shards/camvid/train: manifest.json: 12 samples, but camvid train has 367",
        "shards/camvid/val: f10: looks the same",
        "shards/camvid/val: f11: looks the same",
        "  → keep it in one split only",
        "4 problems in 2 folders",
    ):
        assert line in verified.stdout
    sound = mgcda("verify", "shards/camvid/train", "--partial", cwd=tmp_path)
    assert (sound.returncode, sound.stdout) == (0, "shards/camvid/train: 12 samples in 3 shards, no problem\n")

    shown = mgcda("show", "shards/camvid/train", "--count", 6, "--columns", 3, cwd=tmp_path)
    assert shown.returncode == 0
    sheet = cv2.imread(str(tmp_path / "camvid_train.png"))
    assert sheet is not None and sheet.shape[1] == 3 * 326


def test_faults_of_a_kind_are_told_together(dataset: Path, tmp_path: Path) -> None:
    """Wrong label format, a truncated tar, an unfinished folder, a damaged manifest: one paragraph each."""
    write = ("--split", "train", "--samples-per-shard", 4)
    labels = ("--label-format", "cityscapes_train_ids")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "images").symlink_to(dataset / "train")
    (tmp_path / "plain" / "labels").symlink_to(dataset / "trainannot")
    for name, form in (("a", labels), ("b", ("--label-format", "idd_lite")), ("c", labels), ("d", labels)):
        assert mgcda("write", "plain", "plain", f"s/{name}", *write, *form, cwd=tmp_path).returncode == 0
    os.truncate(tmp_path / "s" / "a" / "shard-000001.tar", 4000)
    (tmp_path / "s" / "c" / "manifest.json").rename(tmp_path / "s" / "c" / ".writing.jsonl")
    (tmp_path / "s" / "d" / "manifest.json").write_text("{")
    run = mgcda("verify", "s", "--max-problems", 2, cwd=tmp_path)
    lines = run.stdout.splitlines()
    assert run.returncode == 1 and run.stderr == ""
    assert lines[0].startswith("s/a: shard-000001.tar: cut off: 4000 bytes") and lines[1].startswith(
        "  → copy the shard"
    )
    ids = "ids 7, 8, 9, 10, 11 are none of idd_lite's"
    assert [ids in line for line in lines[2:4]] == [True, True] and "s/b: 10 more like this" in lines[4]
    assert "`label_format`" in lines[5] and "s/b: f00: the same image as f00" in lines[6]
    assert "s/c: not finished" in run.stdout and "manifest.json: not readable" in run.stdout
    assert lines[-1].endswith("problems in 4 folders")
    listed = mgcda("ls", "s", cwd=tmp_path)
    assert listed.returncode == 1 and len(listed.stdout.splitlines()) == 3 and "s/c: not finished" in listed.stderr
    finished = mgcda("verify", "s/b", "--fast", cwd=tmp_path)
    assert (finished.returncode, finished.stdout) == (0, "s/b: 12 samples in 3 shards, no problem\n")


def test_the_version_of_fishyscapes_is_recorded(tmp_path: Path) -> None:
    static(tmp_path / "src", "fs_val_v2", np.zeros((6, 8, 3), np.int16))
    run = mgcda("write", "fishyscapes_static", "src", "out", "--split", "val", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert Manifest.open(tmp_path / "out").provenance["version"] == "2.0.0"


def test_a_sample_can_be_left_out_by_name(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train").symlink_to(dataset / "train")
    shutil.copytree(dataset / "trainannot", tmp_path / "src" / "trainannot")
    (tmp_path / "src" / "trainannot" / "f03.png").write_bytes(b"broken")
    command = ("write", "camvid", "src", "out", "--samples-per-shard", 2)
    failed = mgcda(*command, cwd=tmp_path)
    told = "error: f03 (src/trainannot/f03.png): the label is not"
    assert failed.returncode == 2 and told in failed.stderr and "--skip" in failed.stderr
    assert failed.stderr.count("→") == 1 and "0x" not in failed.stderr, "one remedy, and no address of memory"
    strange = mgcda(*command, "--skip", "f99", cwd=tmp_path)
    assert strange.returncode == 2 and "no sample has the key f99\n  → keys look like f00" in strange.stderr
    assert mgcda(*command, "--skip", "f03", cwd=tmp_path).returncode == 0
    manifest = Manifest.open(tmp_path / "out")
    assert manifest.num_samples == 11 and manifest.provenance["selection"] == {"skip": ["f03"]}


def test_samples_can_be_chosen_by_a_pattern(dataset: Path, tmp_path: Path) -> None:
    command = ("write", "camvid", dataset, "out", "--only")
    strange = mgcda(*command, "drive*", cwd=tmp_path)
    assert strange.returncode == 2 and "no sample has a key like drive*\n  → keys look like f00" in strange.stderr
    assert mgcda(*command, "f0[0-2]", "--only", "f1*", "--skip", "f01", cwd=tmp_path).returncode == 0
    manifest = Manifest.open(tmp_path / "out")
    assert [key.decode() for key in manifest.shard_index(0)["key"]] == ["f00", "f02", "f10", "f11"]
    assert manifest.provenance["selection"] == {"only": ["f0[0-2]", "f1*"], "skip": ["f01"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("write", "camvit", "x", "y"), "no dataset 'camvit'\n  → did you mean camvid?"),
        (("write", "camvid", "nowhere", "y"), "nowhere/train: no such folder\n  → expected SPLIT/NAME.png"),
        (("write", "camvid", "nowhere", "y", "--min-area", 4), "--min-area: camvid has no such option"),
        (("write", "plain", ".", "y", "--label-format", "x"), "no label format 'x'"),
        (("verify", "nowhere"), "no such folder"),
        (("show", "."), "no manifest.json here"),
        (("ls",), "no such folder"),
        (("index", ".", "--dataset", "x", "--label-format", "binary"), "no *.tar, *.tar.gz or *.tgz here"),
        (("preview", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(arguments: tuple[object, ...], message: str, tmp_path: Path) -> None:
    run = mgcda(*arguments, cwd=tmp_path)
    assert run.returncode == 2 and message in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_last_lines_say_what_was_taken_and_passed_over(dataset: Path, tmp_path: Path) -> None:
    write = ("write", "camvid", "src", "--split", "val", "--strict", "--overwrite")
    shutil.copytree(dataset, tmp_path / "src")
    whole = mgcda(*write, "out", cwd=tmp_path)
    assert whole.returncode == 0 and whole.stdout.splitlines()[-1] == "6 taken, 0 passed over"
    (tmp_path / "src" / "val" / "x.heic").touch()
    lines = ["6 taken, 1 passed over, because", "  a suffix that is not read: 1 (val/x.heic)"]
    strict = mgcda(*write, "out", cwd=tmp_path)
    assert strict.returncode == 1 and strict.stdout.splitlines()[-2:] == lines
    reasons = [{"why": "a suffix that is not read", "count": 1, "first": ["val/x.heic"]}]
    assert Manifest.open(tmp_path / "out").provenance["ledger"] == {"taken": 6, "passed_over": reasons}

    (tmp_path / "tars").mkdir()
    plain_tar(tmp_path / "tars" / "a.tar", {"1.jpg": cv2.imencode(".jpg", np.zeros((4, 4, 3)))[1].tobytes(), "x": b""})
    index = ("index", "tars", "--dataset", "theirs", "--label-format", "unlabelled", "--overwrite")
    loose, strict = (mgcda(*index, *option, cwd=tmp_path) for option in ((), ("--strict",)))
    assert (loose.returncode, strict.returncode) == (0, 1)
    assert strict.stdout.splitlines()[-2:] == ["1 taken, 1 passed over, because", "  without a suffix: 1 (x)"]


def test_index(tmp_path: Path) -> None:
    image = cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    plain_tar(tmp_path / "a.tar", {"1.x.jpg": image})
    run = mgcda(
        "index", ".", "--dataset", "theirs", "--label-format", "unlabelled", "--image-ext", "x.jpg", cwd=tmp_path
    )
    assert run.returncode == 0 and "theirs" in run.stdout
    assert mgcda("verify", ".", cwd=tmp_path).returncode == 0


def test_index_behind_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGCDA_CACHE", str(tmp_path / "cache"))
    image = cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    (tmp_path / "away").mkdir()
    for name in ("a0.tar", "a1.tar"):
        plain_tar(tmp_path / "away" / name, {f"{name[:2]}.jpg": image})
    place, options = "here pipe:cat away/{}", ("--dataset", "theirs", "--label-format", "unlabelled")
    refused = mgcda("index", place, *options, cwd=tmp_path)
    assert refused.returncode == 2 and "the names of its shards are not known" in refused.stderr
    assert mgcda("index", place, *options, "--names", "a{0..1}.tar", cwd=tmp_path).returncode == 0
    assert "2 samples in 2 shards, no problem" in mgcda("verify", place, cwd=tmp_path).stdout
    assert "theirs" in mgcda("ls", "here", cwd=tmp_path).stdout
    assert mgcda("show", place, cwd=tmp_path).returncode == 0 and (tmp_path / f"{tmp_path.name}_here.png").is_file()
    bare = mgcda("verify", "here", cwd=tmp_path)
    assert bare.returncode == 1 and "which a manifest never holds" in bare.stdout


def test_interrupted_and_run_again(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (800, 1000, 3), np.uint8)
    for i in range(24):
        cv2.imwrite(str(tmp_path / "images" / f"{i:02d}.png"), noise, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    command = ("write", "plain", ".", "out", "--unlabelled", "--samples-per-shard", 4, "--format", "webp")
    # A suite that runs in the background of a shell inherits an ignored SIGINT; a terminal's user has not.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = start_mgcda("shards", *command, "--workers", 1, cwd=tmp_path)
    finally:
        signal.signal(signal.SIGINT, previous)
    wait_for((tmp_path / "out" / "shard-000000.tar").exists, "the first shard", 60)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in error
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "manifest.json" not in names and not [name for name in names if name.endswith(".part")]
    for path in sorted((tmp_path / "images").iterdir())[12:]:
        path.unlink()  # the rest would only take time
    again = mgcda(*command, cwd=tmp_path)
    assert again.returncode == 0 and Manifest.open(tmp_path / "out").num_samples == 12


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    run = mgcda(
        "synth", "shards/demo", "--frames-per-domain", 4, "--height", 64, "--width", 128, "--workers", 1, cwd=folder
    )
    assert run.returncode == 0 and "shards/demo/render_a/train" in run.stdout
    return folder


def test_generated_shards_are_sound(generated: Path) -> None:
    run = mgcda("verify", "shards", cwd=generated)
    assert run.returncode == 0, run.stdout


def test_preview_shows_what_the_network_sees(generated: Path) -> None:
    config = tiny_content("shards/demo", data={"crop_px": [48, 64]}, engine={"accumulation": 2})
    write_config(generated / "toy.yaml", config)
    arguments = ("toy.yaml", "--steps", 3, "--columns", 4, "--tile-width", 64)
    for out in ("one.png", "two.png"):
        run = mgcda("preview", *arguments, "--out", out, "--start", 2, cwd=generated)
        assert run.returncode == 0, run.stderr
    other = mgcda("preview", *arguments, "--out", "other.png", "seed=1", cwd=generated)
    assert other.returncode == 0
    bare = mgcda("preview", *arguments, "--no-labels", "--out", "bare.png", cwd=generated)
    assert bare.returncode == 0
    pictures = [(generated / name).read_bytes() for name in ("one.png", "two.png", "other.png")]
    sheet = cv2.imread(str(generated / "one.png"))
    assert sheet is not None and sheet.shape[1] == 4 * 70 and sheet.shape[0] > 3 * 70
    assert pictures[0] == pictures[1] != pictures[2]


README = (REPOSITORY / "shards" / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^mgcda (.*?)(?:\s+#.*)?$|`mgcda (shards write [^`]*?~[^`]*)`", README, re.MULTILINE)


@pytest.mark.parametrize("command", [" ".join(filter(None, groups)) for groups in COMMANDS])
def test_the_readme_can_be_typed(command: str) -> None:
    arguments = shlex.split(command)
    parser = typer.main.get_command(app)
    while isinstance(parser, click.Group):
        parser = parser.commands[arguments.pop(0)]
    parsed = parser.make_context(parser.name, arguments).params
    if parser.name == "write":
        source, split = SOURCES[parsed["dataset"]], parsed["split"]
        assert split in source.counts or not source.counts
        assert Path(parsed["folder"]).name == split
        _refuse_foreign(source, {name: True for name in ("coarse", "unlabelled") if parsed[name]})


def test_the_readme_has_a_line_for_every_dataset() -> None:
    lines = {name: line for name in SOURCES for line in README.splitlines() if f"| `mgcda shards write {name} " in line}
    assert lines.keys() == SOURCES.keys()
    for name, line in lines.items():
        source = SOURCES[name]
        assert line.count(" | ") == 5 and (source.url in line or name == "plain")
        labels = set(re.findall(r"`([^`]+)`", line.split(" | ")[2]))
        assert labels & set(LABEL_FORMATS) or source.kind == "objects", name
        for split, count in source.counts.items():
            assert f"{split} {count}" in line, name


def test_masks_of_0_and_255_are_named(tmp_path: Path) -> None:
    """At writing, indexing and verification; the format that fits them is silent."""
    image, mask = np.full((16, 24, 3), 90, np.uint8), np.zeros((16, 24), np.uint8)
    mask[4:8, 4:8] = 255
    files = {
        f"a.{part}.png": cv2.imencode(".png", pixels)[1].tobytes() for part, pixels in (("rgb", image), ("seg", mask))
    }
    (tmp_path / "src").mkdir()
    plain_tar(tmp_path / "src" / "a.tar", files)
    for part, name in (("rgb", "images"), ("seg", "labels")):
        (tmp_path / "src" / name).mkdir()
        (tmp_path / "src" / name / "a.png").write_bytes(files[f"a.{part}.png"])
    says = "only the ids 0 and 255 occur, and 255 is void in binary: no anomaly is in the labels"
    remedy = "  → if 255 is the anomaly, choose the label format binary_0_255"
    index = ("index", "src", "--dataset", "x", "--image-ext", "rgb.png", "--label-ext", "seg.png", "--overwrite")
    for command in (("write", "plain", "src", "out"), (*index, "--label-format", "binary")):
        made = mgcda(*command, cwd=tmp_path)
        assert made.returncode == 0 and f"{says}\n{remedy}" in made.stderr
    checked = mgcda("verify", "out", "src", cwd=tmp_path)
    assert checked.returncode == 1 and checked.stdout.count(says) == 2 and remedy in checked.stdout
    right = mgcda(*index, "--label-format", "binary_0_255", cwd=tmp_path)
    assert right.returncode == 0 and right.stderr == ""
    assert mgcda("verify", "src", cwd=tmp_path).returncode == 0


def test_a_mark_is_refused_with_the_option_that_answers_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    stored = np.zeros((16, 24), np.uint8)
    (tmp_path / "images" / "a.jpg").write_bytes(frame_file("jpeg", np.dstack([stored] * 3), 6)[0])
    (tmp_path / "labels" / "a.png").write_bytes(cv2.imencode(".png", stored)[1].tobytes())
    refused = mgcda("write", "plain", ".", "out", cwd=tmp_path)
    assert refused.returncode == 2 and "turned by 90° by its EXIF mark" in refused.stderr
    assert "size of the stored image" in refused.stderr and "--exif" in refused.stderr
    wrong = mgcda("write", "plain", ".", "out", "--exif", "upright", cwd=tmp_path)
    assert wrong.returncode == 2 and "EXIF says turned by 90°" in wrong.stderr and "--exif" in wrong.stderr
    assert mgcda("write", "plain", ".", "out", "--exif", "stored", cwd=tmp_path).returncode == 0
    assert Manifest.open(tmp_path / "out").exif == "stored"


def test_places_that_cannot_be_written_are_told_first(
    dataset: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder where a picture goes, a file where a folder goes."""
    assert mgcda("write", "camvid", dataset, "a", "--samples-per-shard", 5, cwd=tmp_path).returncode == 0
    write_config(tmp_path / "run.yaml", tiny_content(tiny_shards))
    (tmp_path / "afile").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("mgcda_dist.data.shards.sheet.read_tiles", lambda *_: pytest.fail("samples were read"))
    monkeypatch.setattr("mgcda_dist.build.training_stream", lambda *_, **__: pytest.fail("samples were read"))
    for words in (("show", "a"), ("preview", "run.yaml")):
        done = mgcda(*words, "--out", "folder", cwd=tmp_path)
        assert done.returncode == 2 and "folder: is a folder\n  → give a file" in done.stderr, done.stderr
        done = mgcda(*words, "--out", "afile/x.png", cwd=tmp_path)
        assert done.returncode == 2 and "afile: is a file\n  → give a folder" in done.stderr, done.stderr
    for words in (("write", "camvid", dataset), ("synth",)):
        done = mgcda(*words, "afile", cwd=tmp_path)
        assert done.returncode == 2 and "afile" in done.stderr and "  → give a folder" in done.stderr, done.stderr
