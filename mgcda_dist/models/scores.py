"""Anomaly scores of pixels. All of them: higher = more anomalous, computed in fp32 at least.

A score has two halves: what it reads of a prediction, maps that are averaged over views and windows and interpolated,
and its value there. Those of the package read the logits: L is the vector of C inlier logits of a pixel,
p = softmax(L).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.choices import SCORES, ScoreKind
from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.method.batch import Prediction
from mgcda_dist.references import PREFIX

__all__ = [
    "SCORE_FUNCTIONS",
    "ClassStatistics",
    "LogitScore",
    "Outputs",
    "PredictionScore",
    "Score",
    "blurred",
    "check_reads",
    "energy",
    "entropy",
    "max_logit",
    "msp",
    "rba",
    "rba_mask",
    "score_inputs",
    "score_of_inputs",
    "scorer",
    "standardized_max_logit",
    "widened",
]


class Score(Protocol):
    """An anomaly score: built in, or a user's own.

    Attributes:
        reads: names of `Prediction.extra` that it needs.
    """

    @property
    def reads(self) -> Collection[str]:
        """Declared beforehand, so that a network without them is refused."""
        ...

    def maps(self, prediction: Prediction, /) -> Tensor:
        """N×c×h×w, what is averaged over views and windows, and interpolated, before it is scored."""
        ...

    def of(self, maps: Tensor, /) -> Tensor:
        """The value, N×c×h×w of any float dtype → N×h×w."""
        ...

    def __call__(self, prediction: Prediction, /) -> Tensor:
        """The score of one prediction, N×h×w."""
        ...


class LogitScore:
    """A score that is a function of the logits, N×C×h×w → N×h×w: logits are averaged, and their mean is scored."""

    reads: Collection[str] = ()

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def maps(self, prediction: Prediction) -> Tensor:
        """The logits."""
        return prediction.logits

    def of(self, maps: Tensor) -> Tensor:
        """See `Score`."""
        return self.function(maps)

    def __call__(self, prediction: Prediction) -> Tensor:
        """See `Score`."""
        return self.of(prediction.logits)


class Outputs(ABC):
    """A score of the logits and of extras that are maps of the image; all are averaged, and their mean is scored.

    A subclass names the extras in `reads` and writes `of`, which takes its argument apart with `split`.
    """

    reads: Collection[str] = ()

    def maps(self, prediction: Prediction) -> Tensor:
        """The logits and behind them the extras, brought to their size, float32 at least."""
        logits = widened(prediction.logits)
        extras = [widened(prediction.extra[name]) for name in self.reads]
        return torch.cat([logits, *(_resized(x, logits) for x in extras)], dim=1)

    @staticmethod
    def split(maps: Tensor, *widths: int) -> tuple[Tensor, ...]:
        """Logits and extras of so many channels."""
        return torch.split(maps, [maps.shape[1] - sum(widths), *widths], dim=1)

    @abstractmethod
    def of(self, maps: Tensor) -> Tensor:
        """See `Score`."""

    def __call__(self, prediction: Prediction) -> Tensor:
        """See `Score`."""
        return self.of(self.maps(prediction))


class PredictionScore:
    """A score that is a function of the whole prediction → N×h×w, at any stride: scores are averaged.

    For what cannot be averaged before: the queries of a mask network differ from view to view.
    """

    def __init__(self, function: Callable[[Prediction], Tensor], reads: Collection[str] = ()) -> None:
        self.function, self.reads = function, tuple(reads)

    def maps(self, prediction: Prediction) -> Tensor:
        """The score itself, as one channel."""
        return self.function(prediction).unsqueeze(1)

    def of(self, maps: Tensor) -> Tensor:
        """See `Score`."""
        return maps[:, 0]

    def __call__(self, prediction: Prediction) -> Tensor:
        """See `Score`."""
        return self.function(prediction)


@dataclass(frozen=True)
class ClassStatistics:
    """Mean and variance of the maximum logit over training pixels predicted as each of the C classes."""

    mean: tuple[float, ...]
    var: tuple[float, ...]


def msp(logits: Tensor) -> Tensor:
    """1 - max_k p_k, in [0, 1 - 1/C] (Hendrycks and Gimpel, arXiv 1610.02136)."""
    return 1 - torch.softmax(widened(logits), dim=1).amax(dim=1)


def max_logit(logits: Tensor) -> Tensor:
    """-max_k L_k (Hendrycks et al., arXiv 1911.11132)."""
    return -widened(logits).amax(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """-Σ_k p_k log p_k / log C, in [0, 1] (Meta-OoD: Chan et al., arXiv 2012.06575)."""
    log_p = torch.log_softmax(widened(logits), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1) / math.log(logits.shape[1])


def energy(logits: Tensor) -> Tensor:
    """-log Σ_k exp L_k (Liu et al., arXiv 2010.03759)."""
    return -torch.logsumexp(widened(logits), dim=1)


def rba(logits: Tensor) -> Tensor:
    """-Σ_k σ(L_k), in (-C, 0): "rejected by all" one-against-rest classifiers (Nayal et al., arXiv 2211.14293).

    σ is the logistic function: unlike the class scores of a mask network, a pixel's logits take both signs.
    """
    return -torch.sigmoid(widened(logits)).sum(dim=1)


def rba_mask(logits: Tensor) -> Tensor:
    """-Σ_k tanh(S_k), in (-C, 0]: RbA as published, from a mask network's class scores S_k = e^{L_k} ≥ 0."""
    return -torch.tanh(widened(logits).exp()).sum(dim=1)


