"""MGCDA around a module, for a training loop of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from mgcda_dist.choices import INLIER, OUTLIER_LOSSES, LogitKind, NormMode, OutlierKind, ScoreKind
from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.cacl import CACL, Budget, Selection
from mgcda_dist.method.mdat import MDAT
from mgcda_dist.method.mgcda import MGCDA

if TYPE_CHECKING:
    from mgcda_dist.models.scores import Score
    from mgcda_dist.models.segmentation_loss import OutlierLoss

__all__ = ["wrap"]


def wrap(
    network: nn.Module,
    *,
    num_classes: int,
    num_domains: int,
    stages: Mapping[str, str] | None = None,
    logits: str | None = None,
    embedding: str | None = None,
    backbone: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    multiple_px: int | None = None,
    norm: NormMode = "frozen",
    loss: OutlierKind | OutlierLoss = "energy_hinge",
    limits: Mapping[str, float] | None = None,
    score: ScoreKind | Callable[[Prediction], Tensor] | Score | type[Score] = "energy",
    mdat: bool | Mapping[str, Any] = True,
    cacl: bool | Mapping[str, Any] = True,
    seed: int = 0,
) -> MGCDA:
    """MGCDA around a segmentation network, without Ray, DeepSpeed or a configuration; under plain DDP, too.

        model = mg.wrap(network, num_classes=19, num_domains=3, stages={"middle": "layer3"}, logits="classifier")
        outcome = model(batch, progress)  # an mg.Batch; progress in 0…1
        outcome.loss.backward()
        ...  # the optimizer's step
        model.commit([outcome], model.total([outcome]))

    Args:
        network: takes normalised N×3×H×W images, and its layers are named by its attribute `taps`, as for `train`, or
            by the next arguments, which have precedence; or, with neither, takes raw images, 0…255, and returns
            `Prediction`. It is changed in place.
        num_classes, num_domains: of the batches: C and M.
        stages: name → path of the layers that are aligned, as in `named_modules()`.
        logits: path of the classifier, before any upsampling.
        embedding: path of the features that are contrasted; None: the classifier's input.
        backbone, multiple_px, norm: None: no part, 32; as of `mgcda_dist.models.adapters.wrap`.
        mean, std: RGB statistics of the network's weights, in units of 0…1; None: ImageNet's.
        loss, limits: the outlier loss, and its limits by name; or a loss of one's own.
        score: anomaly score that tells difficulty; by name, or of one's own.
        mdat, cacl: False: without; or options of `MDAT`, and of `CACL`, its `Budget` and its `Selection`.
        seed: of the random numbers of sampling and losses.

    Returns:
        The training module; `segmenter` is the bare network again.

    Raises:
        ConfigError: a path or option that does not exist, a value that cannot be, a network that violates a law of the
            distributed form or has other classes.
    """
    from mgcda_dist.models.compatibility import check_loss, check_score
    from mgcda_dist.models.external_score import as_score
    from mgcda_dist.models.scores import scorer
    from mgcda_dist.models.segmentation_loss import columns_of, reads_of, segmentation_loss

    _refuse_numbers(network, num_classes, num_domains, loss, limits)
    given = {"stages": stages, "logits": logits, "embedding": embedding, "backbone": backbone}
    given |= {"mean": mean, "std": std, "multiple_px": multiple_px}
    layers = _layers(network, {name: value for name, value in given.items() if value is not None})
    if layers:
        from mgcda_dist.models.adapters import wrap as tapped

        network, stages = tapped(network, norm=norm, columns=columns_of(loss), **layers), layers["stages"]
    channels, aligned = _channels(network, stages)
    _refuse_other_classes(network, num_classes, columns_of(loss))
    kind = cast(LogitKind, getattr(network, "logit_kind", "pixel"))
    if isinstance(loss, str):
        check_loss(loss, kind, limits)
        if isinstance(score, str):
            check_score(score, kind, loss)
    else:
        from mgcda_dist.models.external_loss import check_declared, try_loss

        check_declared(loss, getattr(loss, "__name__", type(loss).__name__))
        try_loss(loss, num_classes, channels, kind, _seen(network).extra if reads_of(loss) else None)
    scored = scorer(score) if isinstance(score, str) else as_score(score, "score")
    if not isinstance(score, str):
        from mgcda_dist.models.external_loss import example
        from mgcda_dist.models.external_score import try_score

        try_score(scored, example(num_classes, channels, _seen(network).extra)[0])
    method = MGCDA(
        network,
        segmentation_loss(loss, num_classes, limits=limits, logits=kind),
        scored,
        mdat=_mdat(aligned, num_classes, num_domains, mdat),
        cacl=_cacl(channels["embedding"], num_classes, num_domains, cacl, seed),
        seed=seed,
    )
    method.looks_at_first = True
    return method


def _refuse_numbers(
    network: object,
    num_classes: object,
    num_domains: object,
    loss: OutlierKind | OutlierLoss,
    limits: Mapping[str, float] | None,
) -> None:
    """Refuse what is no network, no number, no loss, and limits that no loss reads."""
    if not isinstance(network, nn.Module):
        problem = f"is {network.__name__}, a class" if isinstance(network, type) else f"is a {type(network).__name__}"
        raise ConfigError("network", problem, "give a torch.nn.Module, as Net(num_classes)")
    for name, number, most in (("num_classes", num_classes, INLIER), ("num_domains", num_domains, None)):
        if not isinstance(number, int) or number < 1 or (most is not None and number > most):
            span = "1 or more" if most is None else f"1 to {most}: ids from {most} on have a meaning of their own"
            raise ConfigError(name, f"is {number!r}", f"give a whole number, {span}")
    if isinstance(loss, str) and loss not in OUTLIER_LOSSES:
        raise ConfigError("loss", f"no such outlier loss {loss!r}", near_or_all(loss, OUTLIER_LOSSES))
    known = OUTLIER_LOSSES[loss].limits if isinstance(loss, str) else {}
    for name in limits or {}:
        if name not in known:
            remedy = near_or_all(name, known) if known else "leave `limits` out: this loss has none"
            raise ConfigError(f"limits[{name!r}]", "the loss has no such limit", remedy)


def _refuse_other_classes(network: nn.Module, num_classes: int, columns: Sequence[str]) -> None:
    """Refuse logits of another number of classes, where they are known without a forward pass or by one."""
    found = getattr(network, "num_logits", None)
    if found is None:
        prediction = _seen(network)
        found = prediction.logits.shape[1] + sum(name in prediction.extra for name in columns)
    if found != num_classes + len(columns):
        beside = "".join(f", and one for {name}" for name in columns)
        problem = f"is {num_classes}, but the network has {found} logits"
        raise ConfigError("num_classes", problem, f"make them one number{beside}")


def _layers(network: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the adapter: what is given, and else what the network's attribute `taps` says; empty: neither."""
    from mgcda_dist.models.external_python import own_taps

    own = own_taps(network, getattr(network, "taps", None))
    known: dict[str, Any] = (
        {} if own.taps is None else {each.name: getattr(own.taps, each.name) for each in fields(own.taps)}
    )
    if not known and "logits" not in given:
        return {}
    beside = {"mean": own.mean, "std": own.std, "multiple_px": own.multiple_px, "logit_kind": own.logit_kind}
    return {"stages": {}, **known, **beside, **given}


