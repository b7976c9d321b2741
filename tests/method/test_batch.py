"""Batches: moved between devices; images without labels."""

from __future__ import annotations

from dataclasses import replace

import torch

from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, unlabelled
from tests.support.tiny import tiny_batch


def test_to_moves_tensors_and_keeps_the_rest():
    batch = replace(tiny_batch(3), keys=("d/k",) * 8)
    moved = batch.to("meta")
    assert {x.device.type for x in (moved.image, moved.label, moved.domain, moved.slot)} == {"meta"}
    assert moved.step == 3 and moved.keys == batch.keys
    assert batch.image.device.type == "cpu"


def test_unlabelled_images():
    label = torch.tensor([[[VOID, VOID]], [[VOID, ANOMALY]], [[VOID, 0]], [[INLIER, VOID]], [[ANOMALY, ANOMALY]]])
    assert unlabelled(label).tolist() == [True, True, False, False, True]
    assert unlabelled(label[:0]).tolist() == []
