"""The two records between data, segmenter and method: the batch and the prediction.

Shape legend, used in the whole project: N images, M domains, C inlier classes, H×W image size, h×w size of the logits
and of the embedding, D embedding channels, K projection channels, S discriminated stages, W ranks, B images per global
batch, R rows (sampled pixels).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcda_dist.choices import ANOMALY, INLIER, VOID

__all__ = [
    "ANOMALY",
    "INLIER",
    "VOID",
    "Batch",
    "Prediction",
    "first_true",
    "label_on_grid",
    "score_on_grid",
    "unlabelled",
]

_ALIGNED_BYTES = 16
"""Tensors that travel in one buffer start at multiples of it."""
_NORMALISED = 8.0
"""No image is brighter once mean and deviation are taken off; one of 0…255 that is so dark has nothing below 0."""


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch.

    Attributes:
        image: N×3×H×W, uint8, RGB.
        label: N×H×W, uint8, as loaders deliver it, or any wider whole numbers: 0…C-1 inlier, 253 inlier of unknown
            class, 254 anomaly, 255 void. Losses read `wide_label`.
        domain: N, int64: index of the domain of each image, 0…M-1.
        slot: N, int64: position of each image in the global batch (0…B-1), the same at every world size. All ranks have
            equally many images, at least one; of a micro-batch from slot b on, rank r has b + r·N … b + (r+1)·N - 1.
        step: global step the batch belongs to.
        keys: sample keys, `domain/key`, for messages only.
        bad: one sentence per damaged sample that another one replaces.
        unlabelled: N bool: images without labels of their own, which show void; what else their labels say belongs to
            what was pasted onto them. None: those whose labels say void and anomaly alone.
        weak: U×3×H×W, uint8, RGB, the U unlabelled images of this batch in their order, as they were before anything
            was pasted and their colours changed: what a teacher looks at. None: `image`.
    """

    image: Tensor
    label: Tensor
    domain: Tensor
    slot: Tensor
    step: int
    keys: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    unlabelled: Tensor | None = None
    weak: Tensor | None = None

    @property
    def wide_label(self) -> Tensor:
        """N×H×W, int64: the labels as losses take them. They travel in a byte each, and become wide on their device."""
        return self.label.long()

    @property
    def is_unlabelled(self) -> Tensor:
        """N bool: see `unlabelled`."""
        return unlabelled(self.label) if self.unlabelled is None else self.unlabelled

    @property
    def is_foreign(self) -> Tensor:
        """N×H×W bool: pixels of unlabelled images whose label is that of another image, which they were taken from."""
        return self.is_unlabelled.view(-1, 1, 1) & (self.label != VOID) & (self.label != ANOMALY)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`; to a GPU in one transfer, for which the host does not wait."""
        device = torch.device(device)
        tensors = self._tensors()
        if device.type != "cuda" or any(tensor.device.type != "cpu" for tensor in tensors.values()):
            return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})
        packed = self if len({x.untyped_storage().data_ptr() for x in tensors.values()}) == 1 else self.pin_memory()
        buffer = torch.empty(0, dtype=torch.uint8).set_(packed.image.untyped_storage())
        there = buffer.to(device, non_blocking=True)
        packed_tensors = packed._tensors().items()
        return replace(self, **{name: _view(there, like, int(like.storage_offset())) for name, like in packed_tensors})

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Tell the allocator that a stream reads this batch, whose memory another stream has asked for."""
        for tensor in self._tensors().values():
            tensor.record_stream(stream)

    def pin_memory(self) -> Batch:
        """The same batch in one piece of page-locked memory (called by torch's DataLoader, too)."""
        tensors = {name: _dense(tensor) for name, tensor in self._tensors().items()}
        sizes = [-(-tensor.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES for tensor in tensors.values()]
        buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
        pinned = dict[str, Tensor]()
        for (name, tensor), start in zip(tensors.items(), accumulate(sizes, initial=0), strict=False):
            pinned[name] = _view(buffer, tensor, start // tensor.itemsize).copy_(tensor)
        return replace(self, **pinned)

    def check(self, num_classes: int, num_domains: int | None, *, looks: bool) -> None:
        """Refuse a batch that the method cannot count, or would misread.

        Args:
            num_classes: C.
            num_domains: M; None: nothing asks for domains.
            looks: at what the tensors hold, for which the host waits where they lie on a GPU; their shapes and types
                are known without.

        Raises:
            ValueError: no image; tensors that do not fit together; pixels that are not those of 0…255, an id that
                means nothing, a domain outside of 0…M-1, a slot given twice.
        """
        if len(self.domain) == 0:
            raise ValueError("the batch has no image: every rank needs one at least, and all equally many")
        self._check_shapes()
        if looks:
            self._check_image()
            self._check_label(num_classes)
            self._check_numbers(num_domains)

    def _check_shapes(self) -> None:
        image, label = tuple(self.image.shape), tuple(self.label.shape)
        if len(image) != 4 or image[1] != 3:
            raise ValueError(f"the images of the batch are {_shown(image)}: they must be N×3×H×W, RGB, in 0…255")
        if label != (image[0], *image[2:]):
            found = f"{_shown(label)}, its images {_shown(image)}"
            raise ValueError(f"the labels of the batch are {found}: make them N×H×W")
        if self.label.is_floating_point() or self.label.dtype == torch.bool:
            raise ValueError(f"the labels of the batch are {self.label.dtype}: they must be whole numbers, as uint8")
        for name, x in (("domain", self.domain), ("slot", self.slot)):
            if x.shape != (image[0],) or x.dtype != torch.int64:
                found = f"{_shown(tuple(x.shape))} {x.dtype} for {image[0]} images"
                raise ValueError(f"`{name}` of the batch is {found}: it must be one int64 number per image")

    def _check_image(self) -> None:
        """Floating-point pixels of 0…1, or normalised ones, would be trained as black pictures."""
        if not self.image.is_floating_point():
            return
        low, high = (float(x) for x in self.image.detach().aminmax())
        is_fraction = high <= 1 and bool((self.image != self.image.round()).any())
        if is_fraction or (low < 0 and high <= _NORMALISED):
            raise ValueError(
                f"the images of the batch are {self.image.dtype} from {low:.4g} to {high:.4g}: they must be pixels of "
                "0…255, not divided by 255 and not normalised, which the segmenter does"
            )

    def _check_label(self, num_classes: int) -> None:
        wrong = ((self.label >= num_classes) & (self.label < INLIER)) | (self.label < 0) | (self.label > VOID)
        if wrong.any():
            image, row, column = (int(x) for x in wrong.nonzero()[0])
            raise ValueError(
                f"the label of image {image} of the batch holds {int(self.label[image, row, column])} at row {row}, "
                f"column {column}: it must be a class, 0 … {num_classes - 1}, or {INLIER} inlier of unknown class, "
                f"{ANOMALY} anomaly, {VOID} void"
            )

    def _check_numbers(self, num_domains: int | None) -> None:
        if num_domains is not None:
            wrong = (self.domain < 0) | (self.domain >= num_domains)
            if wrong.any():
                raise ValueError(
                    f"image {int(wrong.nonzero()[0])} of the batch is of domain {int(self.domain[wrong][0])}, but the "
                    f"model has the {num_domains} domains 0 … {num_domains - 1}: number them so, or change num_domains"
                )
        if (self.slot.sort().values.diff() == 0).any():
            raise ValueError(
                "`slot` of the batch holds a number twice, so that two images would draw the same random numbers: "
                "number the images by their places in the global batch"
            )

    def _tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


class Prediction(NamedTuple):
    """Output of a segmenter: a tuple, because engines that slice parameters hook into a module's output tensors.

    Attributes:
        logits: N×C×h×w.
        stages: named feature maps, each N×c×h'×w'; sizes differ per stage.
        embedding: N×D×h×w dense features in front of the classifier.
        extra: what losses and scores of other methods read beside them, by name: further class columns, outputs of
            heads, classes and masks of queries. The first dimension is that of the images.
    """

    logits: Tensor
    stages: dict[str, Tensor]
    embedding: Tensor
    extra: dict[str, Tensor] = {}  # noqa: RUF012  # a default of a tuple, never changed in place


def _shown(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"


def _dense(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if its memory has gaps; an image may be stored pixel by pixel."""
    is_dense = tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    return tensor if is_dense else tensor.contiguous()


def _view(buffer: Tensor, like: Tensor, offset: int) -> Tensor:
    """The elements of a uint8 buffer from `offset` on, counted in elements of `like`, as a tensor like that one."""
    return buffer.view(like.dtype).as_strided(like.shape, like.stride(), offset)


def label_on_grid(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels N×H×W at the nearest pixel of every cell of a grid: N×h×w, int64."""
    return F.interpolate(label.unsqueeze(1).to(torch.float32), size=size, mode="nearest-exact").squeeze(1).long()


def score_on_grid(score: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores N×h×w brought to the cells of another grid, bilinearly; those of the grid itself are left as they are."""
    if score.shape[1:] == size:
        return score
    return F.interpolate(score.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)


def unlabelled(label: Tensor) -> Tensor:
    """N bool: images without any label of their own, N×H×W; anomalies may have been pasted onto them."""
    return ((label == VOID) | (label == ANOMALY)).flatten(1).all(dim=1)


def first_true(mask: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Indices of the first true elements of an R mask, min(R, number) int64, and which of them are true, bool.

    Of fixed shape, unlike those of `nonzero`: where fewer are true, false ones follow.
    """
    index = torch.argsort((~mask).to(torch.uint8), stable=True)[:number]
    return index, mask[index]