def standardized_max_logit(logits: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """-(max_k L_k - μ_k) / σ_k with k the predicted class (Jung et al., arXiv 2107.11264).

    Args:
        logits: N×C×h×w.
        mean, var: C, statistics of the maximum logit over training pixels predicted as each class.
    """
    value, predicted = widened(logits).max(dim=1)
    mean, std = mean.to(value), var.to(value).clamp_min(1e-12).sqrt()
    return -(value - mean[predicted]) / std[predicted]


SCORE_FUNCTIONS: dict[ScoreKind, Callable[..., Tensor]] = {
    "msp": msp,
    "max_logit": max_logit,
    "entropy": entropy,
    "energy": energy,
    "rba": rba,
    "rba_mask": rba_mask,
    "standardized_max_logit": standardized_max_logit,
}
"""Functions of the logits alone; those that `choices.SCORES` calls calibrated take `mean` and `var`, too."""


def scorer(kind: str, statistics: ClassStatistics | None = None) -> Score:
    """The score named `kind`.

    Args:
        kind: a key of `choices.SCORES`, whose values are float32 (float64 for float64); or a reference to a score of
            the user's own.
        statistics: of the trained network; ignored by a score that is not calibrated.

    Raises:
        ValueError: an unknown score, or a calibrated one without statistics.
        ConfigError: a reference to nothing, or to something that is no score.
    """
    if kind.startswith(PREFIX):
        from mgcda_dist.models.external_score import external_score

        return external_score(kind)
    return LogitScore(_of_logits(kind, statistics))


def score_inputs(prediction: Prediction, score: Score) -> Tensor:
    """Logits and what the score reads beside them, as one N×(C+c)×h×w at the stride of the logits, float32 at least.

    The first C channels are the logits. A score of the logits needs none beside them: c is 0 then.

    Raises:
        ConfigError: the score reads an extra that the network does not give.
    """
    check_reads("the score", "score", score.reads, prediction.extra, getattr(score, "remedy", ""))
    logits, maps = prediction.logits, score.maps(prediction)
    if maps is logits:
        return widened(logits)
    return torch.cat([widened(logits), _resized(widened(maps), logits)], dim=1)


def check_reads(what: str, where: str, reads: Collection[str], extra: Mapping[str, object], remedy: str = "") -> None:
    """Raise `ConfigError` for a loss or a score that reads what the network does not give.

    Args:
        what: the loss or score, for messages.
        where: config path that names it.
        extra: `Prediction.extra` of the network, or its names.
        remedy: of the loss's or score's own; empty: names that are near.
    """
    for name in reads:
        if name not in extra:
            known = near_or_all(name, sorted(extra)) if extra else "it gives none: model.heads and model.taps.extra do"
            raise ConfigError(where, f"{what} reads extra[{name!r}], which the network does not give", remedy or known)


def score_of_inputs(inputs: Tensor, num_logits: int, score: Score) -> Tensor:
    """The score N×h×w of what `score_inputs` returned, averaged and interpolated as may be; C is `num_logits`."""
    return score.of(inputs if inputs.shape[1] == num_logits else inputs[:, num_logits:])


def blurred(x: Tensor) -> Tensor:
    """7×7 Gaussian blur with σ = 1 of N×h×w, borders replicated (arXiv 2111.12264 and 2211.14512 blur scores so)."""
    offsets = torch.arange(-3, 4, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * offsets**2)
    kernel = kernel / kernel.sum()
    padded = F.pad(x.unsqueeze(1), (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 7, 1)), kernel.view(1, 1, 1, 7)).squeeze(1)


def _of_logits(kind: str, statistics: ClassStatistics | None = None) -> Callable[[Tensor], Tensor]:
    if kind not in SCORE_FUNCTIONS:
        raise ValueError(f"unknown anomaly score {kind!r}: one of {', '.join(SCORES)}")
    name = cast(ScoreKind, kind)
    function = SCORE_FUNCTIONS[name]
    if not SCORES[name].calibrated:
        return function
    if statistics is None:
        raise ValueError(f"{kind} needs class statistics of the maximum logit: mgcda calibrate")
    return partial(function, mean=torch.tensor(statistics.mean), var=torch.tensor(statistics.var))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def widened(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
