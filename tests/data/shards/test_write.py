"""Writing shards: deterministic, atomic, resumable, and readable by the real WebDataset library."""

from __future__ import annotations

import gc
import hashlib
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from mgcda_dist.data.decode import decode_ids
from mgcda_dist.data.shards.encode import EncodedSample, EncodeOptions, png_bytes
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.tar import ShardWriter
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ShardError
from tests.support.png import grey_png


def frame(i: int, height: int = 24, width: int = 32) -> SourceSample:
    """A small frame whose pixels and labels depend on `i`."""
    generator = np.random.default_rng(i)
    image = generator.integers(0, 256, (height, width, 3), np.uint8)
    label = generator.integers(0, 8, (height, width)).astype(np.uint8)
    key = f"drive_{i % 3}/frame-{i:04d}"
    meta: dict[str, str | int | float] = {"index": i} if i % 2 else {}
    return SourceSample(key, cv2.imencode(".jpg", image)[1].tobytes(), "jpg", png_bytes(label), meta)


def write(samples: object, folder: Path | str, **changes: object) -> Manifest:
    arguments = {"dataset": "toy", "split": "train", "label_format": "road8", "samples_per_shard": 4} | changes
    return write_shards(samples, folder, **arguments)  # pyright: ignore[reportArgumentType]


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_bytes_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """Members in the order image, label, meta; GNU headers, which a key of over 100 characters shows; no padding."""
    writer = ShardWriter(tmp_path / "shard-000000.tar")
    for i, key in enumerate(("a", "b/c", "x" * 130 + "/" + "y" * 60)):
        meta = b'{"a": 1}' if i % 2 else b""
        writer.add(EncodedSample(key, bytes(100 + 700 * i), ("png", "jpg", "webp")[i], b"label" * i, meta))
    row = writer.finish()
    assert row.sha256.hex() == "0bd45f3ed093902b3335151cd9bef6046364862477cd7c5de74e393e2758369e"
    table = hashlib.sha256((tmp_path / "shard-000000.idx.npy").read_bytes()).hexdigest()
    assert table == "e8cb16b435870e0d1701bac78864f82ef9a9a2e53c6c8f6966debf9337caed03"
    assert row.num_bytes == (tmp_path / "shard-000000.tar").stat().st_size and row.num_bytes % 10240


def test_manifest_says_what_was_written(tmp_path: Path) -> None:
    samples = [frame(i) for i in range(10)]
    manifest = write(samples, tmp_path / "a", provenance={"licence": "none"})
    opened = Manifest.open(tmp_path / "a")
    assert opened == manifest
    assert (opened.num_samples, opened.num_shards, opened.shard_sizes.tolist()) == (10, 3, [4, 4, 2])
    assert opened.num_bytes == sum(path.stat().st_size for path in (tmp_path / "a").glob("*.tar"))
    assert opened.provenance == {"licence": "none"} and opened.options["quality"] == 92
    assert sum(opened.label_histogram.values()) == 10 * 24 * 32 and set(opened.label_histogram) == set(range(8))
    for shard in range(3):
        data = opened.shard_path(shard).read_bytes()
        assert hashlib.sha256(data).digest() == opened.table[shard]["sha256"].tobytes()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # WebDataset leaves the files to the garbage collector
def test_webdataset_reads_them(tmp_path: Path) -> None:
    from webdataset.compat import WebDataset

    samples = [frame(i) for i in range(6)] + [SourceSample("x" * 150, frame(7).image, "jpg")]
    write(samples, tmp_path / "a")
    urls = [str(path) for path in sorted((tmp_path / "a").glob("*.tar"))]
    read = list(WebDataset(urls, shardshuffle=False))
    assert [item["__key__"] for item in read] == [sample.key for sample in samples]
    for item, sample in zip(read, samples, strict=True):
        assert item["jpg"] == sample.image and item.get("label.png") == sample.label
        assert ("json" in item) == bool(sample.meta)
    gc.collect()


@pytest.mark.parametrize("options", [EncodeOptions(), EncodeOptions(12, "webp", 80), EncodeOptions(None, "png")])
def test_same_input_same_bytes(tmp_path: Path, options: EncodeOptions) -> None:
    samples = [frame(i) for i in range(9)]
    first = write(samples, tmp_path / "a", options=options, workers=1)
    second = write(LazySamples(range(9), frame), tmp_path / "b", options=options, workers=3)
    assert content(tmp_path / "a") == content(tmp_path / "b") and first.digest == second.digest
    assert write(samples[:8], tmp_path / "c", options=options).digest != first.digest


