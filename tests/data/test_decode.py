"""Pixels out of bytes, and damage that is named instead of passed on."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mgcda_dist.data.decode import decode_cutout, decode_ids, decode_image
from mgcda_dist.errors import SampleError, ShardError
from tests.support.pictures import FRAME_KINDS, LABEL_KINDS, MARKED_KINDS, exif_block, frame_file, saved, turned
from tests.support.png import grey_png, png
from tests.support.shards import cutout, encoded, frame

IMAGE, LABEL = frame(3)
WHERE = "shard-000000.tar: key"


NOISE = np.random.default_rng(1).integers(0, 256, (12, 20, 3)).astype(np.uint8)


@pytest.mark.parametrize("ext", [".png", ".jpg", ".webp"])
def test_images_are_rgb(ext: str):
    data = encoded(IMAGE, ext)
    decoded = decode_image(data, WHERE)
    assert decoded.dtype == np.uint8
    if ext == ".webp":
        assert np.abs(decoded.astype(int) - IMAGE).mean() < 12
    else:
        np.testing.assert_array_equal(decoded, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_frames_of_every_kind_are_the_pixels_of_a_plain_png(kind: str):
    """Stored, and turned by each of the eight marks."""
    for mark in range(1, 9 if kind in MARKED_KINDS else 2):
        data, stored = frame_file(kind, NOISE, mark)
        np.testing.assert_array_equal(decode_image(data, WHERE, "stored"), stored)
        for exif in ("upright", None):
            np.testing.assert_array_equal(decode_image(data, WHERE, exif), turned(stored, mark))


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_of_every_kind_give_their_ids(kind: str):
    num_ids, write = LABEL_KINDS[kind]
    ids = np.random.default_rng(2).integers(0, num_ids, (12, 20)).astype(np.uint8)
    np.testing.assert_array_equal(decode_ids(write(ids), WHERE), ids)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("layout", [(), (3,)])
def test_frames_that_fill_a_part_of_16_bits_are_refused(bits: int, layout: tuple[int, ...]):
    pixels = np.random.default_rng(3).integers(0, 2**bits, (12, 20, *layout)).astype(np.uint16)
    for ext in (".png", ".tif") if not layout else (".png",):
        with pytest.raises(SampleError, match=r"no pixel is brighter than a quarter.*\n.*white is 65535"):
            decode_image(cv2.imencode(ext, pixels)[1].tobytes(), WHERE)
    decode_image(cv2.imencode(".png", pixels << (16 - bits))[1].tobytes(), WHERE)


def test_frames_of_other_kinds_are_named():
    grey = NOISE[..., 0]
    for data, why in (
        (saved(grey.astype(np.float32), "TIFF"), "a TIFF of mode F"),
        (saved(grey.astype(np.int32), "TIFF"), "a TIFF of mode I"),
        (saved(Image.fromarray(NOISE).convert("LAB"), "TIFF"), "a TIFF of mode LAB"),
        (saved(grey, "GIF"), r"is a GIF, not a picture of JPEG, PNG, WebP, BMP, TIFF or PNM .*\n.*save it as PNG"),
        (b"\0\0\0\x18ftypheic" + bytes(99), r"is HEIC or AVIF, not a picture of JPEG, PNG.*\n.*save it as PNG"),
        *((saved(grey, kind, save_all=True, append_images=[Image.fromarray(255 - grey)]), "one of several in its file")
          for kind in ("PNG", "WEBP", "TIFF")),
    ):  # fmt: skip
        with pytest.raises(SampleError, match=why):
            decode_image(data, WHERE)


IDS = np.arange(240, dtype=np.float32).reshape(12, 20)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encoded(IMAGE), "has 3 channels: it looks like a colour map"),
        (cv2.imencode(".png", IMAGE.astype(np.uint16))[1].tobytes(), "has 3 channels: it looks like a colour map"),
        (cv2.imencode(".png", IDS.astype(np.uint16) + 250)[1].tobytes(), r"holds the id 25\d"),
        (cv2.imencode(".png", np.dstack([IDS.astype(np.uint16) * 257] * 3))[1].tobytes(), "holds the id 257"),
        (saved(IDS + 0.5, "TIFF"), r"holds the id 0\.5"),
        (saved(np.where(IDS == 7, np.nan, IDS), "TIFF"), "holds the id nan"),
        (saved(np.where(IDS == 7, np.inf, IDS), "TIFF"), "holds the id inf"),
        (saved(IDS.astype(np.int32) - 1, "TIFF"), "holds the id -1"),
        (cv2.imencode(".tif", np.dstack([IDS.astype(np.uint16)] * 3))[1].tobytes(), "is a TIFF of 16-bit colours"),
        (saved(IDS.astype(np.uint8), "JPEG"), "is a JPEG of mode L"),
        (saved(IDS.astype(np.uint8), "WEBP", lossless=True), "is a WEBP of mode RGB"),
        (saved(Image.fromarray(IMAGE).convert("CMYK"), "TIFF"), "is a TIFF of mode CMYK"),
    ],
)  # fmt: skip
def test_labels_that_hold_no_ids_are_refused(data: bytes, why: str):
    with pytest.raises(SampleError, match=rf"shard-000000\.tar: key: the label {why}"):
        decode_ids(data, WHERE)


def test_labels_turn_with_their_own_mark():
    ids = IDS.astype(np.uint8)
    data = png(*ids.shape, 8, ids, colour_type=0, before=[(b"eXIf", exif_block(6))])
    np.testing.assert_array_equal(decode_ids(data, WHERE, "stored"), ids)
    np.testing.assert_array_equal(decode_ids(data, WHERE, "upright"), turned(ids, 6))
    with pytest.raises(ShardError, match="the label is turned by 90°"):
        decode_ids(data, WHERE)


def test_cutouts_keep_alpha():
    pixels = cutout(1)
    np.testing.assert_array_equal(decode_cutout(encoded(pixels), WHERE), pixels)
    np.testing.assert_array_equal(decode_cutout(saved(pixels, "WEBP", lossless=True, exact=True), WHERE), pixels)
    deep = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA).astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode_cutout(deep, WHERE), pixels)
    for data in (encoded(IMAGE), saved(pixels, "TIFF")):
        with pytest.raises(ShardError, match=r"the object is a (PNG|TIFF) of mode RGBA?, without readable alpha"):
            decode_cutout(data, WHERE)


@pytest.mark.parametrize("ext", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.98])
def test_truncated_images_are_refused(ext: str, kept: float):
    data = encoded(IMAGE, ext)
    with pytest.raises(ShardError, match=r"shard-000000\.tar: key: the image .*\(\d+ bytes"):
        decode_image(data[: int(kept * len(data))], WHERE)


def test_damaged_labels_are_refused():
    data = encoded(LABEL)
    for hurt in (data[:-12], data[:60], data[:60] + bytes([data[60] ^ 255]) + data[61:], b"", b"no picture"):
        with pytest.raises(ShardError, match="label"):
            decode_ids(hurt, WHERE)


def test_absurd_dimensions_are_refused_without_decoding():
    """Those over Pillow's own bound; those over ours: tests/test_trust.py."""
    with pytest.raises(ShardError, match="the image is not a picture"):
        decode_image(grey_png(60_000, 60_000, 8, b""), WHERE)
