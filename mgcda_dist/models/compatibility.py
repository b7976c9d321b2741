"""Which outlier losses and scores make sense with which logits; what does not is refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.adapters import LogitKind
from mgcda_dist.models.scores import ClassStatistics, ScoreKind
from mgcda_dist.models.segmentation_loss import OutlierKind

__all__ = ["check_loss", "check_score", "check_statistics"]

_MASS = 1.0
"""Largest sum of class scores that a mask network is taught on a pixel: one mask of one class."""


def check_score(score: ScoreKind, logits: LogitKind, outlier: OutlierKind) -> None:
    """Raise `ConfigError` for a score that means nothing on these logits, trained with that outlier term."""
    where = "model.score"
    if score == "rba_mask" and logits == "pixel":
        raise ConfigError(
            where,
            "'rba_mask' reads class scores that masks add up to; these logits are per pixel",
            "use 'rba' with loss.outlier=rba_hinge, or another score",
        )
    if score == "rba" and logits == "mask":
        raise ConfigError(
            where,
            "'rba' reads one-against-rest logits of both signs; this network has logarithms of mask scores",
            "use 'rba_mask'",
        )
    if score == "rba" and outlier != "rba_hinge":
        raise ConfigError(
            where,
            f"'rba' adds up σ(L_k), but cross-entropy (loss.outlier={outlier}) leaves the level of a pixel's logits "
            "free: adding a constant to all changes the score and not the loss",
            "train with loss.outlier=rba_hinge, which fixes the level, or use another score",
        )


def check_statistics(score: ScoreKind, facts: Mapping[str, Any], folder: Path) -> None:
    """Raise `ConfigError` for a score whose class statistics an exported model does not have.

    Args:
        score: wanted.
        facts: content of `model.json`.
        folder: of the model, for the message.
    """
    if score == "standardized_max_logit" and ClassStatistics.of_facts(facts) is None:
        raise ConfigError(
            f"--score, {folder}",
            "'standardized_max_logit' needs the mean and variance of each class's maximum logit, which nobody has "
            "measured for this model",
            f"first: mgcda calibrate {folder} --data SHARDS, with frames that it was trained on",
        )


def check_loss(outlier: OutlierKind, logits: LogitKind, inlier_energy: float) -> None:
    """Raise `ConfigError` for an outlier term that cannot work on these logits."""
    if logits == "pixel":
        return
    if outlier == "abstention":
        raise ConfigError(
            "loss.outlier",
            "'abstention' needs one more logit per pixel, but this network classifies masks",
            "loss.outlier=rba_hinge suits it, or energy_hinge with limits around 0",
        )
    lowest = -math.log(_MASS)
    if outlier == "energy_hinge" and inlier_energy < lowest - 1:
        raise ConfigError(
            "loss.inlier_energy",
            f"{inlier_energy} cannot be reached: the energy of a mask network is -log of its summed class scores, "
            f"about {abs(lowest):g} where one mask claims the pixel and above where none does",
            "for example loss.inlier_energy=0.1 loss.outlier_energy=2",
        )