def _seen(network: nn.Module) -> Any:
    """The output of the network for one image, in evaluation mode."""
    training = network.training
    with torch.no_grad():
        found = network.eval()(torch.zeros(1, 3, *getattr(network, "example_size", (64, 96))))
    network.train(training)
    return found


def _channels(network: nn.Module, stages: Mapping[str, str] | None) -> tuple[dict[str, int], dict[str, int]]:
    """Channels of all stages with the embedding, and of those that are aligned."""
    found = getattr(network, "stage_channels", None)
    if found is None:
        prediction = _seen(network)
        if not isinstance(prediction, Prediction):
            problem = f"{type(network).__name__} returns a {type(prediction).__name__}"
            remedy = "name its layers: stages={NAME: PATH}, logits=PATH; or return `Prediction`"
            raise ConfigError("network", problem, remedy)
        aligned = {name: x.shape[1] for name, x in prediction.stages.items()}
        return {**aligned, "embedding": prediction.embedding.shape[1]}, aligned
    wanted = found if stages is None else {*stages, "embedding"}
    return dict(found), {name: number for name, number in found.items() if name in wanted}


def _mdat(
    aligned: Mapping[str, int], num_classes: int, num_domains: int, options: bool | Mapping[str, Any]
) -> MDAT | None:
    if options is False:
        return None
    given = {} if options is True else dict(options)
    _refuse_unknown("mdat", given, _options(MDAT))
    _refuse_impossible("mdat", given)
    return MDAT(dict(aligned), num_domains, num_classes=num_classes, **given)


def _cacl(
    channels: int, num_classes: int, num_domains: int, options: bool | Mapping[str, Any], seed: int
) -> CACL | None:
    if options is False:
        return None
    given = {} if options is True else dict(options)
    budget, selection = _options(Budget), _options(Selection)
    _refuse_unknown("cacl", given, budget | selection | _options(CACL))
    _refuse_impossible("cacl", given)
    parts = [{name: given.pop(name) for name in [*given] if name in known} for known in (budget, selection)]
    return CACL(
        channels, num_domains, Budget(num_classes, **parts[0]), Selection(**parts[1]), **{"seed": seed, **given}
    )


def _options(of: type) -> set[str]:
    taken = {"num_domains", "num_classes", "stage_channels", "embedding_dim", "budget", "selection"}
    return set(inspect.signature(of).parameters) - taken


def _refuse_impossible(argument: Literal["mdat", "cacl"], given: Mapping[str, Any]) -> None:
    """Refuse values that the section of the configuration with the same keys refuses."""
    from pydantic import ValidationError

    from mgcda_dist.config.keys import refused_option
    from mgcda_dist.config.method import CaclConfig, MdatConfig

    section = MdatConfig if argument == "mdat" else CaclConfig
    # A smoothing is an object here.
    own = {name: value for name, value in given.items() if name in section.model_fields and name != "smoothing"}
    try:
        section.model_validate(own)
    except ValidationError as error:
        raise refused_option(error, argument) from None


def _refuse_unknown(argument: str, given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{argument}[{name!r}]", "there is no such option", near_or_all(name, sorted(known)))
