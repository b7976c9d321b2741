"""The pixels of training batches that stand for a domain in the picture of its embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mgcda_dist.runs.alignment as module
from mgcda_dist.method.batch import ANOMALY, VOID
from mgcda_dist.reports.alignment import EmbeddedPixels
from tests.multiprocess.scenarios import class_mixed
from tests.support.tiny import NUM_CLASSES, TinySegmenter, tiny_batch


def test_pixels_that_class_mix_has_laid_over_an_image_stand_for_no_domain(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[EmbeddedPixels] = []

    def figure(moments: dict[str, EmbeddedPixels], *arguments: object, **options: object) -> None:
        drawn.extend(moments.values())

    monkeypatch.setattr(module, "alignment_figure", figure)
    batches = [class_mixed(tiny_batch(step)) for step in range(3)]
    told = [replace(batch, unlabelled=torch.zeros(8, dtype=torch.bool)) for batch in batches]
    for given in (batches, told):
        module.draw_alignment(
            {"": TinySegmenter()}, given, tmp_path / "a.png", domains="abc", classes=["x", "y", "z"], seed=0, title=""
        )
    mixed, taken_for_labelled = (set(np.unique(each.type[each.domain == 2])) for each in drawn)
    assert mixed == {-1, NUM_CLASSES}, "its own pixels, which have no class, and objects"
    assert taken_for_labelled == {-1, 0, 2, NUM_CLASSES}
    assert all({-1, 0, 1, 2, NUM_CLASSES} >= set(np.unique(each.type)) for each in drawn)
    assert {VOID, ANOMALY, 0, 2} == set(batches[0].label[batches[0].domain == 2].unique().tolist())
    assert (drawn[0].domain != 2).sum() == (drawn[1].domain != 2).sum()
