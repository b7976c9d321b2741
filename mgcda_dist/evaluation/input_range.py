"""Values of an input in floating point, as a foreign network expects them: by name, or as mean and deviation."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.preprocessing import normalised

__all__ = ["InputRange"]

_NUMBER = r"[0-9]*\.?[0-9]+"
_GIVEN = re.compile(rf"({_NUMBER},{_NUMBER},{_NUMBER})/({_NUMBER},{_NUMBER},{_NUMBER})")
_NAMED: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "0-255": None,
    "0-1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class InputRange:
    """(x/255 - mean)/std of RGB in 0…255.

    Attributes:
        values: mean and std, each of 3; None: x itself.
    """

    values: tuple[tuple[float, ...], tuple[float, ...]] | None

    @classmethod
    def of(cls, text: str) -> InputRange:
        """Read `0-255`, `0-1`, `imagenet`, or `MEAN,MEAN,MEAN/STD,STD,STD` in units of 0…1.

        Raises:
            ConfigError: something else, or a deviation of 0.
        """
        if text in _NAMED:
            return cls(_NAMED[text])
        found = _GIVEN.fullmatch(text.replace(" ", ""))
        mean, std = ([float(each) for each in part.split(",")] for part in (found.groups() if found else ("0", "0")))
        if min(std) <= 0:
            remedy = f"one of {', '.join(_NAMED)}, or MEAN,MEAN,MEAN/STD,STD,STD in units of 0…1"
            raise ConfigError("input_range", f"{text!r} is no range of an input", remedy)
        return cls((tuple(mean), tuple(std)))

    def applied(self, image: Tensor) -> Tensor:
        """N×3×H×W, uint8 or floating in 0…255 → float32."""
        if self.values is None:
            return image.float()
        mean, std = (torch.tensor(each, device=image.device) for each in self.values)
        return normalised(image, mean, std, torch.float32)
