"""A user's outlier loss: an object or class that the configuration refers to, tried on a small example."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from mgcda_dist.choices import LogitKind
from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID, Prediction
from mgcda_dist.method.randomness import torch_generator
from mgcda_dist.method.terms import LossContext, Over, Term, weight_at
from mgcda_dist.models.scores import check_reads
from mgcda_dist.models.segmentation_loss import OutlierLoss, checked_sums, columns_of, counts_of, reads_of
from mgcda_dist.references import resolve, told

__all__ = ["check_declared", "example", "external_loss", "try_loss"]

_WHERE = "loss.outlier"
_SIZE = 8, 12
_REMEDY = "see docs/python.md: a loss has `terms`, and returns the sum of each"


def external_loss(reference: str, arguments: Mapping[str, Any]) -> OutlierLoss:
    """The loss that a reference names; a class is called with the arguments.

    Raises:
        ConfigError: nothing of that name, or something that is no loss.
    """
    found = resolve(_WHERE, reference)
    if isinstance(found, type):
        try:
            signature(found).bind(**arguments)
        except TypeError as error:
            remedy = "the class is called with loss.arguments"
            raise ConfigError("loss.arguments", f"{reference}: {error}", remedy) from None
        try:
            found = found(**arguments)
        except ConfigError:
            raise
        except Exception as error:  # arguments that a class hands on show only here
            problem = f"{reference} cannot be made: {told(error)}"
            raise ConfigError("loss.arguments", problem, "see the docstring of the class") from error
    elif arguments:
        problem = f"{reference} is a {type(found).__name__}, which takes none"
        raise ConfigError("loss.arguments", problem, "name a class, which is called with them, or leave them out")
    check_declared(found, reference)
    return cast(OutlierLoss, found)


def try_loss(
    loss: OutlierLoss,
    num_classes: int,
    stage_channels: Mapping[str, int],
    logits: LogitKind,
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Try a loss on two random images, together and apart, and on one without labels.

    Args:
        stage_channels: of the network's stages, and of `embedding`.
        logits: kind of the network's logits.
        extra: extras of the network for one image, whose shapes the example takes; the loss's columns may be missing.

    Raises:
        ConfigError: it needs other logits; returns something else than sums over images; is not finite, or has a
            gradient that is not; depends on nothing that the network gives, or draws from a global generator.
    """
    wanted = getattr(loss, "logits", None)
    if wanted is not None and logits not in ((wanted,) if isinstance(wanted, str) else tuple(wanted)):
        problem = f"the loss needs logits of kind {wanted!r}, and this network's are {logits!r}"
        raise ConfigError(_WHERE, problem, "choose another network or loss")
    wide = {name: torch.empty(1, 1, *_SIZE) for name in columns_of(loss)}
    given = {name: x for name, x in (extra or {}).items() if name in reads_of(loss)} | wide
    check_reads("the loss", _WHERE, reads_of(loss), {**(extra or {}), **wide})
    prediction, label = example(num_classes, stage_channels, given)
    state = torch.get_rng_state()
    together = _called(loss, prediction, label, slice(0, 2))
    apart = [_called(loss, prediction, label, slice(i, i + 1)) for i in range(2)]
    if not torch.equal(state, torch.get_rng_state()):
        problem = "the loss draws from torch's global generator, so it would depend on the number of ranks"
        raise ConfigError(_WHERE, problem, "draw with `context.uniform(purpose, …)`")
    _check_counts(loss, label)
    for name, term in loss.terms.items():
        both, first, second = (float(each[name].detach()) for each in (together, *apart))
        size = max(abs(first), abs(second), abs(both))
        if abs(first + second - both) > 1e-3 * size + 1e-6:
            raise ConfigError(
                _WHERE,
                f"{name!r} is {first:.4g} and {second:.4g} for two images, and {both:.4g} for both of them: that is no "
                "sum",
                f"return the sum, not a mean: it is divided by the count of {term.over} over all ranks",
            )
    unlabelled = torch.full_like(label, VOID)
    for case, of in (("images with labels", label), ("images without any labelled pixel", unlabelled)):
        _check_gradient(loss, prediction, of, case)


