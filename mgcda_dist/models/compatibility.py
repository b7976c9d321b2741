"""Combinations of outlier losses, scores and kinds of logits: an impossible one is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mgcda_dist.choices import OUTLIER_LOSSES, LogitKind, outlier_entry, score_entry
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.scores import ClassStatistics

__all__ = ["check_loss", "check_score", "check_statistics"]


def check_score(score: str, logits: LogitKind, outlier: str) -> None:
    """Raise `ConfigError` for a score that is not defined on these logits, or needs another training.

    Args:
        outlier: outlier loss that the network is trained with; of one's own, or of another version of the package,
            nothing is known, and nothing refused.
    """
    entry = score_entry(score)
    if entry.logits and logits not in entry.logits.values:
        raise ConfigError("model.score", f"{score!r} {entry.logits.reason}", entry.logits.remedy)
    if entry.outlier and outlier in OUTLIER_LOSSES and outlier not in entry.outlier.values:
        problem = f"{score!r} {entry.outlier.reason} (loss.outlier={outlier})"
        raise ConfigError("model.score", problem, entry.outlier.remedy)


def check_statistics(score: str, statistics: ClassStatistics | None, folder: Path) -> None:
    """Raise `ConfigError` for a score whose class statistics an exported model does not have.

    Args:
        statistics: those of the model's metadata.
    """
    if score_entry(score).calibrated and statistics is None:
        raise ConfigError(
            f"score, {folder}",
            f"{score!r} needs the mean and variance of each class's maximum logit, which are not measured yet for this "
            "model",
            f"first: `mgcda calibrate {folder}`, with frames that it was trained on",
        )


def check_loss(outlier: str, logits: LogitKind, limits: Mapping[str, float] | None = None) -> None:
    """Raise `ConfigError` for an outlier loss that cannot work on these logits.

    Args:
        limits: of the loss, by name; those that are left out have their default.
    """
    entry, given = outlier_entry(outlier), limits or {}
    if entry.logits and logits not in entry.logits.values:
        raise ConfigError("loss.outlier", f"{outlier!r} {entry.logits.reason}", entry.logits.remedy)
    for bound in entry.on_masks if logits == "mask" else ():
        value = given.get(bound.limit, entry.limits[bound.limit])
        if value < bound.value:
            raise ConfigError(f"loss.{bound.limit}", f"{value} cannot be reached: {bound.reason}", bound.remedy)
