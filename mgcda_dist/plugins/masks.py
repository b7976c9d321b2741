"""Outputs of mask networks among the extras, and class scores of pixels from them.

`mask/classes` N×Q×(C+c+1), `mask/masks` N×Q×h×w: logits of the last decoder layer; `aux/i/classes`, `aux/i/masks`
those of the layers before it. The last column of the classes is "no object".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mgcda_dist.method.batch import Prediction

__all__ = ["LAST", "Queries", "class_scores", "layers", "queries"]

LAST = "mask/classes", "mask/masks"
"""Names of the last layer's outputs."""


class Queries(NamedTuple):
    """Outputs of one decoder layer, float32 at least.

    Attributes:
        classes: N×Q×(C+c+1) logits, "no object" last.
        masks: N×Q×h×w logits.
    """

    classes: Tensor
    masks: Tensor

    def posterior(self, num_classes: int) -> Tensor:
        """P_q(k) of the inlier classes, N×Q×C, of a softmax over all columns."""
        return self.classes.softmax(dim=2)[:, :, :num_classes]


def queries(extra: Mapping[str, Tensor], classes: str = LAST[0], masks: str = LAST[1]) -> Queries:
    """The outputs of one layer."""
    found = extra[classes], extra[masks]
    return Queries(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in found))


def layers(prediction: Prediction) -> Iterator[tuple[str, Queries]]:
    """Every layer whose outputs are there: the last one, and as many before it as the network gives."""
    yield "last", queries(prediction.extra)
    number = 0
    while f"aux/{number}/classes" in prediction.extra:
        yield f"aux/{number}", queries(prediction.extra, f"aux/{number}/classes", f"aux/{number}/masks")
        number += 1


def class_scores(of: Queries, num_classes: int) -> Tensor:
    """S_k(p) = Σ_q P_q(k) σ(m_q(p)), N×C×h×w, ≥ 0 and about ≤ 1 (MaskFormer, arXiv 2107.06278, section 3.4)."""
    return torch.einsum("nqc,nqhw->nchw", of.posterior(num_classes), of.masks.sigmoid())
