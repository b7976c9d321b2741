"""Random numbers of forward passes: the same in one piece and in micro-batches, and none outside of training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mgcda_dist.method.forwards import ForwardContext
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.method.terms import LossContext
from tests.support.tiny import part_of, tiny_batch, tiny_mgcda


class Noise(nn.Module):
    """Noise per image and channel in training."""

    forward_context: ForwardContext | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.forward_context is None:
            return x
        drawn = self.forward_context.uniform("noise", x.shape[1])
        return x + self.forward_context.progress * drawn.to(x.dtype)[:, :, None, None]


def _noisy(seed: int = 0) -> MGCDA:
    plain = tiny_mgcda(with_cacl=False)
    segmenter: nn.Module = plain.segmenter
    segmenter.body = nn.Sequential(segmenter.body, Noise())  # type: ignore[arg-type]
    noisy = MGCDA(segmenter, plain.segmentation_loss, plain.score, mdat=plain.mdat, seed=seed)
    return noisy.double().train()


def _loss(model: MGCDA, step: int, parts: int = 1, progress: float = 0.5) -> tuple[float, Tensor]:
    batches = [part_of(tiny_batch(step), i, parts) for i in range(parts)]
    counts = model.count(batches)
    outcomes = [model(batch, progress, counts) for batch in batches]
    model.zero_grad()
    for outcome in outcomes:
        (outcome.loss / parts).backward()
    gradients = torch.cat([x.grad.flatten() for x in model.segmenter.parameters() if x.grad is not None])
    return model.total(outcomes).scalars()["loss/total"], gradients.clone()


def test_draws_belong_to_step_and_image():
    model = _noisy()
    whole, gradients = _loss(model, 3)
    for parts in (2, 4):
        found, those = _loss(model, 3, parts)
        assert abs(found - whole) < 1e-12
        torch.testing.assert_close(those, gradients, rtol=1e-9, atol=1e-12)
    assert _loss(_noisy(), 3)[0] == whole, "as after a resume"
    later = replace(tiny_batch(3), step=4)
    assert abs(model(later, 0.5).loss.item() - whole) > 1e-6 and abs(_loss(_noisy(seed=1), 3)[0] - whole) > 1e-6


def test_nothing_is_drawn_outside_of_a_training_step():
    model, image = _noisy(), tiny_batch(0).image
    before = model.segmenter(image).logits
    _loss(model, 3)
    assert torch.equal(model.segmenter(image).logits, before)
    slot = torch.arange(3)
    assert not torch.equal(ForwardContext(0, 0, slot).uniform("a"), LossContext(0, 0, slot).uniform("a"))
