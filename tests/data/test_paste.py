"""Objects land where they may, are labelled where they show, and are the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_dist.data.paste import MIN_AREA_PX, ObjectLibrary, PasteParams, PasteSource, paste_objects
from mgcda_dist.data.pixels import Pixels
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ShardError
from mgcda_dist.method.batch import ANOMALY
from mgcda_dist.method.randomness import numpy_generator
from tests.support.shards import cutout, encoded, frame, write_frames, write_objects

PARAMS = PasteParams(max_objects=1, scale=(0.3, 0.5), flip=0.5, colour_match=0.0, feather_px=1.0)


def solid(value: int, height: int, width: int) -> Pixels:
    """A grey rectangle without any transparency."""
    pixels = np.full((height, width, 4), value, np.uint8)
    pixels[:, :, 3] = 255
    return np.asarray(pixels)


ELLIPSE = cutout(0)  # alpha is 0 or 255, and black where 0: premultiplied as it is
SQUARE = solid(255, 40, 40)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> ObjectLibrary:
    return ObjectLibrary(ShardReader(write_objects(tmp_path_factory.mktemp("paste") / "objects", 5)))


@settings(deadline=None)
@given(
    st.integers(0, 2**20),
    st.tuples(st.integers(8, 60), st.integers(8, 60)),
    st.tuples(st.floats(0.02, 2.0), st.floats(1.0, 2.0)),
    st.sampled_from(["anywhere", "road"]),
    st.sampled_from(["hard", "feather", "poisson"]),
    st.floats(0, 4),
)
def test_only_labelled_pixels_change_much(
    seed: int, size: tuple[int, int], scale: tuple[float, float], placement: str, border: str, feather_px: float
):
    image, label = frame(seed % 10, *size)
    params = PasteParams(
        max_objects=3,
        scale=(scale[0], scale[0] * scale[1]),
        feather_px=feather_px,
        border=border,  # pyright: ignore[reportArgumentType]
        placement=placement,  # pyright: ignore[reportArgumentType]
    )
    pasted, pasted_label = paste_objects(image, label, numpy_generator(seed), [ELLIPSE, SQUARE], params)
    assert pasted.shape == image.shape
    assert pasted.dtype == pasted_label.dtype == np.uint8
    anomaly = pasted_label == ANOMALY
    np.testing.assert_array_equal(pasted_label[~anomaly], label[~anomaly])
    count = np.count_nonzero(anomaly)
    assert count == 0 or count >= MIN_AREA_PX
    if count == 0:
        np.testing.assert_array_equal(pasted, image)
    again, again_label = paste_objects(image, label, numpy_generator(seed), [ELLIPSE, SQUARE], params)
    np.testing.assert_array_equal(pasted, again)
    np.testing.assert_array_equal(pasted_label, again_label)


def test_an_object_shows_its_own_colour_and_only_there():
    image = np.full((100, 100, 3), (0, 200, 0), np.uint8)
    label = np.ones((100, 100), np.uint8)
    pasted, pasted_label = paste_objects(image, label, numpy_generator(1), [ELLIPSE], PARAMS)
    anomaly = pasted_label == ANOMALY
    red = pasted[:, :, 0] > 100
    assert (red == anomaly).mean() > 0.995
    assert 0 < anomaly.mean() < 0.2
    assert pasted[~red][:, 0].max() <= 100
    assert (image[:, :, 0] == 0).all()  # the arguments are left alone
    assert (label == 1).all()


def test_the_background_of_an_object_does_not_bleed_in(tmp_path: Path):
    pixels = cutout(0)
    pixels[pixels[:, :, 3] == 0] = (255, 255, 255, 0)  # a white photo background, transparent
    sample = SourceSample("white", encoded(pixels), "png")
    manifest = write_shards([sample], tmp_path, dataset="d", split="s", label_format="road8", kind="objects")
    library = ObjectLibrary(ShardReader(manifest))
    image, label = np.zeros((100, 100, 3), np.uint8), np.ones((100, 100), np.uint8)
    pasted, _ = paste_objects(image, label, numpy_generator(0), library, replace(PARAMS, feather_px=3.0))
    assert pasted[:, :, 1:].max() < 60  # no white fringe


def test_scale_is_the_share_of_the_shorter_side():
    label = np.ones((200, 300), np.uint8)
    image = np.zeros((200, 300, 3), np.uint8)
    upright = replace(PARAMS, scale=(0.25, 0.25), feather_px=0.0)
    for seed in range(20):
        anomaly = paste_objects(image, label, numpy_generator(seed), [SQUARE], upright)[1] == ANOMALY
        assert np.sqrt(anomaly.sum()) == pytest.approx(50, abs=1.5)  # the area survives the tilt


def test_feather_fades_inwards():
    image, label = np.zeros((100, 100, 3), np.uint8), np.ones((100, 100), np.uint8)
    seen = {}
    for feather_px in (0.0, 6.0):
        params = replace(PARAMS, scale=(0.5, 0.5), feather_px=feather_px)
        seen[feather_px] = paste_objects(image, label, numpy_generator(2), [SQUARE], params)[0][:, :, 0].astype(int)
    assert (seen[6.0] <= seen[0.0] + 1).all()
    grey = [np.count_nonzero((values > 20) & (values < 235)) for values in seen.values()]
    assert grey[1] > 3 * grey[0]


def test_a_hard_border_and_a_tiny_feather_are_none():
    image, label = frame(1)
    for changes in ({"border": "hard", "feather_px": 6.0}, {"feather_px": 5e-324}, {"feather_px": 0.09}):
        crop, expected = (
            paste_objects(image, label, numpy_generator(2), [ELLIPSE], replace(PARAMS, **options))[0]
            for options in (changes, {"feather_px": 0.0})
        )
        np.testing.assert_array_equal(crop, expected)


def test_a_poisson_border_has_the_colours_of_the_scene_and_the_middle_its_own():
    image, label = np.full((200, 200, 3), (60, 120, 60), np.uint8), np.ones((200, 200), np.uint8)
    red = solid(0, 40, 40)
    red[:, :, 0] = 220
    pasted, labels = {}, {}
    for border in ("hard", "poisson"):
        params = replace(PARAMS, scale=(0.5, 0.5), border=border, feather_px=0.0)
        pasted[border], labels[border] = paste_objects(image, label, numpy_generator(2), [red], params)
    np.testing.assert_array_equal(labels["hard"], labels["poisson"])
    anomaly = (labels["poisson"] == ANOMALY).astype(np.uint8)
    depth = cv2.distanceTransform(anomaly, cv2.DIST_L2, 5)
    far = np.abs(pasted["poisson"].astype(int) - (220, 0, 0)).sum(axis=2)
    near = np.abs(pasted["poisson"].astype(int) - image).sum(axis=2)
    assert near[(depth > 0) & (depth < 1.5)].mean() < 40 and far[depth > 30].max() < 10
    means = [far[(depth > low) & (depth <= low + 5)].mean() for low in (0, 5, 10, 15)]
    assert means == sorted(means, reverse=True), "the change fades inwards"
    outside = {border: np.abs(pixels.astype(int) - image)[depth == 0] for border, pixels in pasted.items()}
    assert (outside["poisson"] <= outside["hard"] + 1).all(), "the scene stays as it is"


def test_min_objects():
    image, label = np.zeros((200, 200, 3), np.uint8), np.ones((200, 200), np.uint8)
    params = replace(PARAMS, min_objects=4, max_objects=4, scale=(0.05, 0.05), feather_px=0.0)
    counts = [
        cv2.connectedComponents((paste_objects(image, label, numpy_generator(s), [SQUARE], params)[1] == ANOMALY)
                                .astype(np.uint8))[0] - 1 for s in range(10)
    ]  # fmt: skip
    assert max(counts) == 4 and min(counts) >= 2  # they may lie upon each other


def test_road_objects_stand_on_the_road():
    image = np.zeros((100, 100, 3), np.uint8)
    label = np.ones((100, 100), np.uint8)
    label[60:80, 20:90] = 0
    params = replace(PARAMS, placement="road", scale=(0.1, 0.2))
    for seed in range(30):
        pasted = paste_objects(image, label, numpy_generator(seed), [SQUARE], params)[1]
        rows, columns = np.nonzero(pasted == ANOMALY)
        assert 56 <= rows.max() <= 80
        assert 15 <= columns.mean() <= 95
    label[:] = 1
    assert paste_objects(image, label, numpy_generator(0), [SQUARE], params)[1] is label


def test_colour_match_brings_the_object_to_the_light_of_the_scene():
    label = np.ones((100, 100), np.uint8)
    bright = solid(200, 40, 40)

    def brightness(scene: int, chance: float) -> float:
        image = np.full((100, 100, 3), scene, np.uint8)
        params = replace(PARAMS, colour_match=chance, feather_px=0.0)
        pasted, pasted_label = paste_objects(image, label, numpy_generator(5), [bright], params)
        return float(pasted[pasted_label == ANOMALY].mean())

    assert brightness(120, 1.0) == pytest.approx(120, abs=6)
    assert brightness(120, 0.0) == pytest.approx(200, abs=6)
    assert brightness(10, 1.0) == pytest.approx(100, abs=6)  # never below half: an object is not painted black


def test_probability_and_number():
    image, label = frame(1, 100, 100)
    never, always = (replace(PARAMS, probability=p) for p in (0.0, 1.0))
    assert paste_objects(image, label, numpy_generator(0), [SQUARE], never)[1] is label
    pasted = [ANOMALY in paste_objects(image, label, numpy_generator(s), [SQUARE], always)[1] for s in range(20)]
    assert all(pasted)


def test_objects_too_small_to_see_are_drawn_again():
    image, label = frame(1, 60, 60)
    speck = solid(255, 2, 60)  # at this scale a line of less than a pixel
    params = replace(PARAMS, scale=(0.2, 0.2), feather_px=0.0)
    assert ANOMALY not in paste_objects(image, label, numpy_generator(0), [speck], params)[1]
    for seed in range(10):
        mixed = paste_objects(image, label, numpy_generator(seed), [speck, SQUARE], params)[1]
        assert np.count_nonzero(mixed == ANOMALY) >= 100


def test_a_library_decodes_cuts_and_premultiplies(objects: ObjectLibrary):
    assert len(objects) == 5
    first = objects[0]
    assert objects[0] is first  # kept
    pixels = cutout(0, 30, 30)
    assert first.shape[0] < 30  # cut to the outline
    assert first[:, :, 3].any(axis=0).all()
    assert first[:, :, 3].any(axis=1).all()
    assert first[first[:, :, 3] == 255][0].tolist() == [200, 30, 20, 255]
    assert np.count_nonzero(first[:, :, 3]) == np.count_nonzero(pixels[:, :, 3])
    assert not first[first[:, :, 3] == 0].any()


def test_all_objects_are_used(objects: ObjectLibrary):
    used: set[int] = set()

    class Counting:
        def __len__(self) -> int:
            return len(objects)

        def __getitem__(self, index: int, /) -> Pixels:
            used.add(index)
            return objects[index]

    image, label = frame(1)
    source = PasteSource(Counting(), PARAMS)
    for seed in range(40):
        source(image, label, numpy_generator(seed))
    assert used == set(range(5))


def test_frames_are_no_objects(tmp_path: Path):
    with pytest.raises(ShardError, match="pasting needs objects"):
        ObjectLibrary(ShardReader(write_frames(tmp_path / "frames", 2)))
