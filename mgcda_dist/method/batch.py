"""The two records between data, segmenter and method: the batch and the prediction.

Shape legend, used in the whole project: N images, M domains, C inlier classes, H×W image size, h×w size of the logits
and of the embedding, D embedding channels, K projection channels, S discriminated stages, W ranks, B images per global
batch, R rows (sampled pixels).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.choices import ANOMALY, INLIER, VOID

__all__ = ["ANOMALY", "INLIER", "VOID", "Batch", "Prediction", "label_on_grid", "unlabelled"]


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch.

    Attributes:
        image: N×3×H×W, uint8, RGB.
        label: N×H×W, int64: 0…C-1 inlier, 253 inlier of unknown class, 254 anomaly, 255 void.
        domain: N, int64: index of the domain of each image.
        slot: N, int64: position of each image in the global batch (0…B-1), the same at every world size.
        step: global step the batch belongs to.
        keys: sample keys, `domain/key`, for messages only.
        bad: one sentence per damaged sample that another one replaces.
        unlabelled: N bool: images without labels of their own, which show void; what else their labels say belongs to
            what was pasted onto them. None: those whose labels say void and anomaly alone.
        weak: U×3×H×W, uint8, RGB, the U unlabelled images of this batch in their order, as they were before anything
            was pasted and their colours changed: what a teacher looks at. None: `image`.
    """

    image: Tensor
    label: Tensor
    domain: Tensor
    slot: Tensor
    step: int
    keys: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    unlabelled: Tensor | None = None
    weak: Tensor | None = None

    @property
    def is_unlabelled(self) -> Tensor:
        """N bool: see `unlabelled`."""
        return unlabelled(self.label) if self.unlabelled is None else self.unlabelled

    @property
    def is_foreign(self) -> Tensor:
        """N×H×W bool: pixels of unlabelled images whose label is that of another image, which they were taken from."""
        return self.is_unlabelled.view(-1, 1, 1) & (self.label != VOID) & (self.label != ANOMALY)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device, non_blocking=non_blocking)
        return Batch(**moved)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        pinned = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in pinned.items():
            if isinstance(value, Tensor):
                pinned[name] = value.pin_memory()
        return Batch(**pinned)


class Prediction(NamedTuple):
    """Output of a segmenter: a tuple, because engines that slice parameters hook into a module's output tensors.

    Attributes:
        logits: N×C×h×w.
        stages: named feature maps, each N×c×h'×w'; sizes differ per stage.
        embedding: N×D×h×w dense features in front of the classifier.
    """

    logits: Tensor
    stages: dict[str, Tensor]
    embedding: Tensor


def label_on_grid(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels N×H×W at the nearest pixel of every cell of a grid: N×h×w, int64."""
    return F.interpolate(label.unsqueeze(1).to(torch.float32), size=size, mode="nearest-exact").squeeze(1).long()


def unlabelled(label: Tensor) -> Tensor:
    """N bool: images without any label of their own, N×H×W; anomalies may have been pasted onto them."""
    return ((label == VOID) | (label == ANOMALY)).flatten(1).all(dim=1)
