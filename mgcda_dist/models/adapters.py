"""Other people's segmentation networks as segmenters: their layers' outputs become logits, stages and embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.choices import LogitKind, NormMode
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.invariants import check_laws, freeze_unused, without_dropout
from mgcda_dist.models.norm import convert_norm
from mgcda_dist.models.preprocessing import cropped, normalised, padded
from mgcda_dist.models.taps import Layout, Taps, check_still, find_places, layout_of, run_tapped, shown

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "AdaptedSegmenter", "adapt", "wrap"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_WHERE = "model.taps"


class AdaptedSegmenter(nn.Module):
    """A network with chosen layers tapped; see `wrap`.

    Attributes:
        network: the network itself, of its own class.
        stage_channels: channels of every entry of `Prediction.stages`: the tapped stages, and `embedding`.
        backbone: path, within this module, of what starts from pretrained weights; empty: nothing does.
        logit_kind: what the logits are.
        abstains: the last logit is that of abstention; it is cut off in evaluation mode.
        example_size: height and width of an image that the network takes, pixels.
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
        abstains: bool = False,
    ) -> None:
        super().__init__()
        if multiple_px < 1:
            raise ConfigError(f"{_WHERE}.multiple_px", f"is {multiple_px}", "at least 1")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or max(values) > 1:
                raise ConfigError(
                    f"{_WHERE}.{name}", f"is {tuple(values)}", "three numbers in units of 0…1: those of 0…255 over 255"
                )
        self.network, self.multiple_px, self.abstains = network, multiple_px, abstains
        self.logit_kind: LogitKind = logit_kind
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.places = find_places(network, taps, _WHERE)
        if taps.backbone and taps.backbone not in dict(network.named_modules()):
            children = ", ".join(name for name, _ in network.named_children())
            raise ConfigError(f"{_WHERE}.backbone", f"no module {taps.backbone!r}", f"it has {children}")
        self.backbone = f"network.{taps.backbone}" if taps.backbone else ""
        self.layouts, self.stage_channels, self.num_logits, self.example_size = self._probe()

    def forward(self, image: Tensor) -> Prediction:
        """Predict.

        Args:
            image: N×3×H×W, RGB, uint8 or floating point in 0…255; any H and W.

        Returns:
            Prediction in the dtype of the parameters. Logits are N×C×⌈H/s⌉×⌈W/s⌉ with the stride s of the tapped layer,
            the embedding is resized to them; what padding added is cut off again.
        """
        height, width = image.shape[2], image.shape[3]
        dtype = next(self.network.parameters()).dtype
        pixels = padded(normalised(image, self.mean, self.std, dtype), self.multiple_px)
        tapped = run_tapped(self.network, self.places, pixels)
        maps = {name: self.layouts[name].as_map(x, pixels.shape[2]) for name, x in tapped.items()}
        logits, embedding = maps.pop("logits"), maps.pop("embedding")
        stride = self.layouts["logits"].stride
        if self.layouts["embedding"].stride != stride:
            embedding = F.interpolate(embedding, size=logits.shape[2:], mode="bilinear", align_corners=False)
        embedding = cropped(embedding, height, width, stride)
        stages = {name: self._on_image(name, x, height, width) for name, x in maps.items()}
        if self.abstains and not self.training:
            logits = logits[:, :-1]
        return Prediction(cropped(logits, height, width, stride), {**stages, "embedding": embedding}, embedding)

    def _on_image(self, name: str, x: Tensor, height: int, width: int) -> Tensor:
        stride = self.layouts[name].stride
        return cropped(x, height, width, stride) if stride else x

    @torch.no_grad()
    def _probe(self) -> tuple[dict[str, Layout], dict[str, int], int, tuple[int, int]]:
        """Layouts, channels of the stages, number of logits, and the smallest of some sizes that the network takes."""
        training, device = self.training, next(self.network.parameters()).device
        self.eval()
        part = -(-32 // self.multiple_px) * self.multiple_px
        for times in (1, 2, 4):
            size = 2 * part * times, 3 * part * times
            try:
                tapped = run_tapped(self.network, self.places, torch.zeros(1, 3, *size, device=device))
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
                f"if its sides are the reason, say what they must be multiples of: multiple_px, now "
                f"{self.multiple_px}; a network for squares, for one size, or with further arguments has to be changed "
                "itself",
            )
        for name in ("logits", *self.places):
            if name not in tapped:
                layer = self.places[name].module
                raise ConfigError(
                    f"tap {name}", f"{layer} does not run in a forward pass in evaluation mode", "tap one that does"
                )
        check_still(self.network, self.places, torch.zeros(1, 3, *size, device=device))
        layouts = {name: layout_of(x, size, name, whole=name == "logits") for name, x in tapped.items()}
        channels = {name: int(layouts[name].as_map(x, size[0]).shape[1]) for name, x in tapped.items()}
        self._check_multiple(size, layouts)
        self.train(training)
        stages = {name: channels[name] for name in tapped if name not in ("logits", "embedding")}
        names = {name.removeprefix("stage:"): number for name, number in stages.items()}
        if tapped["embedding"].shape[1] == 3 and tapped["embedding"].shape[2:] == size:
            raise ConfigError(f"{_WHERE}.embedding", f"is the image, {shown(tapped['embedding'])}", "name a layer")
        # From here on stages go by their own names.
        self.places = {name.removeprefix("stage:"): place for name, place in self.places.items()}
        layouts = {name.removeprefix("stage:"): layout for name, layout in layouts.items()}
        return layouts, {**names, "embedding": channels["embedding"]}, channels["logits"], size

    def _check_multiple(self, size: tuple[int, int], layouts: Mapping[str, Layout]) -> None:
        """Try odd multiples of `multiple_px`: photographs have them, crops often do not."""
        tried: list[str] = []
        multiples = [self.multiple_px * 2**n for n in range(6)]
        for multiple in multiples:
            height, width = ((side // multiple + 1) // 2 * 2 * multiple + multiple for side in size)
            try:
                image = torch.zeros(1, 3, height, width, device=self.mean.device)
                tapped = run_tapped(self.network, self.places, image)
                grids = {name: layouts[name].as_map(x, height).shape[2:] for name, x in tapped.items()}
            except Exception as error:  # networks raise every kind
                tried.append(f"{type(error).__name__}: {error}".splitlines()[0])
                continue
            stride = layouts["logits"].stride
            if grids["logits"] == (height // stride, width // stride):
                break
            tried.append(f"logits of {grids['logits'][0]}×{grids['logits'][1]} for an image of {height}×{width}")
        if tried:
            raise ConfigError(
                f"{_WHERE}.multiple_px",
                f"{type(self.network).__name__} does not take every multiple of {self.multiple_px} pixels: {tried[0]}",
                f"multiple_px={multiples[len(tried)]}"
                if len(tried) < len(multiples)
                else "a network for one size only has to be changed itself",
            )


def wrap(
    network: nn.Module,
    *,
    stages: Mapping[str, str],
    logits: str | Callable[[Any], Tensor],
    embedding: str | None = None,
    backbone: str = "",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    norm: NormMode = "frozen",
    multiple_px: int = 32,
    abstains: bool = False,
) -> AdaptedSegmenter:
    """`network` as a segmenter that MGCDA can train. The network itself is used, not a copy.

    Dropout is switched off, batch normalisation treated as `norm` says, and parameters that no tapped output depends
    on are frozen, as the laws of the distributed form ask. A network that breaks one of them all the same is refused.

    A path is that of a module in `named_modules`, whose output is tapped; `encoder[3]` or `backbone[out]` is an entry
    of an output that is a list or a mapping; `""` is the network itself. What is tapped may be N×c×h×w, N×h×w×c, or
    tokens N×L×c, class tokens first.

    Args:
        network: any network that takes normalised N×3×H×W images.
        stages: stage name → path.
        logits: path of the inlier logits, best before any upsampling; or a function of the network's own output.
        embedding: path of the features that are contrasted; None: what the logits' layer is given.
        backbone: path of the part that starts from pretrained weights and gets their learning rate.
        mean, std: RGB statistics of the network's weights, in units of 0…1.
        norm: treatment of batch normalisation.
        multiple_px: images are padded to multiples of it.
        abstains: the classifier has a class more, abstention (PEBAL), which is cut off in evaluation mode.

    Raises:
        ConfigError: a path that the network does not have or whose output is no map; a network that breaks a law.
    """
    taps = Taps(stages, logits, embedding, backbone)
    converted = convert_norm(network, norm)
    segmenter = adapt(converted, taps, norm, mean=mean, std=std, multiple_px=multiple_px, abstains=abstains)
    freeze_unused(segmenter, ["logits", *segmenter.stage_channels], segmenter.example_size)
    return segmenter


def adapt(network: nn.Module, taps: Taps, norm: NormMode, **options: Any) -> AdaptedSegmenter:
    """An `AdaptedSegmenter` that keeps the laws; batch normalisation has been converted. `options` are the class's."""
    segmenter = AdaptedSegmenter(without_dropout(network), taps, **options)
    check_laws(segmenter, norm, segmenter.example_size, type(network).__name__)
    return segmenter