def test_resize_and_format(tmp_path: Path) -> None:
    manifest = write([frame(0, 24, 32), frame(1, 10, 32)], tmp_path / "a", options=EncodeOptions(12, "webp", 80))
    sizes = []
    for row in manifest.shard_index(0):
        data = manifest.shard_path(0).read_bytes()
        image = Image.open(io.BytesIO(data[row["image_offset"] :][: row["image_bytes"]]))
        label = decode_ids(data[row["label_offset"] :][: row["label_bytes"]], "label")
        assert image.format == "WEBP" and image.size == label.shape[::-1] and label.max() < 8
        sizes.append(image.size)
    assert sizes == [(16, 12), (32, 10)]  # smaller frames are never enlarged


class Killed(BaseException):
    """Stands for a signal: nothing in the writer may catch it as an ordinary error."""


def test_killed_and_run_again(tmp_path: Path) -> None:
    def until_killed() -> Iterator[SourceSample]:
        yield from map(frame, range(10))
        raise Killed

    whole = write([frame(i) for i in range(11)], tmp_path / "whole")
    with pytest.raises(Killed):
        write(until_killed(), tmp_path / "a", workers=1)
    with pytest.raises(ShardError, match=r"no manifest\.json"):
        Manifest.open(tmp_path / "a")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("shard-*.tar")}
    steps: list[int] = []
    again = write([frame(i) for i in range(11)], tmp_path / "a", progress=steps.append)
    assert again.digest == whole.digest and content(tmp_path / "a") == content(tmp_path / "whole")
    assert sum(steps) == 11
    assert before and all(path.stat().st_mtime_ns == mtime for path, mtime in before.items()), (
        "finished shards were rewritten"
    )


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from mgcda_dist.data.shards.encode import EncodeOptions
from mgcda_dist.data.shards.record import LazySamples
from tests.data.shards.test_write import Numbered, content, frame, write
top = Path(sys.argv[1])
samples = LazySamples([Numbered(i) for i in range(11)], lambda item: frame(item.number))
options = EncodeOptions(12, "webp", 80)
write(samples, top / "whole", options=options)
whole, journals, n = content(top / "whole"), 0, 0
while True:
    n += 1
    child = os.fork()
    if child == 0:
        seen = 0
        def die_at_the_nth(event, arguments):
            global seen
            names = [a for a in arguments[:2] if isinstance(a, (str, Path))]
            if event in ("open", "os.rename", "os.remove") and any(str(top / "a") in str(a) for a in names):
                seen += 1
                if seen == n:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(die_at_the_nth)
        write(samples, top / f"a{n}", options=options, workers=3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    folder = top / f"a{n}"
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    journals += (folder / ".writing.jsonl").exists()
    write(samples, folder, options=options)
    assert content(folder) == whole, n
print(n - 1, journals)
"""


class Numbered(NamedTuple):
    number: int


def test_sigkill_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL before each opening, renaming and removing of a file: the same command ends with the same bytes."""
    repository = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(repository)], check=True, cwd=repository,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    moments, journals = map(int, run.stdout.split())
    assert moments >= 20 and journals >= moments - 3  # two while the folder is tried, one while the journal is opened


def test_half_written_files_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with pytest.raises(ShardError):
        write([*(frame(i) for i in range(5)), frame(1)], folder)
    (folder / ".shard-000001.tar.0a1b2c3d.part").write_bytes(b"half")
    journal = folder / ".writing.jsonl"
    journal.write_text(journal.read_text() + '{"name": "shard-0000')
    write([frame(i) for i in range(6)], folder)
    write([frame(i) for i in range(6)], tmp_path / "b")
    assert content(folder) == content(tmp_path / "b")


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="two samples have this key"):
        write([*(frame(i) for i in range(5)), frame(1)], tmp_path / "a")
    changed = [frame(10), *(frame(i) for i in range(1, 6))]
    with pytest.raises(ShardError, match="changed since the interrupted write"):
        write(changed, tmp_path / "a")
    assert write(changed, tmp_path / "a", overwrite=True).num_samples == 6


