"""A user's anomaly score: a function, object or class that the configuration refers to, tried on a prediction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.scores import PredictionScore, Score, check_reads
from mgcda_dist.references import resolve, told

__all__ = ["as_score", "external_score", "try_score"]

_WHERE = "model.score"
_REMEDY = "a score is a function of a Prediction that returns N×h×w; or it has `.maps` and `.of`: docs/add-a-method.md"


def external_score(reference: str) -> Score:
    """The score that a reference names; a class is called without arguments.

    Raises:
        ConfigError: nothing of that name, or something that is no score.
    """
    return as_score(resolve(_WHERE, reference), reference)


def as_score(found: Any, name: str) -> Score:
    """An object as a score: a class is called, a plain function of a prediction is wrapped.

    Args:
        name: of the object, for messages.

    Raises:
        ConfigError: it is no score.
    """
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:  # a user's code raises every kind
            problem = f"{name} cannot be made: {told(error)}"
            raise ConfigError(_WHERE, problem, "a class is called without arguments") from error
    reads = getattr(found, "reads", ())
    if isinstance(reads, str) or not isinstance(reads, Collection) or not all(isinstance(each, str) for each in reads):
        raise ConfigError(_WHERE, f"{name} has reads = {reads!r}", "a tuple of names of Prediction.extra")
    halves = [callable(getattr(found, half, None)) for half in ("maps", "of")]
    if any(halves) and not all(halves):
        raise ConfigError(_WHERE, f"{name} has one of `.maps` and `.of`", _REMEDY)
    if not callable(found):
        raise ConfigError(_WHERE, f"{name} is a {type(found).__name__}, which cannot be called", _REMEDY)
    return cast(Score, found) if all(halves) else PredictionScore(cast(Callable[[Prediction], Tensor], found), reads)


@torch.no_grad()
def try_score(score: Score, prediction: Prediction) -> None:
    """Try a score on a prediction of at least two images.

    Raises:
        ConfigError: it fails, returns another shape than N×h×w, is not finite, depends on the other images of a batch,
            or draws from torch's global generator.
    """
    check_reads("the score", _WHERE, score.reads, prediction.extra, getattr(score, "remedy", ""))
    state = torch.get_rng_state()
    (both, halves), (alone, _) = (_called(score, each) for each in (prediction, _first(prediction)))
    if not torch.equal(state, torch.get_rng_state()):
        raise ConfigError(_WHERE, "the score draws from torch's global generator", "a score is a pure function")
    if both.shape != halves.shape or not torch.allclose(both, halves, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ConfigError(_WHERE, "score(prediction) is not score.of(score.maps(prediction))", _REMEDY)
    if both.ndim != 3 or len(both) != len(prediction.logits) or not both.is_floating_point():
        shown = f"{'×'.join(map(str, both.shape))} {both.dtype}"
        raise ConfigError(_WHERE, f"the score of {len(prediction.logits)} images is {shown}", "return N×h×w, floating")
    if not bool(both.isfinite().all()):
        raise ConfigError(_WHERE, "the score is not finite", "mind logarithms and quotients at 0")
    if not torch.allclose(both[:1], alone, rtol=1e-3, atol=1e-5):
        raise ConfigError(_WHERE, "the score of an image depends on the others of its batch", "score each by itself")


def _called(score: Score, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """The score, and the same by its halves."""
    try:
        found = score(prediction)
        split = score.of(score.maps(prediction))
    except ConfigError:
        raise
    except Exception as error:  # a user's code raises every kind
        raise ConfigError(_WHERE, f"the score fails: {told(error)}", _REMEDY) from error
    for each in (found, split):
        if not isinstance(each, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(_WHERE, f"the score returned a {type(each).__name__}", _REMEDY)
    return found, split


def _first(prediction: Prediction) -> Prediction:
    def cut(of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x[:1] for name, x in of.items()}

    return Prediction(prediction.logits[:1], cut(prediction.stages), prediction.embedding[:1], cut(prediction.extra))
