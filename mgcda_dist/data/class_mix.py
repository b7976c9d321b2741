"""Classes of a labelled crop laid over a crop without labels (ClassMix, arXiv 2007.07936; DACS, arXiv 2007.08702)."""

from __future__ import annotations

import numpy as np

from mgcda_dist.data.augment import Image, Label
from mgcda_dist.method.batch import VOID

__all__ = ["with_classes_of"]


def with_classes_of(
    other_image: Image, other_label: Label, image: Image, label: Label, generator: np.random.Generator
) -> tuple[Image, Label]:
    """The crop, covered by half of the classes (rounded up) that the other crop shows, with their labels.

    Args:
        other_image, other_label: H×W×3 and H×W; void is no class, normal of unknown class and anomaly are one each.
        image, label: of the same size; not changed.
        generator: which classes.
    """
    present = np.unique(other_label)
    present = present[present != VOID]
    chosen = generator.permutation(present)[: (len(present) + 1) // 2]
    covered = np.isin(other_label, chosen)
    return np.where(covered[..., None], other_image, image), np.where(covered, other_label, label)