def test_finished_folders_are_not_overwritten_by_accident(tmp_path: Path) -> None:
    write([frame(i) for i in range(9)], tmp_path / "a")
    with pytest.raises(ShardError, match="`overwrite`"):
        write([frame(0)], tmp_path / "a")
    assert Manifest.open(tmp_path / "a").num_samples == 9
    write([frame(0)], tmp_path / "a", overwrite=True)
    write([frame(0)], tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.tar").write_bytes(b"")
    with pytest.raises(ShardError, match="no manifest names"):
        write([frame(0)], tmp_path / "c")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["mine.tar"]


def test_bad_samples_are_named(tmp_path: Path) -> None:
    good = frame(0)
    assert good.label is not None
    colours = cv2.imencode(".png", np.full((24, 32, 3), (128, 64, 128), np.uint8))[1].tobytes()
    small = png_bytes(np.zeros((20, 32), np.uint8))
    cases = {
        "not a sample key": SourceSample("a.b", good.image, "jpg"),
        "the image is not a picture": SourceSample("a", good.image[:20], "jpg"),
        "looks like a colour map": SourceSample("a", good.image, "jpg", colours),
        "the label is not a picture|the label is damaged": SourceSample("a", good.image, "jpg", good.label[:40]),
        "the label is 32×20 px, the image 32×24": SourceSample("a", good.image, "jpg", small),
    }
    for i, (problem, sample) in enumerate(cases.items()):
        with pytest.raises(ShardError, match=problem):
            write([sample], tmp_path / str(i))
    with pytest.raises(ShardError, match="has no samples"):
        write([], tmp_path / "empty")


IDS = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)


def png_of_bits(depth: int) -> bytes:
    """IDS as a grey PNG of 1, 2 or 4 bits per pixel, which neither library writes."""
    rows = [np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].ravel() for row in np.minimum(IDS, 2**depth - 1)]
    return grey_png(2, 3, depth, b"".join(b"\0" + np.packbits(row).tobytes() for row in rows))


def palette_png() -> bytes:
    picture = Image.fromarray(IDS, "P")
    picture.putpalette([200, 10, 30] * 256)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (palette_png(), IDS),
        (png_of_bits(1), np.minimum(IDS, 1)),
        (png_of_bits(2), IDS),
        (png_of_bits(4), IDS),
        (cv2.imencode(".png", IDS.astype(np.uint16))[1].tobytes(), IDS),
        (cv2.imencode(".png", np.dstack([IDS] * 3))[1].tobytes(), IDS),
        (cv2.imencode(".png", np.dstack([IDS, IDS, IDS, np.full_like(IDS, 255)]))[1].tobytes(), IDS),
    ],
    ids=["palette", "1 bit", "2 bits", "4 bits", "16 bits", "grey RGB", "grey RGBA"],
)
def test_labels_of_every_depth_give_their_ids(label: bytes, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_ids(label, "label"), expected)


def test_manifest_is_small_to_pickle(tmp_path: Path) -> None:
    manifest = write([frame(i) for i in range(6)], tmp_path / "a")
    assert manifest.shard_sizes.sum() == 6
    copy = pickle.loads(pickle.dumps(manifest))
    assert "table" not in copy.__dict__ and copy.shard_sizes.tolist() == [4, 2]


def test_damaged_manifests_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such folder"):
        Manifest.open(tmp_path / "none")
    with pytest.raises(ShardError, match=r"no manifest\.json here\n.*mgcda shards write.*mgcda shards index"):
        Manifest.open(tmp_path)
    folder = tmp_path / "a"
    write([frame(i) for i in range(6)], folder)
    text = (folder / "manifest.json").read_text()
    for damaged, problem in [
        (text[:50], "not readable"),
        ("[]", "expected a JSON object"),
        (text.replace('"format_version": 1', '"format_version": 2'), "format version 2"),
        (text.replace('"num_shards": 2', '"num_shards": 3'), "2 rows, but"),
        (text.replace('"split"', '"spilt"'), "keys split are missing"),
    ]:
        (folder / "manifest.json").write_text(damaged)
        with pytest.raises(ShardError, match=problem):
            Manifest.open(folder)
    (folder / "manifest.json").write_text(text)
    manifest = Manifest.open(folder)
    (folder / "shard-000001.idx.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ShardError, match=r"shard-000001\.idx\.npy"):
        manifest.shard_index(1)
    (folder / "shards.npy").unlink()
    with pytest.raises(ShardError, match=r"shards\.npy: no such file"):
        Manifest.open(folder)
