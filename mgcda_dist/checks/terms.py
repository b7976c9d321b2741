"""Checks of the terms of the loss: classes and terms that learn nothing from the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mgcda_dist.choices import ANOMALY
from mgcda_dist.config.schema import Config

__all__ = ["unlearned"]


def unlearned(config: Config, seen: Counter[int]) -> Iterator[str]:
    """Classes and terms for which the labels have no training pixels."""
    missing = [name for i, name in enumerate(config.data.class_names) if not seen[i]]
    if missing:
        yield f"no labelled stream shows {', '.join(missing)}: the network cannot learn what that is"
    pastes = any(stream.paste and stream.paste.probability > 0 for stream in config.data.streams)
    if not pastes and not seen[ANOMALY]:
        terms = [name for name, on in (("the outlier term", config.loss.outlier != "none"),
                                       ("CACL", config.cacl.enabled)) if on]  # fmt: skip
        learns = f"{' and '.join(terms)} will learn nothing from anomalies" if terms else "none is needed as configured"
        yield f"no anomaly in training: no stream pastes objects, and no label holds one; {learns}"
