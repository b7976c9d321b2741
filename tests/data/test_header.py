"""Orientation marks: found wherever they stand, and refused with labels until somebody has chosen."""

from __future__ import annotations

import numpy as np
import pytest

from mgcda_dist.choices import Exif
from mgcda_dist.data.header import check_pair, read_header
from mgcda_dist.errors import SampleError, ShardError
from tests.support.pictures import FRAME_KINDS, MARKED_KINDS, exif_block, frame_file, saved
from tests.support.png import png

NOISE = np.random.default_rng(1).integers(0, 256, (12, 20, 3)).astype(np.uint8)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_sizes_and_marks_are_those_of_the_file(kind: str) -> None:
    for mark in range(1, 9 if kind in MARKED_KINDS else 2):
        header = read_header(frame_file(kind, NOISE, mark)[0], "here")
        assert (header.height, header.width, header.mark) == (12, 20, mark)
        assert header.shape("stored") == (12, 20)
        assert header.shape("upright") == header.shape(None) == ((20, 12) if mark >= 5 else (12, 20))


def test_marks_of_other_tools() -> None:
    assert read_header(saved(NOISE, "JPEG", xmp=XMP.encode()), "here").mark == 8
    for strange in (0, 9, 65535):
        assert read_header(saved(NOISE, "JPEG", exif=b"Exif\0\0" + exif_block(strange)), "here").mark == 1
    assert read_header(png(12, 20, 8, NOISE, colour_type=2, after=[(b"eXIf", b"II*\0\xff")]), "here").mark == 1


@pytest.mark.parametrize(
    ("mark", "exif", "label_px", "message"),
    [
        (1, None, (12, 20), ""),
        (1, None, (20, 12), "the label is 12×20 px, the image 20×12\n.*belong together"),
        (
            3,
            None,
            (12, 20),
            "the image is turned by 180° by its EXIF mark, .*, too\n.*`exif`",
        ),
        (6, None, (12, 20), "turned by 90° .*, too; the label has the size of the stored image"),
        (8, None, (20, 12), "turned by 90° .*, too; the label has the size of the upright image"),
        (3, "upright", (12, 20), ""),
        (6, "upright", (20, 12), ""),
        (6, "stored", (12, 20), ""),
        (
            6,
            "upright",
            (12, 20),
            r"the image 12×20 \(upright; EXIF says turned by 90°\)\n.*choose `exif` stored",
        ),
        (
            6,
            "stored",
            (20, 12),
            r"the image 20×12 \(stored; EXIF says turned by 90°\)\n.*choose `exif` upright",
        ),
        (6, "stored", (5, 5), "5×5 px.*\n.*belong together"),
    ],
)
def test_a_label_belongs_to_its_image(mark: int, exif: Exif | None, label_px: tuple[int, int], message: str) -> None:
    header = read_header(frame_file("jpeg", NOISE, mark)[0], "here")
    if not message:
        return check_pair(header, label_px, exif, "here")
    with pytest.raises(ShardError, match=message) as caught:
        check_pair(header, label_px, exif, "here")
    assert isinstance(caught.value, SampleError) == (exif is not None or mark == 1), "no stand-in for a missing choice"
