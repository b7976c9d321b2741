"""A score of one's own: a function, an object or a class, refused by name before training where it cannot be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor

from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.external_loss import example
from mgcda_dist.models.external_score import as_score, external_score, try_score
from mgcda_dist.models.scores import Outputs, PredictionScore, score_inputs, score_of_inputs, scorer

SEEN = example(
    4, {"stride4": 6, "embedding": 5}, {"unknown": torch.empty(1, 2, 4, 6), "queries": torch.empty(1, 7, 3)}
)[0]


def doubt(prediction: Prediction) -> Tensor:
    """A plain function of a prediction."""
    return -prediction.logits.amax(dim=1)


class Ratio(Outputs):
    """A score of logits and of one extra at another stride."""

    reads: Collection[str] = ("unknown",)

    def of(self, maps: Tensor) -> Tensor:
        """The second channel against the highest logit."""
        logits, unknown = self.split(maps, 2)
        return unknown[:, 1] - logits.amax(dim=1)


def test_a_reference_names_a_function_an_object_or_a_class() -> None:
    for name in ("doubt", "Ratio"):
        score = scorer(f"python:{__name__}:{name}")
        try_score(score, SEEN)
        assert score(SEEN).shape == SEEN.logits[:, 0].shape
    assert isinstance(external_score(f"python:{__name__}:doubt"), PredictionScore)
    assert external_score(f"python:{__name__}:Ratio").reads == ("unknown",)


def test_outputs_are_averaged_before_and_functions_after_they_are_scored() -> None:
    """Two views of one image: the ratio of their mean, and the mean of their doubts."""
    views = [SEEN, Prediction(SEEN.logits.flip(0), SEEN.stages, SEEN.embedding, SEEN.extra)]
    for name, expected in (("Ratio", None), ("doubt", torch.stack([doubt(view) for view in views]).mean(dim=0))):
        score = scorer(f"python:{__name__}:{name}")
        mean = torch.stack([score_inputs(view, score) for view in views]).mean(dim=0)
        found = score_of_inputs(mean, 4, score)
        assert torch.equal(mean[:, :4], torch.stack([view.logits for view in views]).mean(dim=0))
        if expected is None:
            expected = Ratio()(views[0]._replace(logits=mean[:, :4]))
        torch.testing.assert_close(found, expected)


def test_a_score_of_the_logits_reads_them_once() -> None:
    assert score_inputs(SEEN, scorer("energy")).data_ptr() == SEEN.logits.data_ptr()


class _Half:
    def maps(self, prediction: Prediction) -> Tensor:
        return prediction.logits

    def __call__(self, prediction: Prediction) -> Tensor:
        return prediction.logits[:, 0]


def _other(prediction: Prediction) -> Any:
    return {"score": prediction.logits}


def _batchwise(prediction: Prediction) -> Tensor:
    return doubt(prediction) - doubt(prediction).mean()


def _reading(prediction: Prediction) -> Tensor:
    return prediction.extra["unkown"][:, 0]


_reading.reads = ("unkown",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (5, "is a int, which cannot be called"),
        (Outputs, "mine cannot be made: TypeError: [\\s\\S]*called without arguments"),
        (_Half(), "has one of `.maps` and `.of`"),
        (_other, "returned a dict|'dict'"),
        (_batchwise, "depends on the others of its batch"),
        (_reading, r"reads extra\['unkown'\][\s\S]*did you mean unknown"),
        (lambda seen: seen.logits, r"the score of 2 images is 2×4×8×12"),
        (lambda seen: seen.logits[:, 0].log(), "is not finite"),
        (lambda seen: seen.logits[:, 0] + torch.rand(()), "global generator"),
        (lambda seen: seen.extra["unkown"], "KeyError: 'unkown'"),
    ],
)
def test_what_is_no_score_is_refused(score: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        try_score(as_score(score, "mine"), SEEN)
    assert error.value.where == "model.score"
