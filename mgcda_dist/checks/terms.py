"""Checks of the terms of the loss: classes and terms that learn nothing from the data, options that do nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mgcda_dist.choices import ANOMALY, OUTLIER_LOSSES, outlier_entry
from mgcda_dist.config.schema import Config

__all__ = ["unlearned", "untaught"]


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


def untaught(config: Config) -> Iterator[str]:
    """Options for images without labels, where they do nothing."""
    teacher, outlier = config.teacher, config.loss.outlier
    all_labelled = all(stream.labelled for stream in config.data.streams)
    if config.data.augment.class_mix > 0 and all_labelled:
        yield (
            "data.augment.class_mix: all streams are labelled, so no crop takes classes of another; set labelled: "
            "false on one, or data.augment.class_mix=0"
        )
    if teacher.enabled and teacher.outlier_weight > 0:
        if teacher.weight == 0:
            yield (
                "teacher.outlier_weight: it is multiplied by teacher.weight, which is 0; raise that, or set "
                "teacher.outlier_weight=0"
            )
        if not outlier_entry(outlier).any_inlier:
            suited = ", ".join(name for name, entry in OUTLIER_LOSSES.items() if entry.any_inlier)
            yield (
                f"teacher.outlier_weight: loss.outlier={outlier} has no side for inliers of unknown class, so nothing "
                f"comes of it; set teacher.outlier_weight=0, or loss.outlier to one of {suited}"
            )
    if teacher.is_asked and all_labelled:
        yield (
            "teacher.enabled: all streams are labelled, so the teacher has no image to label; set labelled: false on "
            "one, or teacher.weight=0 and teacher.contrast=false for the average alone"
        )
