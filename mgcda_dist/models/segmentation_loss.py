"""L_seg: cross-entropy over inlier pixels plus one outlier loss, as sums and counts that add up over ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.choices import ANOMALY, OUTLIER_LOSSES, VOID, LogitKind, LossDefaults, OutlierKind
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.terms import LossContext, Term, Weight
from mgcda_dist.models.outlier_losses import PixelLoss, label_at, outlier_loss, upsample
from mgcda_dist.models.scores import widened

__all__ = [
    "CLASSIFICATION",
    "OutlierLoss",
    "PixelTerms",
    "SegmentationLoss",
    "checked_sums",
    "columns_of",
    "counts_of",
    "reads_of",
    "segmentation_loss",
]

CLASSIFICATION = "classification"
"""Name of the cross-entropy over inliers, and of a term that takes its place."""
_STRIDE_PX = 2


class OutlierLoss(Protocol):
    """A loss that pulls the scores of inliers and anomalies apart: built in, or a user's own.

    It may have more attributes than `terms`, each of which is a declaration:

        reads: names of `Prediction.extra` that it needs, beside its columns; a network without them is refused.
        columns: names of logits that the classifier gets behind those of the inlier classes. They are entries of
            `Prediction.extra`, N×1×h×w, and no part of predicted classes, mIoU and CACL.
        logits: kinds of logits that it can be trained on; see `choices.LogitKind`.
        counts: a method, label N×h×w → its own denominators by name, whole numbers as int64 scalars, sums over images.

    Attributes:
        terms: what it returns, by name. One that is called `classification` takes the place of the cross-entropy.
    """

    @property
    def terms(self) -> Mapping[str, Term]:
        """Declared beforehand: the same names on every rank and at every step."""
        ...

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext, /) -> Mapping[str, Tensor]:
        """Sums per term over this rank's part: scalars, never means.

        Args:
            prediction: its logits and the loss's columns are N×C×h×w and N×1×h×w, float32 at least, of the label's
                size; stages, embedding and all other extras as the network returned them.
            label: N×h×w, int64: 0…C-1, 253 inlier of unknown class, 254 anomaly, 255 void.
            context: step, progress, and random numbers.
        """
        ...


class PixelTerms:
    """An outlier loss of the package, a function of logits and label, as terms.

    Args:
        loss: sums over inliers and anomalies.
        weight: of both sides.
        classifies: the inlier side takes the place of the cross-entropy.
        columns: further logits that it reads behind those of the classes.
    """

    def __init__(
        self, loss: PixelLoss, weight: float, *, classifies: bool = False, columns: Sequence[str] = ()
    ) -> None:
        self.loss, self.classifies, self.columns = loss, classifies, tuple(columns)
        inlier = {CLASSIFICATION: Term("inlier")} if classifies else {"outlier_inlier": Term("inlier", weight)}
        self.terms = inlier | {"outlier_anomaly": Term("anomaly", weight)}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """See `OutlierLoss`."""
        del context
        columns = [prediction.extra[name] for name in self.columns]
        logits = torch.cat([prediction.logits, *columns], dim=1) if columns else prediction.logits
        return dict(zip(self.terms, self.loss(logits, label), strict=True))

    def inlier_sum(self, logits: Tensor, inlier: Tensor) -> Tensor:
        """Sum over inliers of unknown class; 0 for a loss that has no side for them."""
        if self.classifies:
            return logits.new_zeros(())
        return self.loss(logits, torch.where(inlier, 0, VOID)).inlier_sum


class SegmentationLoss:
    """L_seg = Σ_name weights[name] · (sum of that name over ranks) / (count of that name over ranks).

    Names: `classification` is the cross-entropy over inliers, the others are terms of the outlier loss. One that
    classifies inliers itself takes the place of the cross-entropy: its inlier side is `classification`.

    Args:
        outlier: None for cross-entropy alone.
        num_classes: C.
        stride_px: the loss is taken at every `stride_px`-th pixel: 1 is every pixel, 4 the size of the logits.
        class_weights: factor of every class's pixels in the cross-entropy; None: 1. The mean is still one over pixels,
            so that counts stay whole numbers, which add up over ranks without rounding.

    Attributes:
        weights: by name, `classification` first.
        reported: names whose own value is logged.
    """

    def __init__(
        self,
        outlier: OutlierLoss | None,
        num_classes: int,
        stride_px: int = 1,
        *,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.outlier, self.num_classes, self.stride_px = outlier, num_classes, stride_px
        terms = {} if outlier is None else dict(outlier.terms)
        self.classifies = CLASSIFICATION in terms
        self.terms: Mapping[str, Term] = {CLASSIFICATION: Term("inlier")} | terms
        self.weights: Mapping[str, Weight] = {name: term.weight for name, term in self.terms.items()}
        is_own = outlier is not None and not isinstance(outlier, PixelTerms)
        self.reported: Collection[str] = [name for name in self.terms if name != CLASSIFICATION] if is_own else []
        self.class_weights = class_weights
        self._weight: Tensor | None = None

    def counts(self, label: Tensor) -> dict[str, Tensor]:
        """Number of what each term is taken over, int64, for labels N×H×W of this rank."""
        label = self._label_at_loss(label)
        inlier, anomaly = (label < self.num_classes).sum(), (label == ANOMALY).sum()
        images = torch.full_like(inlier, label.shape[0])
        numbers = {"inlier": inlier, "anomaly": anomaly, "both": inlier + anomaly, "images": images}
        numbers |= {"not_void": (label != VOID).sum()} | counts_of(self.outlier, label)
        return {name: numbers[term.over] for name, term in self.terms.items()}

    def __call__(self, prediction: Prediction, label: Tensor, context: LossContext) -> dict[str, Tensor]:
        """Sums per name for a prediction and labels N×H×W of this rank.

        Raises:
            ConfigError: the outlier loss returns something else than it declares.
        """
        label = self._label_at_loss(label)
        size = label.shape[1], label.shape[2]
        logits = _at(prediction.logits, size)
        sums: dict[str, Tensor] = {}
        if not self.classifies:
            # With nothing but ignored pixels the sum is 0 and the gradient a zero of the logits' shape.
            target = torch.where(label < self.num_classes, label, -100)
            weight = self._weight_like(logits)
            # Not reduction="sum": on GPUs its blocks add up in any order, and there is one for each image.
            loss = F.cross_entropy(logits, target, weight, reduction="none", ignore_index=-100)
            sums[CLASSIFICATION] = loss.sum()
        if self.outlier is not None:
            columns = {name: _at(prediction.extra[name], size) for name in columns_of(self.outlier)}
            seen = prediction._replace(logits=logits, extra={**prediction.extra, **columns})
            found = self.outlier(seen, label, replace(context, stride_px=self.stride_px))
            sums |= checked_sums(found, self.outlier.terms)
        return {name: sums[name] for name in self.terms}

    def inlier_sum(self, logits: Tensor, inlier: Tensor) -> Tensor:
        """Sum of the outlier loss over pixels that are inliers of unknown class.

        Args:
            logits: N×C×h×w, at any stride.
            inlier: N×h×w, bool.

        Returns:
            Scalar, float32 at least; a constant 0 for a loss without `OutlierEntry.any_inlier`.
        """
        logits = widened(logits)
        return self.outlier.inlier_sum(logits, inlier) if isinstance(self.outlier, PixelTerms) else logits.new_zeros(())

    def _weight_like(self, logits: Tensor) -> Tensor | None:
        """The class weights as a tensor, copied to the logits' device once."""
        if self.class_weights is None:
            return None
        if self._weight is None or (self._weight.device, self._weight.dtype) != (logits.device, logits.dtype):
            self._weight = logits.new_tensor(self.class_weights)
        return self._weight

    def _label_at_loss(self, label: Tensor) -> Tensor:
        height, width = (-(-size // self.stride_px) for size in label.shape[1:])
        return label if self.stride_px == 1 else label_at(label, (height, width))


def _at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return upsample(widened(logits), size)


def columns_of(loss: object) -> tuple[str, ...]:
    """Names of the logits that a loss, or the built-in one of that name, wants behind those of the inlier classes."""
    if isinstance(loss, str):
        return OUTLIER_LOSSES[cast(OutlierKind, loss)].columns if loss in OUTLIER_LOSSES else ()
    return tuple(getattr(loss, "columns", ()))


def reads_of(loss: object) -> tuple[str, ...]:
    """Names of `Prediction.extra` that a loss reads, its columns among them."""
    return tuple(dict.fromkeys([*columns_of(loss), *getattr(loss, "reads", ())]))


def counts_of(loss: object, label: Tensor) -> dict[str, Tensor]:
    """Denominators of a loss's own, by name, for labels N×h×w of this rank."""
    counts = getattr(loss, "counts", None)
    return {} if counts is None else dict(counts(label))


def checked_sums(found: object, terms: Mapping[str, Term]) -> dict[str, Tensor]:
    """The sums that an outlier loss returned, in the order of its terms.

    Raises:
        ConfigError: other names, or a value that is no scalar of floating point.
    """
    where, remedy = "loss.outlier", f"return a dict of scalars with the names of `terms`: {', '.join(terms)}"
    if not isinstance(found, Mapping):
        raise ConfigError(where, f"the loss returned a {type(found).__name__}", remedy)
    if missing := [name for name in terms if name not in found]:
        raise ConfigError(where, f"the loss returned no {missing[0]!r}", remedy)
    if unknown := [name for name in found if name not in terms]:
        raise ConfigError(where, f"the loss returned {unknown[0]!r}, which its `terms` do not declare", remedy)
    for name in terms:
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
            shown = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ConfigError(where, f"the loss returned {shown} as {name!r}", "return a tensor of one number: a sum")
    return {name: found[name] for name in terms}


def segmentation_loss(
    outlier: OutlierKind | OutlierLoss,
    num_classes: int,
    *,
    outlier_weight: float = LossDefaults.outlier_weight,
    limits: Mapping[str, float] | None = None,
    logits: LogitKind = "pixel",
    stride_px: int = _STRIDE_PX,
    class_weights: Sequence[float] | None = None,
) -> SegmentationLoss:
    """The loss named by its outlier term.

    Args:
        outlier: a key of `choices.OUTLIER_LOSSES`; or a loss of one's own, which carries its weights itself.
        num_classes: as of `SegmentationLoss`.
        outlier_weight: weight of both sides of a named outlier loss.
        limits: of the outlier loss, by name; None: its defaults.
        logits: kind of the network's logits.
        stride_px: of the loss; at 2 it costs a quarter of what every pixel costs (11 against 40 ms for 8×256² on one
            CPU core, next to 0.5 s for the network), and the logits, of stride 4, are still finely supervised.
        class_weights: of the cross-entropy, C; ignored by a loss that takes its place.

    Raises:
        ValueError: an unknown loss.
    """
    if isinstance(outlier, str):
        function = outlier_loss(outlier, limits, logits)
        classifies = OUTLIER_LOSSES[outlier].classifies
        loss = (
            None
            if function is None
            else PixelTerms(function, outlier_weight, classifies=classifies, columns=OUTLIER_LOSSES[outlier].columns)
        )
    else:
        loss, classifies = outlier, CLASSIFICATION in outlier.terms
    return SegmentationLoss(loss, num_classes, stride_px, class_weights=None if classifies else class_weights)
