"""Scores against their formulas, written out pixel by pixel in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp, softmax
from scipy.stats import entropy as scipy_entropy

from mgcda_dist.models.scores import SCORE_FUNCTIONS, scorer, standardized_max_logit

LOGITS = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
L = LOGITS.numpy()

EXPECTED = {
    "msp": 1 - softmax(L, axis=1).max(axis=1),
    "max_logit": -L.max(axis=1),
    "entropy": scipy_entropy(softmax(L, axis=1), axis=1) / math.log(5),
    "energy": -np.asarray(logsumexp(L, axis=1)),
    "rba": -expit(L).sum(axis=1),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_score_equals_its_formula(kind):
    np.testing.assert_allclose(SCORE_FUNCTIONS[kind](LOGITS).numpy(), EXPECTED[kind], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", EXPECTED)
def test_uncertain_pixels_score_higher_in_single_precision(kind):
    sure, unsure = torch.tensor([9.0, 0, 0, 0]), torch.tensor([0.1, 0, 0, 0])
    logits = torch.stack([sure, unsure], dim=-1).view(1, 4, 1, 2).bfloat16()
    score = SCORE_FUNCTIONS[kind](logits)
    assert score.dtype == torch.float32 and score.shape == (1, 1, 2)
    assert score[0, 0, 1] > score[0, 0, 0]


@pytest.mark.parametrize("kind", EXPECTED)
def test_huge_logits_stay_finite(kind):
    assert torch.isfinite(SCORE_FUNCTIONS[kind](torch.tensor([1e4, -1e4, 0]).view(1, 3, 1, 1))).all()


def test_standardized_max_logit_uses_the_predicted_class():
    logits = torch.tensor([[3.0, 1.0], [2.0, 7.0]]).view(1, 2, 1, 2)  # predicts class 0, then class 1
    score = standardized_max_logit(logits, mean=torch.tensor([2.0, 5.0]), var=torch.tensor([4.0, 16.0]))
    assert score.flatten().tolist() == pytest.approx([-(3 - 2) / 2, -(7 - 5) / 4])


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="'no_such'"):
        scorer("no_such", None)
