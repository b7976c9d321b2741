"""The records that cross borders."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, unlabelled
from tests.support.tiny import part_of, tiny_batch


def test_to_moves_tensors_and_keeps_the_rest():
    batch = replace(tiny_batch(3), keys=("d/k",) * 8)
    moved = batch.to("meta")
    assert {x.device.type for x in (moved.image, moved.label, moved.domain, moved.slot)} == {"meta"}
    assert moved.step == 3 and moved.keys == batch.keys
    assert batch.image.device.type == "cpu"


def test_a_batch_survives_the_way_from_a_loader_process():
    batch = tiny_batch(1)
    copy = pickle.loads(pickle.dumps(batch))
    assert torch.equal(copy.image, batch.image) and torch.equal(copy.slot, batch.slot) and copy.step == 1


def test_a_batch_is_not_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        tiny_batch(0).step = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_parts_of_a_batch_cover_it_in_order():
    batch = tiny_batch(0)
    for size in (1, 2, 4):
        parts = [part_of(batch, rank, size) for rank in range(size)]
        assert torch.equal(torch.cat([part.slot for part in parts]), batch.slot)
        assert torch.equal(torch.cat([part.label for part in parts]), batch.label)


def test_label_ids_are_apart_and_fit_a_byte():
    assert len({ANOMALY, VOID, INLIER}) == 3 and max(ANOMALY, VOID, INLIER) == 255 and min(ANOMALY, INLIER) > 250


def test_unlabelled_images():
    label = torch.tensor([[[VOID, VOID]], [[VOID, ANOMALY]], [[VOID, 0]], [[INLIER, VOID]], [[ANOMALY, ANOMALY]]])
    assert unlabelled(label).tolist() == [True, True, False, False, True]
    assert unlabelled(label[:0]).tolist() == []
