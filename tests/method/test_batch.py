"""Batches: moved between devices; images without labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, unlabelled
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
