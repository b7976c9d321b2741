"""Items of Datasets: every form that is read gives the same pixels, and every other one is named with its remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from mgcda_dist.data.items import as_ids, as_image, split
from mgcda_dist.errors import SampleError

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
LABEL = np.random.default_rng(1).integers(0, 20, (5, 7), np.uint8)
TENSOR = torch.from_numpy(IMAGE.transpose(2, 0, 1).copy())


class Named(NamedTuple):
    name: str
    label: Any
    image: Any


@pytest.mark.parametrize(
    "item",
    [(IMAGE, LABEL), [IMAGE, LABEL], {"image": IMAGE, "label": LABEL, "name": "a"}, Named("a", LABEL, IMAGE)],
    ids=["tuple", "list", "mapping", "named tuple"],
)
def test_an_item_has_an_image_and_a_label(item: Any) -> None:
    found = split(item, "here")
    assert found.image is IMAGE and found.label is LABEL


@pytest.mark.parametrize("item", [IMAGE, (IMAGE, None), {"image": IMAGE}])
def test_an_item_may_lack_a_label(item: Any) -> None:
    found = split(item, "here")
    assert found.image is IMAGE and found.label is None


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ((IMAGE, LABEL, 3), "a tuple of 3, not of 2"),
        ({"img": IMAGE, "mask": LABEL}, "a mapping without `image`; its keys: img, mask"),
    ],
)
def test_another_form_is_named(item: Any, says: str) -> None:
    with pytest.raises(SampleError, match=says) as caught:
        split(item, "stream a: item 3")
    assert caught.value.where == "stream a: item 3" and "(image, label)" in caught.value.remedy


@pytest.mark.parametrize(
    "given",
    [
        IMAGE,
        Image.fromarray(IMAGE),
        Image.fromarray(np.dstack([IMAGE, LABEL])),
        TENSOR,
        TENSOR / 255,
        (TENSOR.double() / 255).requires_grad_(),
        IMAGE[::-1][::-1],
    ],
    ids=["array", "PIL", "PIL with alpha", "tensor", "float", "double", "strides"],
)
def test_every_kind_of_image_gives_the_same_pixels(given: Any) -> None:
    found = as_image(given, "here")
    np.testing.assert_array_equal(found, IMAGE)
    assert found.dtype == np.uint8 and found.flags.c_contiguous and not found.flags.writeable
    assert IMAGE.flags.writeable, "of the Dataset's own array only our view is locked"


def test_a_grey_picture_becomes_three_equal_channels() -> None:
    found = as_image(Image.fromarray(LABEL), "here")
    assert found.shape == (5, 7, 3) and (found == LABEL[..., None]).all()


@pytest.mark.parametrize(
    ("given", "says", "remedy"),
    [
        (TENSOR.permute(1, 2, 0), "a tensor of shape 5×7×3", "permute"),
        (TENSOR[0], "a tensor of shape 5×7", "3×H×W"),
        (IMAGE.transpose(2, 0, 1), "an array of shape 3×5×7", "transpose"),
        (LABEL, "an array of shape 5×7", "dstack"),
        (IMAGE / 255, "an array of float64", "uint8"),
        (TENSOR.float(), "values from 0 to 248", "0…1"),
        (TENSOR / 255 - 0.5, "values from -0.5 to 0.", "not normalised"),
        (TENSOR * torch.nan, "values from nan to nan", "0…1"),
        (TENSOR.int(), "torch.int32", "uint8"),
        (Image.fromarray(IMAGE[..., 0].astype(np.float32)), "mode F", "convert"),
        (IMAGE[:0], "no pixel: 0×7×3", "image"),
        ("a.png", "is a str", "PIL image"),
    ],
)
def test_another_image_is_named_with_its_remedy(given: Any, says: str, remedy: str) -> None:
    with pytest.raises(SampleError, match=f"the image .*{says}") as caught:
        as_image(given, "here")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "given",
    [LABEL, LABEL.astype(np.int64), torch.from_numpy(LABEL).long(), Image.fromarray(LABEL), LABEL.astype(">i4")],
    ids=["array", "int64", "tensor", "PIL", "big-endian"],
)
def test_every_kind_of_label_gives_the_same_ids(given: Any) -> None:
    found = as_ids(given, (5, 7), "here")
    np.testing.assert_array_equal(found, LABEL)
    assert found.dtype == np.uint8 and not found.flags.writeable


def test_a_mask_is_of_ids_0_and_1() -> None:
    assert set(np.unique(as_ids(LABEL > 9, (5, 7), "here"))) == {0, 1}


@pytest.mark.parametrize(
    ("given", "says", "remedy"),
    [
        (LABEL.T, "shape 7×5, the image 5×7", "belong together"),
        (IMAGE, "shape 5×7×3, the image 5×7", "no colours"),
        (torch.from_numpy(LABEL)[None], "shape 1×5×7", "without an axis"),
        (LABEL / 2, "of float64", "whole numbers"),
        (LABEL.astype(int) - 1, "the id -1", "255"),
        (LABEL.astype(int) * 100, "the id 1900", "0 … 255"),
        ([[1, 2]], "is a list", "array"),
    ],
)
def test_another_label_is_named_with_its_remedy(given: Any, says: str, remedy: str) -> None:
    with pytest.raises(SampleError, match=f"the label .*{says}") as caught:
        as_ids(given, (5, 7), "here")
    assert remedy in caught.value.remedy
