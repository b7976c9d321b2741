"""The networks that a plug-in is examined on: two convolutions and a classifier, of pixels or of masks.

Smooth and without normalisation, so that rounding cannot flip a unit and no image sees another.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TwoConvolutions", "TwoConvolutionsOfMasks"]

_FLOOR = 1e-6
_LIVELINESS = 3.0
"""Factor of the first weights: an untrained network sees all pixels alike, and hinges would stay shut."""


class TwoConvolutions(nn.Module):
    """Image → logits at stride 4.

    Args:
        num_classes: logits, further columns among them.
        channels: of both convolutions.
    """

    def __init__(self, num_classes: int, channels: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.body = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.activation = nn.Tanh()
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.taps = {"logits": "classifier", "stages": {"stride4": "body"}, "multiple_px": 4}
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(_LIVELINESS)

    def forward(self, image: Tensor) -> Tensor:
        """N×3×H×W normalised → N×K×⌈H/4⌉×⌈W/4⌉."""
        return self.classifier(self.activation(self.body(F.silu(self.stem(image)))))


class TwoConvolutionsOfMasks(nn.Module):
    """Image → classes and masks of queries, whose classes follow from the mean of the features.

    Args:
        num_classes: columns of the classes, but for "no object", which is the last.
        num_queries: Q.
        channels: of both convolutions.
    """

    def __init__(self, num_classes: int, num_queries: int, channels: int = 12) -> None:
        super().__init__()
        self.features, self.activation = TwoConvolutions(channels, channels), nn.Tanh()
        self.masks = nn.Conv2d(channels, num_queries, 1)
        self.classes = nn.Linear(channels, num_queries * (num_classes + 1))
        self.num_queries = num_queries
        extra = {"mask/classes": "[classes]", "mask/masks": "[masks]"}
        stages, logits = {"stride4": "features.body"}, _scores
        self.taps = {"logits": logits, "stages": stages, "embedding": "activation", "extra": extra, "multiple_px": 4}
        self.taps["logit_kind"] = "mask"

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """N×3×H×W normalised → classes N×Q×(K+1), masks N×Q×⌈H/4⌉×⌈W/4⌉."""
        x = self.activation(self.features(image))
        return {"classes": self.classes(x.mean((2, 3))).unflatten(1, (self.num_queries, -1)), "masks": self.masks(x)}


def _scores(output: Mapping[str, Tensor]) -> Tensor:
    """Logarithms of the summed class scores, N×K×h×w."""
    posterior = output["classes"].softmax(dim=2)[:, :, :-1]
    return torch.einsum("nqk,nqhw->nkhw", posterior, output["masks"].sigmoid()).clamp(min=_FLOOR).log()
