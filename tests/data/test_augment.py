"""Geometry keeps image and label together; colour is what torchvision's operations do."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_dist.data.augment import AugmentParams, Transform, View, apply_colour, apply_geometry, draw_view
from mgcda_dist.data.pixels import resized, resized_label
from mgcda_dist.method.batch import VOID
from mgcda_dist.method.randomness import numpy_generator
from tests.support.shards import frame

PLAIN = AugmentParams(scale=(1.0, 1.0), flip=0, brightness=0, contrast=0, saturation=0, hue=0, blur=0)
SIDES = st.integers(1, 90)
IMAGE, LABEL = frame(5)


def whole(height: int, width: int, **colour: float) -> View:
    return View(box=(0, 0, height, width), size=(height, width), offset=(0, 0), **colour)  # pyright: ignore[reportArgumentType]


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.floats(0.1, 3), st.one_of(st.none(), st.integers(1, 200)), st.integers(0, 2**20))
def test_every_view_lies_in_frame_and_crop(
    height: int, width: int, crop_height: int, crop_width: int, scale: float, reference: int | None, seed: int
):
    params = AugmentParams(scale=(scale / 2, scale), reference_height_px=reference, flip=0.5)
    generator = numpy_generator(seed)
    view = draw_view(generator, (height, width), (crop_height, crop_width), params)
    top, left, box_height, box_width = view.box
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert 0 <= view.offset[0] <= view.offset[0] + view.size[0] <= crop_height
    assert 0 <= view.offset[1] <= view.offset[1] + view.size[1] <= crop_width
    image = np.zeros((height, width, 3), np.uint8)
    label = np.full((height, width), 2, np.uint8)
    out_image, out_label = apply_geometry(image, label, view, (crop_height, crop_width))
    assert out_image.shape == (crop_height, crop_width, 3)
    assert out_label.shape == (crop_height, crop_width)
    assert np.count_nonzero(out_label == 2) == view.size[0] * view.size[1]
    assert set(np.unique(out_label)) <= {2, VOID}
    after = generator.random()
    other = numpy_generator(seed)
    draw_view(other, (50, 50), (20, 20), PLAIN)
    assert other.random() == after  # the parameters do not move the stream


def test_nothing_drawn_changes_nothing():
    image, label = Transform((60, 80), PLAIN)(IMAGE, LABEL, numpy_generator(0))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)
    assert image.base is None  # not a view of the frame


@pytest.mark.parametrize("scale", [0.4, 0.9, 1.0, 1.7])
def test_image_and_label_stay_aligned(scale: float):
    """A frame whose colour is its label must stay one, but for the blended borders."""
    label = frame(8, 120, 160)[1]
    image = np.repeat(label[:, :, None] * 30, 3, axis=2)
    params = AugmentParams(scale=(scale, scale), brightness=0, contrast=0, saturation=0, hue=0, blur=0)
    for seed in range(10):
        view = draw_view(numpy_generator(seed), (120, 160), (50, 60), params)
        out_image, out_label = apply_geometry(image, label, view, (50, 60))
        kernel = np.ones((5, 5), np.uint8)
        inner = (cv2.erode(out_label, kernel) == cv2.dilate(out_label, kernel)) & (out_label != VOID)
        assert inner.mean() > 0.05
        np.testing.assert_array_equal(out_image[inner][:, 0], out_label[inner] * 30)


def test_cropping_before_resizing_equals_resizing_before_cropping():
    params = AugmentParams(scale=(0.6, 0.6), flip=0, brightness=0, contrast=0, saturation=0, hue=0, blur=0)
    image, label = frame(2, 240, 320)
    view = draw_view(numpy_generator(4), (240, 320), (90, 90), params)
    crop, crop_label = apply_geometry(image, label, view, (90, 90))
    top, left = round(view.box[0] * 0.6), round(view.box[1] * 0.6)
    slow = cv2.resize(image, (192, 144), interpolation=cv2.INTER_AREA)[top : top + 90, left : left + 90]
    slow_label = cv2.resize(label, (192, 144), interpolation=cv2.INTER_NEAREST_EXACT)[top : top + 90, left : left + 90]
    assert np.abs(crop.astype(int) - slow).mean() < 6
    assert (crop_label == slow_label).mean() > 0.9


def test_the_reference_height_gives_cameras_one_scale():
    """The same scene at twice the resolution gives the same crop."""
    params = AugmentParams(
        scale=(1.3, 1.3), reference_height_px=120, brightness=0, contrast=0, saturation=0, hue=0, blur=0
    )
    large, large_label = frame(7, 240, 320)
    small, small_label = resized(large, 120, 160), resized_label(large_label, 120, 160)
    transform = Transform((64, 64), params)
    image, label = transform(large, large_label, numpy_generator(1))
    other_image, other_label = transform(small, small_label, numpy_generator(1))
    assert np.abs(image.astype(int) - other_image).mean() < 6
    assert (label == other_label).mean() > 0.85


def test_a_small_frame_is_reflected_and_void_around():
    params = AugmentParams(scale=(0.5, 0.5), flip=0, brightness=0, contrast=0, saturation=0, hue=0, blur=0)
    image, label = Transform((64, 64), params)(IMAGE, LABEL, numpy_generator(3))  # 60×80 → 30×40
    rows, columns = np.nonzero(label != VOID)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1, len(rows)) == (30, 40, 1200)
    top, left = rows.min(), columns.min()
    inside = image[top : top + 30, left : left + 40]
    np.testing.assert_array_equal(inside, cv2.resize(IMAGE, (40, 30), interpolation=cv2.INTER_AREA))
    if top > 0:
        np.testing.assert_array_equal(image[top - 1, left : left + 40], inside[1])
    assert image[label == VOID].std() > 5  # not a flat border


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_colours_are_those_of_torchvision(name: str, factor: float):
    from torchvision.transforms.v2 import functional

    adjust = getattr(functional, f"adjust_{name}")
    expected = adjust(torch.from_numpy(IMAGE).permute(2, 0, 1), factor).permute(1, 2, 0).numpy()
    ours = apply_colour(IMAGE, whole(60, 80, **{name: factor}))
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_hue_leaves_grey_and_brightness_alone():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.abs(apply_colour(grey, whole(1, 256, hue=0.3)).astype(int) - grey).max() <= 1
    turned = apply_colour(IMAGE, whole(60, 80, hue=0.2))
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(turned @ luma - IMAGE @ luma).max() < 2
    assert np.abs(turned.astype(int) - IMAGE).max() > 10
    third = apply_colour(np.array([[[128, 90, 90]]], np.uint8), whole(1, 1, hue=1 / 3))[0, 0]
    assert third.argmax() != 0  # a third of a turn: red is red no more


def test_blur_smooths():
    assert apply_colour(IMAGE, whole(60, 80, blur_px=1.5)).std() < IMAGE.std()


def test_draws_cover_their_ranges():
    params = AugmentParams(scale=(0.5, 2.0), brightness=0.3, contrast=1.5, hue=0.05, blur=0.1, flip=0.25)
    views = [draw_view(numpy_generator(seed), (400, 400), (100, 100), params) for seed in range(2000)]
    factors = np.array([100 / view.box[0 + 2] for view in views])
    assert 0.49 < factors.min() < 0.52
    assert 1.9 < factors.max() < 2.05
    assert abs(np.log2(factors).mean()) < 0.05  # as often halved as doubled
    brightness = np.array([view.brightness for view in views])
    assert 0.7 <= brightness.min() < 0.72 < 1.28 < brightness.max() <= 1.3
    contrast = np.array([view.contrast for view in views])
    assert 0 <= contrast.min() < 0.05 < 2.4 < contrast.max() <= 2.5
    assert 0.2 < np.mean([view.flip for view in views]) < 0.3
    assert 0.07 < np.mean([view.blur_px > 0 for view in views]) < 0.13
    assert max(abs(view.hue) for view in views) <= 0.05


def test_a_crop_is_a_function_of_its_arguments():
    transform = Transform((48, 48))
    before = IMAGE.copy(), LABEL.copy()
    first = transform(IMAGE, LABEL, numpy_generator(1, "augment", 2, 3))
    second = transform(IMAGE, LABEL, numpy_generator(1, "augment", 2, 3))
    other = transform(IMAGE, LABEL, numpy_generator(1, "augment", 2, 4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(IMAGE, before[0])
    np.testing.assert_array_equal(LABEL, before[1])