def check_declared(loss: object, reference: str) -> None:
    """Raise `ConfigError` for what is no loss: not callable, without terms, or with terms that are none."""
    terms = getattr(loss, "terms", None)
    if not callable(loss) or not isinstance(terms, Mapping) or not terms:
        lacks = "is not callable" if not callable(loss) else "has no `terms`, a mapping of names to Term"
        raise ConfigError(_WHERE, f"{reference} {lacks}", _REMEDY)
    if isinstance(loss, nn.Module) and [*loss.parameters(), *loss.buffers()]:
        problem = f"{reference} has tensors of its own, which would neither be trained nor saved"
        raise ConfigError(_WHERE, problem, "what learns belongs to the network; constants may be numbers")
    for name, term in terms.items():
        if not isinstance(name, str) or not isinstance(term, Term):
            raise ConfigError(_WHERE, f"terms[{name!r}] is {term!r}", "write for example Term('anomaly', weight=0.1)")
        own = getattr(loss, "counts", None)
        if term.over not in get_args(Over) and own is None:
            problem = f"terms[{name!r}] is over {term.over!r}"
            remedy = f"{near_or_all(str(term.over), get_args(Over))}; or give the loss a method `counts`"
            raise ConfigError(_WHERE, problem, remedy)
        for progress in (0.0, 0.5, 1.0):
            weight = _tried(weight_at, term.weight, progress, what=f"the weight of {name!r}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                problem = f"the weight of {name!r} at progress {progress} is {weight!r}"
                raise ConfigError(_WHERE, problem, "give a number, or a function of the progress that returns one")


def _check_counts(loss: OutlierLoss, label: Tensor) -> None:
    """Own denominators: there, whole numbers, and sums over images."""
    both, *apart = (
        _tried(counts_of, loss, label[part], what="`counts` of the loss")
        for part in (slice(0, 2), slice(0, 1), slice(1, 2))
    )
    for name, term in loss.terms.items():
        if term.over not in get_args(Over) and term.over not in both:
            problem = f"terms[{name!r}] is over {term.over!r}, which its `counts` does not return"
            raise ConfigError(_WHERE, problem, near_or_all(term.over, [*get_args(Over), *both]))
    for name, value in both.items():
        if not isinstance(value, Tensor) or value.shape != () or value.is_floating_point():
            shown = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            problem = f"`counts` of the loss returns {shown} as {name!r}"
            raise ConfigError(_WHERE, problem, "return a whole number, int64: it is summed over ranks without rounding")
        if int(value) != sum(int(each[name]) for each in apart):
            problem = f"`counts` of the loss gives other numbers of {name!r} for two images together than apart"
            raise ConfigError(_WHERE, problem, "a count is a sum over images")


def example(
    num_classes: int, stage_channels: Mapping[str, int], extra: Mapping[str, Tensor]
) -> tuple[Prediction, Tensor]:
    """A prediction of two images, with gradient, and labels of every kind; lively, so that hinges are open.

    Args:
        stage_channels: of the stages, and of `embedding`.
        extra: tensors whose shapes the extras have, but for the number of images.
    """
    random = torch_generator("example of a loss")

    def maps(channels: int, cells: int = 1) -> Tensor:
        size = 2, channels, _SIZE[0] // cells, _SIZE[1] // cells
        return (3 * torch.randn(size, generator=random)).requires_grad_()

    kinds = torch.tensor([*range(num_classes), INLIER, ANOMALY, ANOMALY, VOID])
    label = kinds[torch.randint(len(kinds), (2, *_SIZE), generator=random)]
    stages = {name: maps(channels, 2) for name, channels in stage_channels.items() if name != "embedding"}
    embedding = maps(stage_channels.get("embedding", num_classes))
    others = {
        name: (3 * torch.randn((2, *x.shape[1:]), generator=random)).requires_grad_() for name, x in extra.items()
    }
    return Prediction(maps(num_classes), {**stages, "embedding": embedding}, embedding, others), label


def _called(loss: OutlierLoss, prediction: Prediction, label: Tensor, part: slice) -> dict[str, Tensor]:
    """The sums of some of the example's images."""
    seen = Prediction(
        prediction.logits[part],
        {name: x[part] for name, x in prediction.stages.items()},
        prediction.embedding[part],
        {name: x[part] for name, x in prediction.extra.items()},
    )
    context = LossContext(0, 0.5, torch.arange(2)[part], stride_px=2)
    sums = checked_sums(_tried(loss, seen, label[part], context, what="the loss"), loss.terms)
    for name, value in sums.items():
        if not bool(value.isfinite()):
            case = "" if bool((label[part] != VOID).any()) else " for images without any labelled pixel"
            problem = f"{name!r} is {float(value.detach())}{case}"
            raise ConfigError(_WHERE, problem, "a sum over nothing is 0, a mean is not: return sums")
    return sums


def _check_gradient(loss: OutlierLoss, prediction: Prediction, label: Tensor, case: str) -> None:
    sums = _called(loss, prediction, label, slice(0, 2))
    inputs = {"logits": prediction.logits, **prediction.stages, **prediction.extra}
    reached = False
    for name, value in sums.items():
        if not value.requires_grad:
            continue
        gradients = torch.autograd.grad(value, list(inputs.values()), retain_graph=True, allow_unused=True)
        for of, gradient in zip(inputs, gradients, strict=True):
            reached = reached or gradient is not None
            if gradient is not None and not bool(gradient.isfinite().all()):
                problem = f"the gradient of {name!r} with respect to {of} is not finite, for {case}"
                raise ConfigError(_WHERE, problem, "mind logarithms, roots and quotients at 0")
    if not reached:
        raise ConfigError(_WHERE, "no term depends on the prediction: nothing would learn from it", _REMEDY)


def _tried(function: Callable[..., Any], *given: Any, what: str) -> Any:
    try:
        return function(*given)
    except ConfigError:
        raise
    except Exception as error:  # a user's code raises every kind
        at = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{what} fails on a small example: {type(error).__name__}: {error}"
        raise ConfigError(_WHERE, problem, f"raised in {at.filename}:{at.lineno}") from error
