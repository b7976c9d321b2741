"""Every kind of picture under every option of writing: the pixels of a plain 8-bit PNG, or an error of the project."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_dist.choices import Exif
from mgcda_dist.data.decode import decode_cutout, decode_ids, decode_image, decode_pair
from mgcda_dist.data.frames import EvaluationFrames
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.encode import EncodeOptions, ImageFormat, encode_sample
from mgcda_dist.data.shards.index import index_shards
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.streamed import Extensions
from mgcda_dist.data.shards.verify import verify_shards
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ShardError
from mgcda_dist.inference.sources import read_image
from tests.support.pictures import FRAME_KINDS, LABEL_KINDS, MARKED_KINDS, frame_file, saved, turned
from tests.support.tars import plain_tar

IDENTITY = np.arange(256, dtype=np.uint8)
OPTIONS = st.builds(
    EncodeOptions, st.sampled_from([None, 8]), st.sampled_from([None, "jpg", "png", "webp"]),
    st.sampled_from([60, 92]), st.sampled_from(["upright", "stored", None]),
    st.booleans(),
)  # fmt: skip


@settings(deadline=None)  # encoders on a busy machine
@given(st.sampled_from(sorted(FRAME_KINDS)), st.integers(1, 8), st.sampled_from(sorted(LABEL_KINDS)), OPTIONS,
       st.integers(0))  # fmt: skip
def test_written_frames_are_those_of_a_plain_png(
    kind: str, mark: int, label_kind: str, options: EncodeOptions, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    mark = mark if kind in MARKED_KINDS else 1
    data, stored = frame_file(kind, generator.integers(0, 256, (12, 20, 3)).astype(np.uint8), mark)
    shown = turned(stored, mark if options.exif != "stored" else 1)
    num_ids, file_of = LABEL_KINDS[label_kind]
    ids = generator.integers(0, num_ids, shown.shape[:2]).astype(np.uint8)
    sample = SourceSample("key", data, "png", file_of(ids))
    if mark != 1 and options.exif is None:
        with pytest.raises(ShardError, match="EXIF"):
            encode_sample(sample, options)
        return
    written = encode_sample(sample, options)
    same_format = replace(options, image_format=written.image_ext)
    plain = encode_sample(SourceSample("key", saved(shown, "PNG"), "png", saved(ids, "PNG")), same_format)
    image, label = decode_pair(written.image, written.label, "written", options.exif)
    if written.image == data:  # nothing was asked for, or the format is the file's own
        np.testing.assert_array_equal(image, shown)
    else:
        np.testing.assert_array_equal(image, decode_image(plain.image, "plain"))
    np.testing.assert_array_equal(label, decode_ids(plain.label, "plain"))
    np.testing.assert_array_equal(written.histogram, plain.histogram)


def test_fast_labels_are_unfiltered(tmp_path: Path) -> None:
    ids = np.repeat(np.arange(32, dtype=np.uint8), 4).reshape(1, -1).repeat(64, axis=0)
    sample = SourceSample("a", saved(np.zeros((64, 128, 3), np.uint8), "PNG"), "png", saved(ids, "PNG"))
    plain, fast = (encode_sample(sample, EncodeOptions(fast_labels=each)).label for each in (False, True))
    assert plain == sample.label and fast != plain
    np.testing.assert_array_equal(decode_ids(fast, "fast"), ids)
    rows = zlib.decompress(fast[fast.index(b"IDAT") + 4 : fast.rindex(b"IEND") - 8])
    assert set(rows[:: 128 + 1]) == {0}, "the filter of every row is none"
    manifest = write_shards(
        [sample],
        tmp_path,
        dataset="d",
        split="s",
        label_format="cityscapes_ids",
        options=EncodeOptions(fast_labels=True),
    )
    assert manifest.options["fast_labels"] is True and ShardReader(manifest).read(0).label == fast


NOISE = np.random.default_rng(4).integers(0, 256, (12, 20, 3)).astype(np.uint8)
KINDS = [(kind, mark) for kind in sorted(FRAME_KINDS) for mark in ((1, 3, 6) if kind in MARKED_KINDS else (1,))]


def frames(exif: Exif) -> dict[str, tuple[bytes, bytes, np.ndarray, np.ndarray]]:
    """Key → image, label, pixels and ids as `exif` reads them."""
    made: dict[str, tuple[bytes, bytes, np.ndarray, np.ndarray]] = {}
    for (kind, mark), label_kind in zip(KINDS, sorted(LABEL_KINDS) * len(KINDS), strict=False):
        data, stored = frame_file(kind, NOISE, mark)
        shown = turned(stored, mark) if exif == "upright" else stored
        ids = (shown[..., 0] % 2).astype(np.uint8)
        made[f"{kind.replace(' ', '_').replace(';', '')}_{mark}"] = data, LABEL_KINDS[label_kind][1](ids), shown, ids
    return made


@pytest.mark.parametrize("exif", ["upright", "stored"])
@pytest.mark.parametrize("by", ["write", "index"])
def test_what_is_evaluated_is_what_is_predicted(tmp_path: Path, exif: Exif, by: str) -> None:
    """Writing or indexing, verification, evaluation and prediction see the same pixels."""
    made = frames(exif)
    named: dict[str, Any] = {"dataset": "toy", "split": "train", "label_format": "binary", "exif": exif}
    if by == "write":
        samples = [SourceSample(key, image, "png", label) for key, (image, label, _, _) in made.items()]
        del named["exif"]
        write_shards(samples, tmp_path, options=EncodeOptions(exif=exif), **named)
    else:
        plain_tar(tmp_path / "a.tar", {f"{key}.{part}.png": data for key, (image, label, _, _) in made.items()
                                       for part, data in (("image", image), ("seg", label))})  # fmt: skip
        index_shards(tmp_path, extensions=Extensions(("image.png",), ("seg.png",)), **named)
    manifest = Manifest.open(tmp_path)
    assert manifest.exif == manifest.options["exif"] == exif and verify_shards(manifest).problems == []
    evaluated = {frame.key: frame for frame in EvaluationFrames(manifest, IDENTITY)}
    assert evaluated.keys() == made.keys()
    for key, (image, _, pixels, ids) in made.items():
        np.testing.assert_array_equal(evaluated[key].image, pixels, key)
        np.testing.assert_array_equal(evaluated[key].label, ids, key)
        (tmp_path / "picture").write_bytes(image)
        np.testing.assert_array_equal(read_image(tmp_path / "picture", exif), pixels, key)


@pytest.mark.parametrize("by", ["write", "index"])
def test_labelled_frames_with_a_mark_need_a_choice(tmp_path: Path, by: str) -> None:
    image, label = frame_file("jpeg", NOISE, 3)[0], saved(NOISE[..., 0] % 2, "PNG")
    named: dict[str, Any] = {"dataset": "toy", "split": "train", "label_format": "binary"}
    make = partial(write_shards, [SourceSample("a", image, "jpg", label)], tmp_path, **named)
    if by == "index":
        plain_tar(tmp_path / "a.tar", {"a.jpg": image, "a.png": label})
        make = partial(index_shards, tmp_path, **named)
    with pytest.raises(ShardError, match="a: the image is turned by 180° by its EXIF mark"):
        make()


def test_shards_of_earlier_versions_are_refused_for_their_marks(tmp_path: Path) -> None:
    image, label = frame_file("jpeg", NOISE, 3)[0], saved(NOISE[..., 0] % 2, "PNG")
    chosen = write_shards([SourceSample("a", image, "jpg", label)], tmp_path, dataset="toy", split="train",
                          label_format="binary", options=EncodeOptions(exif="stored"))  # fmt: skip
    del chosen.options["exif"]
    chosen.save()
    manifest = Manifest.open(tmp_path, check=False)
    with pytest.raises(ShardError, match="EXIF"):
        EvaluationFrames(manifest, IDENTITY)[0]
    found = [problem.why for problem in verify_shards(manifest).problems]
    assert len(found) == 2 and "digest" in found[0] and "EXIF" in found[1]


def test_frames_without_labels_are_upright(tmp_path: Path) -> None:
    image, stored = frame_file("jpeg", NOISE, 6)
    manifest = write_shards([SourceSample("a", image, "jpg")], tmp_path, dataset="toy", split="train",
                            label_format="unlabelled")  # fmt: skip
    np.testing.assert_array_equal(EvaluationFrames(manifest, IDENTITY)[0].image, turned(stored, 6))


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_objects_keep_their_mask(image_format: ImageFormat) -> None:
    pixels = np.dstack([NOISE, np.where(NOISE[..., 0] > 99, 255, 0)]).astype(np.uint8)
    for data in (saved(pixels, "PNG"), saved(pixels, "WEBP", lossless=True, exact=True)):
        written = encode_sample(SourceSample("o", data, "png"), EncodeOptions(None, image_format), "objects")
        np.testing.assert_array_equal(decode_cutout(written.image, "o")[..., 3], pixels[..., 3])
    with pytest.raises(ShardError, match="JPEG cannot hold the alpha"):
        encode_sample(SourceSample("o", saved(pixels, "PNG"), "png"), EncodeOptions(None, "jpg"), "objects")
