"""Pixels out of bytes, and damage that is named instead of passed on."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mgcda_dist.data.decode import decode_cutout, decode_image, decode_label
from mgcda_dist.errors import ShardError
from tests.support.png import grey_png
from tests.support.shards import LUT, cutout, encoded, frame

IMAGE, LABEL = frame(3)
WHERE = "shard-000000.tar: key"


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("ext", [".png", ".jpg", ".webp"])
def test_images_are_rgb(ext: str):
    data = encoded(IMAGE, ext)
    decoded = decode_image(data, WHERE)
    assert decoded.dtype == np.uint8
    if ext == ".webp":
        assert np.abs(decoded.astype(int) - IMAGE).mean() < 12
    else:
        np.testing.assert_array_equal(decoded, np.asarray(Image.open(io.BytesIO(data))))


def test_grey_alpha_and_turned_images_keep_their_grid():
    picture = Image.fromarray(IMAGE)
    exif = Image.Exif()
    exif[0x112] = 6  # "turn me": the label would not turn with it
    for data in (
        saved(picture.convert("L"), "JPEG"),
        saved(picture.convert("RGBA"), "PNG"),
        saved(picture, "JPEG", exif=exif),
    ):
        assert decode_image(data, WHERE).shape == IMAGE.shape


def test_labels_go_through_the_table():
    np.testing.assert_array_equal(decode_label(encoded(LABEL), LUT, WHERE), LUT[LABEL])
    palette = Image.fromarray(LABEL, "L").convert("P")
    palette.putdata(LABEL.ravel().tolist())
    palette.putpalette(list(range(255, -1, -1)) * 3)
    np.testing.assert_array_equal(decode_label(saved(palette, "PNG"), LUT, WHERE), LUT[LABEL])


@pytest.mark.parametrize(
    "data",
    [encoded(IMAGE), cv2.imencode(".png", LABEL.astype(np.uint16) + 250)[1].tobytes()],
    ids=["colours", "16 bit"],
)
def test_labels_of_another_kind_are_refused(data: bytes):
    with pytest.raises(ShardError, match=r"shard-000000\.tar: key: the label (has 3 channels|holds the id 25\d)"):
        decode_label(data, LUT, WHERE)


def test_cutouts_keep_alpha():
    pixels = cutout(1)
    np.testing.assert_array_equal(decode_cutout(encoded(pixels), WHERE), pixels)
    with pytest.raises(ShardError, match="not 8-bit RGB with alpha"):
        decode_cutout(encoded(IMAGE), WHERE)


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
            decode_label(hurt, LUT, WHERE)


def test_absurd_dimensions_are_refused_without_decoding():
    """Those over Pillow's own bound; those over ours: tests/test_trust.py."""
    with pytest.raises(ShardError, match="the image is not a picture"):
        decode_image(grey_png(60_000, 60_000, 8, b""), WHERE)
