"""Learning rate as a function of progress."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mgcda_dist.choices import Schedule

__all__ = ["group_factor", "rate_factor"]


def group_factor(progress: float, schedule: Schedule, warmup: float, group: Mapping[str, Any]) -> float:
    """Factor on the base learning rate of a group of the optimiser: 0 over its `hold`, then `rate_factor` of the rest.

    Args:
        warmup: of groups without their own.
        group: its `hold` and `warmup`, each a share: of the training, and of what follows `hold`.
    """
    hold: float = group.get("hold", 0.0)
    if progress < hold:
        return 0.0
    return rate_factor((progress - hold) / (1.0 - hold), schedule, group.get("warmup", warmup))


def rate_factor(progress: float, schedule: Schedule, warmup: float) -> float:
    """Factor on the base learning rate at `progress` in [0, 1].

    A linear rise over the first `warmup` share, then `poly` (1 - q)^0.9 (DeepLab, arXiv 1606.00915), `cosine`, or
    `constant`, with q the progress since the end of the rise.
    """
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    q = (progress - warmup) / (1.0 - warmup) if warmup < 1 else 1.0
    match schedule:
        case "poly":
            return (1.0 - q) ** 0.9
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * q))
        case "constant":
            return 1.0
