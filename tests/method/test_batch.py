"""Batches: moved between devices, refused where they would be misread; images without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Batch, unlabelled
from tests.support.pretended import DEVICE, pretended_device
from tests.support.tiny import tiny_batch


def test_to_moves_tensors_and_keeps_the_rest():
    batch = replace(tiny_batch(3), keys=("d/k",) * 8)
    moved = batch.to("meta")
    assert {x.device.type for x in (moved.image, moved.label, moved.domain, moved.slot)} == {"meta"}
    assert moved.step == 3 and moved.keys == batch.keys
    assert batch.image.device.type == "cpu"
    assert moved.unlabelled is None is moved.weak
    known = replace(batch, unlabelled=batch.domain == 2, weak=batch.image[batch.domain == 2]).to("meta")
    assert known.unlabelled is not None and known.weak is not None
    assert known.unlabelled.device.type == known.weak.device.type == "meta"


@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_gpu_gets_all_tensors_in_one_transfer(is_pinned: bool):
    whole = tiny_batch(3)
    whole = replace(whole, label=whole.label.to(torch.uint8))
    told = whole.domain == 2
    batch = replace(whole, unlabelled=told, weak=whole.image[told], keys=("d/k",) * 8)
    with pretended_device() as gpu:
        before = batch.pin_memory() if is_pinned else batch
        moved = before.to(DEVICE)
        assert not gpu.waits and len(gpu.pinned) == 1
        assert moved.keys == batch.keys and before.wide_label.dtype == moved.wide_label.dtype == torch.int64
        (travelled,) = gpu.pinned.values()
        pixels = batch.label.numel() + 3 * (batch.label.numel() + int(told.sum()) * batch.label[0].numel())
        assert pixels <= travelled.untyped_storage().nbytes() < 1.1 * pixels, "a byte per value and per label"
        for name in ("image", "label", "domain", "slot", "unlabelled", "weak"):
            tensor, wanted = getattr(moved, name), getattr(batch, name)
            assert tensor.device == DEVICE and tensor.stride() == wanted.stride()
            assert torch.equal(tensor.cpu(), wanted)


def test_unlabelled_images():
    label = torch.tensor([[[VOID, VOID]], [[VOID, ANOMALY]], [[VOID, 0]], [[INLIER, VOID]], [[ANOMALY, ANOMALY]]])
    assert unlabelled(label).tolist() == [True, True, False, False, True]
    assert unlabelled(label[:0]).tolist() == []


def test_what_was_laid_over_an_unlabelled_image_is_foreign():
    label = torch.tensor([[[VOID, 0, INLIER, ANOMALY]], [[VOID, 0, INLIER, ANOMALY]], [[VOID, VOID, VOID, ANOMALY]]])
    batch = replace(tiny_batch(0, 3), label=label)
    assert batch.is_unlabelled.tolist() == [False, False, True], "as far as labels tell"
    assert not batch.is_foreign.any()
    told = replace(batch, unlabelled=torch.tensor([True, False, False]))
    assert told.is_unlabelled.tolist() == [True, False, False]
    assert told.is_foreign.tolist() == [[[False, True, True, False]], [[False] * 4], [[False] * 4]]


def _float_image(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    return replace(batch, image=change(batch.image.float()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: replace(b, image=b.image[0]), r"images of the batch are 3×\d+×\d+: they must be N×3×H×W"),
        (lambda b: replace(b, image=b.image.permute(0, 2, 3, 1)), r"must be N×3×H×W, RGB"),
        (lambda b: replace(b, label=b.label[:, ::2]), r"labels of the batch are .*, its images .*: make them N×H×W"),
        (lambda b: replace(b, label=b.label[:, None]), r"labels of the batch are 8×1×"),
        (lambda b: replace(b, label=b.label.float()), r"labels of the batch are torch.float32: .*whole numbers"),
        (lambda b: replace(b, domain=b.domain[:3]), r"`domain` of the batch is 3 torch.int64 for 8 images"),
        (lambda b: replace(b, domain=b.domain.float()), r"`domain` .* torch.float32 .*one int64 number per image"),
        (lambda b: replace(b, slot=b.slot[:3]), r"`slot` of the batch is 3 torch.int64 for 8 images"),
    ],
    ids=["one image", "channels last", "half a label", "a channel of labels", "float labels", "few domains",
         "float domains", "few slots"],
)  # fmt: skip
@pytest.mark.parametrize("looks", [True, False])
def test_tensors_that_do_not_fit_together_are_refused(change: Callable[[Batch], Batch], says: str, looks: bool) -> None:
    batch = tiny_batch(0)
    batch.check(3, 3, looks=looks)
    with pytest.raises(ValueError, match=says):
        change(batch).check(3, 3, looks=looks)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: _float_image(b, lambda x: x / 255), r"images .* torch.float32 from 0 to 1: .*not divided by 255"),
        (lambda b: _float_image(b, lambda x: (x / 255 - 0.45) / 0.22), r"from -2.\d+ to 2.5: .*not normalised"),
        (lambda b: _float_image(b, lambda x: (x / 127.5 - 1).half()), r"torch.float16 from -1 to 1: "),
        (lambda b: replace(b, label=b.label.index_fill(1, torch.tensor([2]), 3)), r"image 0 .* holds 3 at row 2, col"),
        (lambda b: replace(b, label=b.label.index_fill(2, torch.tensor([1]), -1)), r"holds -1 at .*: .* 0 … 2, or 253"),
        (lambda b: replace(b, label=b.label.index_fill(2, torch.tensor([1]), 256)), r"holds 256 .* 255 void"),
        (lambda b: replace(b, slot=torch.zeros_like(b.slot)), "`slot` of the batch holds a number twice"),
    ],
    ids=["of 0…1", "normalised", "of -1…1", "no class", "ignored as -1", "beyond a byte", "one slot"],
)  # fmt: skip
def test_what_would_be_misread_is_refused(change: Callable[[Batch], Batch], says: str) -> None:
    batch = tiny_batch(0)
    for fits in (batch, _float_image(batch, lambda x: x), _float_image(batch, lambda x: x * 1.1 - 9),
                 _float_image(batch, lambda x: x * 0), _float_image(batch, lambda x: x * 0 + 1)):  # fmt: skip
        fits.check(3, 3, looks=True)
    wrong = change(batch)
    with pytest.raises(ValueError, match=says):
        wrong.check(3, 3, looks=True)
    wrong.check(3, 3, looks=False)
