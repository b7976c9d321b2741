"""The sign test: raising the score of anomalies and lowering that of inliers never raises the loss.

The move is along the score's own gradient, on outputs of the size of the labels; the loss is its terms over their
counts, but for those that classify, which have no such sign: `classification`, and the names in `classifying`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mgcda_dist.laws.findings import Finding
from mgcda_dist.laws.probes import Outputs
from mgcda_dist.method.batch import ANOMALY, Prediction
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.method.randomness import torch_generator
from mgcda_dist.method.terms import LossContext, weight_at
from mgcda_dist.models.segmentation_loss import CLASSIFICATION, SegmentationLoss

__all__ = ["sign"]

_DRAWS, _PROGRESS = 4, (0.5, 1.0)
_ROUNDING = 1e-9
_MASKS, _SELDOM = "masks", -3.0
"""Mask logits are low: few queries claim a pixel, or its class scores would add up to more than 1."""
_TITLE = "sign: anomalies up, inliers down"


def sign(model: MGCDA, seen: Outputs, num_classes: int) -> Finding:
    """The steepest rise of the loss, as a cosine with the move, per side, over several drawn outputs."""
    loss = model.segmentation_loss
    assert isinstance(loss, SegmentationLoss)
    excluded = {CLASSIFICATION, *getattr(loss.outlier, "classifying", ())}
    names = [name for name in loss.weights if name not in excluded]
    if not names:
        return Finding("sign", _TITLE, "not applicable", said="every term classifies")
    whole = SegmentationLoss(loss.outlier, num_classes)  # at every pixel, of the labels' own size
    steepest, where, said, reached = -math.inf, "", "", False
    for draw in range(_DRAWS):
        prediction, label = _drawn(seen, draw, scale=(1.0, 3.0)[draw % 2])
        # Maps alone: a pixel's place in them is its own, while classes of queries are shared by both sides.
        inputs = [prediction.logits, *(x for x in prediction.extra.values() if x.ndim == 4)]
        score = _at_label(model.score(prediction), label)
        for progress in _PROGRESS:
            sums = whole(prediction, label, LossContext(draw, progress, torch.arange(len(label)), model.seed))
            counts = whole.counts(label)
            value = {n: weight_at(whole.weights[n], progress) * sums[n] / counts[n].clamp(min=1) for n in names}
            total = torch.stack(list(value.values())).sum()
            if not total.requires_grad:
                continue
            downhill = _gradient(total, inputs)
            for side, mask, towards in (
                ("anomalies up", label == ANOMALY, 1),
                ("inliers down", label < num_classes, -1),
            ):
                move = _gradient(towards * (score * mask).sum(), inputs)
                slope, length = float(downhill @ move), float(downhill.norm() * move.norm())
                if length == 0:
                    continue
                reached = reached or abs(slope) > _ROUNDING * length
                if slope / length > steepest:
                    steepest = slope / length
                    where = f"{side}, draw {draw}, progress {progress}"
                    rising = {n: float(_gradient(x, inputs) @ move) for n, x in value.items() if x.requires_grad}
                    most = max(rising, key=lambda each: rising[each])
                    said = f"{most} rises by {rising[most]:.3g} per unit of a move by {float(move.norm()):.3g}"
    if not reached:
        return Finding("sign", _TITLE, "not applicable", said="no term depends on what the score reads")
    if steepest > _ROUNDING:
        side = where.partition(",")[0]
        said = (
            f"moving {side} along the score raises the loss ({said}): a sign is wrong, or the score is of another loss"
        )
        return Finding("sign", _TITLE, "broken", steepest, where, said)
    return Finding("sign", _TITLE, "kept", steepest, where, "largest cosine of a move with the loss's rise")


def _drawn(seen: Outputs, draw: int, scale: float) -> tuple[Prediction, Tensor]:
    """Random outputs with gradient; those that are maps at the size of the labels."""
    random = torch_generator("sign test", draw)
    label = seen.batch.label[:, ::4, ::4].roll(draw, dims=0)
    size = label.shape[1:]

    def like(x: Tensor, is_map: bool) -> Tensor:
        shape = (len(label), x.shape[1], *size) if is_map and x.ndim == 4 else (len(label), *x.shape[1:])
        return (scale * torch.randn(shape, generator=random, dtype=torch.float64)).requires_grad_()

    given = seen.prediction
    logits, embedding = like(given.logits, True), like(given.embedding, True)
    stages = {name: like(x, False) for name, x in given.stages.items()} | {"embedding": embedding}
    extra = {name: like(x, True) for name, x in given.extra.items()}
    for name in [each for each in extra if each.endswith(_MASKS)]:
        extra[name] = (extra[name].detach() + _SELDOM).requires_grad_()
    return Prediction(logits, stages, embedding, extra), label


def _at_label(score: Tensor, label: Tensor) -> Tensor:
    if score.shape == label.shape:
        return score
    resized = torch.nn.functional.interpolate(score.unsqueeze(1), size=label.shape[1:], mode="bilinear")
    return resized.squeeze(1)


def _gradient(value: Tensor, inputs: list[Tensor]) -> Tensor:
    """The gradient with respect to all inputs as one vector; of what takes no part 0."""
    found = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(x).flatten() if g is None else g.flatten() for g, x in zip(found, inputs, strict=True)]
    )
