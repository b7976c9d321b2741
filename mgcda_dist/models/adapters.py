"""Adapter of external segmentation networks: outputs of their layers become logits, stages and embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.choices import LogitKind, NormMode
from mgcda_dist.errors import ConfigError, in_one_line
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.invariants import check_invariants, freeze_unused, without_dropout
from mgcda_dist.models.norm import convert_norm
from mgcda_dist.models.preprocessing import cropped, normalised, padded
from mgcda_dist.models.segmenter import split_columns
from mgcda_dist.models.taps import (
    WHERE,
    KeptTaps,
    Layout,
    Taps,
    check_not_overwritten,
    described,
    layout_of,
    resolve_taps,
    run_with_taps,
)

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "AdaptedSegmenter", "adapt", "wrap"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_EXTRA = "extra:"


class AdaptedSegmenter(nn.Module):
    """A network with the outputs of chosen layers tapped; see `wrap`.

    Attributes:
        stage_channels: channels of every entry of `Prediction.stages`: the tapped stages, and `embedding`.
        backbone: path, within this module, of the part with pretrained weights; empty: none.
        backbone_parts: paths of all that learns with the backbone's rate, in the order of the image's way.
        columns: names of the last logits, which are no inlier classes: entries of `Prediction.extra`.
        example_size: height and width of an image that the network accepts, pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        taps: Taps,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        multiple_px: int = 32,
        logit_kind: LogitKind = "pixel",
        columns: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if multiple_px < 1:
            raise ConfigError(f"{WHERE}.multiple_px", f"is {multiple_px}", "at least 1")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or max(values) > 1:
                raise ConfigError(
                    f"{WHERE}.{name}", f"is {tuple(values)}", "three numbers in units of 0…1: those of 0…255 over 255"
                )
        if min(std) <= 0:
            raise ConfigError(f"{WHERE}.std", f"is {tuple(std)}", "three numbers above 0: pixels are divided by them")
        self.network, self.multiple_px, self.columns = network, multiple_px, tuple(columns)
        self.logit_kind: LogitKind = logit_kind
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.points = resolve_taps(network, taps)
        parts = taps.backbone_parts or ([taps.backbone] if taps.backbone else [])
        for field, path in [("backbone", taps.backbone), *(("backbone_parts", path) for path in parts)]:
            if path not in dict(network.named_modules()):
                children = ", ".join(name for name, _ in network.named_children())
                raise ConfigError(f"{WHERE}.{field}", f"no module {path!r}", f"it has {children}")
        self.backbone = f"network.{taps.backbone}" if taps.backbone else ""
        self.backbone_parts = tuple(f"network.{path}" for path in parts)
        self._kept: KeptTaps | None = None
        self.layouts, self.stage_channels, self.num_logits, self.example_size = self._probe()

    def keep_taps(self) -> None:
        """Leave the hooks in place, so that a compiler can trace the forward pass; no copy is made of it any more."""
        self._kept = KeptTaps(self.network, self.points)

    def forward(self, image: Tensor) -> Prediction:
        """Predict.

        Args:
            image: N×3×H×W, RGB, uint8 or floating point in 0…255; any H and W.

        Returns:
            Prediction in the dtype of the parameters. Logits are N×C×⌈H/s⌉×⌈W/s⌉ with the stride s of the tapped layer,
            the embedding is resized to them; padding is cropped.
        """
        height, width = image.shape[2], image.shape[3]
        dtype = next(self.network.parameters()).dtype
        pixels = padded(normalised(image, self.mean, self.std, dtype), self.multiple_px)
        tapped = run_with_taps(self.network, self.points, pixels) if self._kept is None else self._kept(pixels)
        maps = {
            name: self.layouts[name].as_map(x, pixels.shape[2]) if name in self.layouts else x
            for name, x in tapped.items()
        }
        logits, embedding = maps.pop("logits"), maps.pop("embedding")
        stride = self.layouts["logits"].stride
        if self.layouts["embedding"].stride != stride:
            embedding = F.interpolate(embedding, size=logits.shape[2:], mode="bilinear", align_corners=False)
        embedding = cropped(embedding, height, width, stride)
        logits, extra = split_columns(cropped(logits, height, width, stride), self.columns)
        for name in [each for each in maps if each.startswith(_EXTRA)]:
            extra[name.removeprefix(_EXTRA)] = self._cropped(name, maps.pop(name), height, width)
        stages = {name: self._cropped(name, x, height, width) for name, x in maps.items()}
        return Prediction(logits, {**stages, "embedding": embedding}, embedding, extra)

    def _cropped(self, name: str, x: Tensor, height: int, width: int) -> Tensor:
        stride = self.layouts[name].stride if name in self.layouts else 0
        return cropped(x, height, width, stride) if stride else x

    @torch.no_grad()
    def _probe(self) -> tuple[dict[str, Layout], dict[str, int], int, tuple[int, int]]:
        """Layouts, channels of the stages, number of logits, and the smallest image size tried that works."""
        training, device = self.training, next(self.network.parameters()).device
        self.eval()
        unit = -(-32 // self.multiple_px) * self.multiple_px
        for factor in (1, 2, 4):
            size = 2 * unit * factor, 3 * unit * factor
            try:
                tapped = run_with_taps(self.network, self.points, torch.zeros(1, 3, *size, device=device))
                break
            except ConfigError:
                raise
            except Exception as error:  # networks raise every kind
                failure = error
        else:
            raise ConfigError(
                "model.network",
                f"{type(self.network).__name__} does not take one float32 image of {size[0]}×{size[1]}: "
                f"{type(failure).__name__}: {failure}",
                f"if the size is the reason, set multiple_px (now {self.multiple_px}) to what its sides must be a "
                "multiple of; change a network that accepts only squares or one size, or has further inputs",
            )
        for name in ("logits", *self.points):
            if name not in tapped:
                layer = self.points[name].module
                raise ConfigError(
                    f"tap {name}", f"{layer} does not run in a forward pass in evaluation mode", "tap one that does"
                )
        check_not_overwritten(self.network, self.points, torch.zeros(1, 3, *size, device=device))
        layouts: dict[str, Layout] = {}
        for name, x in tapped.items():
            is_extra = name.startswith(_EXTRA)
            layout = _layout_of_extra(x, size) if is_extra else layout_of(x, size, name, whole=name == "logits")
            layouts |= {name: layout} if layout else {}
        channels = {name: int(layout.as_map(tapped[name], size[0]).shape[1]) for name, layout in layouts.items()}
        self._check_multiple(size, layouts)
        self.train(training)
        stages = {name: channels[name] for name in tapped if name.startswith("stage:")}
        names = {name.removeprefix("stage:"): number for name, number in stages.items()}
        if tapped["embedding"].shape[1] == 3 and tapped["embedding"].shape[2:] == size:
            raise ConfigError(f"{WHERE}.embedding", f"is the image, {described(tapped['embedding'])}", "name a layer")
        # From here on stages have their own names, without the prefix.
        self.points = {name.removeprefix("stage:"): point for name, point in self.points.items()}
        layouts = {name.removeprefix("stage:"): layout for name, layout in layouts.items()}
        return layouts, {**names, "embedding": channels["embedding"]}, channels["logits"], size

    def _check_multiple(self, size: tuple[int, int], layouts: Mapping[str, Layout]) -> None:
        """Try odd multiples of `multiple_px`, which photographs often have and training crops do not."""
        failures: list[str] = []
        multiples = [self.multiple_px * 2**n for n in range(6)]
        for multiple in multiples:
            height, width = ((side // multiple + 1) // 2 * 2 * multiple + multiple for side in size)
            try:
                image = torch.zeros(1, 3, height, width, device=self.mean.device)
                tapped = run_with_taps(self.network, self.points, image)
                grids = {name: layout.as_map(tapped[name], height).shape[2:] for name, layout in layouts.items()}
            except Exception as error:  # networks raise every kind
                failures.append(in_one_line(error))
                continue
            stride = layouts["logits"].stride
            if grids["logits"] == (height // stride, width // stride):
                break
            failures.append(f"logits of {grids['logits'][0]}×{grids['logits'][1]} for an image of {height}×{width}")
        if failures:
            raise ConfigError(
                f"{WHERE}.multiple_px",
                f"{type(self.network).__name__} does not take every multiple of {self.multiple_px} pixels: "
                f"{failures[0]}",
                f"multiple_px={multiples[len(failures)]}"
                if len(failures) < len(multiples)
                else "change the network so that it accepts more than one size",
            )


def _layout_of_extra(x: Tensor, size: tuple[int, int]) -> Layout | None:
    """The layout of an extra that is a map of the image; None: it is none, as classes of queries, and left alone."""
    if x.ndim != 4:
        return None
    try:
        return layout_of(x, size, "", whole=False)
    except ConfigError:
        return None


def wrap(
    network: nn.Module,
    *,
    stages: Mapping[str, str],
    logits: str | Callable[[Any], Tensor],
    embedding: str | None = None,
    backbone: str = "",
    extra: Mapping[str, str] | None = None,
    backbone_parts: Sequence[str] = (),
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    norm: NormMode = "frozen",
    multiple_px: int = 32,
    logit_kind: LogitKind = "pixel",
    columns: Sequence[str] = (),
) -> AdaptedSegmenter:
    """`network` as a segmenter that MGCDA can train; the network is modified in place, not copied.

    Dropout is switched off, batch normalisation is converted by `norm`, and parameters that no tapped output depends
    on are frozen, as the laws of the distributed form require. A network that still violates one is refused.

    A path is that of a module in `named_modules`, whose output is tapped; `encoder[3]` or `backbone[out]` is an entry
    of an output that is a list or a mapping; `""` is the network itself. Tapped outputs may be N×c×h×w, N×h×w×c, or
    tokens N×L×c, class tokens first.

    Args:
        network: any network that takes normalised N×3×H×W images.
        stages: stage name → path.
        logits: path of the inlier logits, best before any upsampling; or a function of the network's own output.
        embedding: path of the features for the contrastive loss; None: the input of the logits' layer.
        backbone: path of the part with pretrained weights, which gets the backbone's learning rate.
        extra: name → path of further outputs that a loss or score reads, of any shape that begins with the images.
        backbone_parts: paths of all that gets that rate, in the order of the image's way; empty: the backbone.
        mean, std: RGB statistics of the network's weights, in units of 0…1.
        norm: treatment of batch normalisation.
        multiple_px: images are padded to multiples of it.
        logit_kind: kind of the logits.
        columns: names of what the classifier has behind the inlier classes, such as `abstention` (PEBAL).

    Raises:
        ConfigError: a path that does not exist or whose output is no map; a network that violates a law.
    """
    taps = Taps(stages, logits, embedding, backbone, extra or {}, backbone_parts)
    converted = convert_norm(network, norm)
    options = {"mean": mean, "std": std, "multiple_px": multiple_px, "logit_kind": logit_kind, "columns": columns}
    segmenter = adapt(converted, taps, norm, **options)
    freeze_unused(segmenter, ["logits", *segmenter.stage_channels], segmenter.example_size)
    return segmenter


def adapt(network: nn.Module, taps: Taps, norm: NormMode, **options: Any) -> AdaptedSegmenter:
    """An `AdaptedSegmenter` that satisfies the laws. `norm`: treatment already applied; `options`: of the class."""
    segmenter = AdaptedSegmenter(without_dropout(network), taps, **options)
    check_invariants(segmenter, norm, segmenter.example_size, type(network).__name__)
    return segmenter
