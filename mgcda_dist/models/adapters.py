"""Other people's segmentation networks as segmenters: their layers' outputs become logits, stages and embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_dist.batch import Prediction
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.backbone import without_dropout
from mgcda_dist.models.norm import NormMode, convert_norm

__all__ = ["AdaptedSegmenter", "wrap"]


class AdaptedSegmenter(nn.Module):
    """A network with chosen layers tapped; see `wrap`.

    Attributes:
        stage_channels: channels of every entry of `Prediction.stages`: the tapped stages, and `embedding`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        stages: dict[str, str],
        logits: str,
        embedding: str,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = network
        self.taps = {
            **{f"stage:{name}": path for name, path in stages.items()},
            "logits": logits,
            "embedding": embedding,
        }
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        known = dict(network.named_modules())
        for path in self.taps.values():
            if path not in known:
                near = (
                    ", ".join(p for p in known if p.rpartition(".")[2] == path.rpartition(".")[2])
                    or "see named_modules()"
                )
                raise ConfigError("adapter", f"{type(network).__name__} has no module {path!r}", f"candidates: {near}")
        self.stage_channels = self._probe()

    def forward(self, image: Tensor) -> Prediction:
        """N×3×H×W, uint8 or floating point in 0…255 -> Prediction; the embedding is resized to the logits."""
        compute = torch.promote_types(self.mean.dtype, torch.float32)
        mean, std = (x.to(compute).view(1, 3, 1, 1) for x in (self.mean, self.std))
        dtype = next(self.network.parameters()).dtype
        tapped = self._run(((image.to(compute) / 255 - mean) / std).to(dtype))
        logits, embedding = tapped.pop("logits"), tapped.pop("embedding")
        if embedding.shape[2:] != logits.shape[2:]:
            embedding = F.interpolate(embedding, size=logits.shape[2:], mode="bilinear", align_corners=False)
        stages = {name.removeprefix("stage:"): x for name, x in tapped.items()}
        return Prediction(logits, {**stages, "embedding": embedding}, embedding)

    def _run(self, image: Tensor) -> dict[str, Tensor]:
        # Hooks live for one call: nothing is left behind to copy, pickle or export.
        tapped: dict[str, Tensor] = {}

        def tap(name: str) -> Any:
            def store(module: nn.Module, inputs: object, output: Tensor) -> None:
                tapped[name] = output

            return store

        handles = [self.network.get_submodule(p).register_forward_hook(tap(n)) for n, p in self.taps.items()]
        try:
            self.network(image)
        finally:
            for handle in handles:
                handle.remove()
        return tapped

    def _probe(self) -> dict[str, int]:
        training = self.network.training
        with torch.no_grad():
            stages = self.eval()(torch.zeros(1, 3, 64, 64, device=next(self.network.parameters()).device)).stages
        self.train(training)
        return {name: int(x.shape[1]) for name, x in stages.items()}


def wrap(
    network: nn.Module,
    *,
    stages: dict[str, str],
    logits: str,
    embedding: str,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    norm: NormMode = "frozen",
) -> AdaptedSegmenter:
    """`network` as a segmenter that MGCDA can train. The network itself is used, not a copy.

    Dropout is switched off and batch normalisation treated as `norm` says, as the laws of the distributed form ask.

    Args:
        network: any network that takes normalised N×3×H×W images.
        stages: stage name -> path of the module (as in `named_modules`) whose output it is; N×c×h'×w' tensors.
        logits: path of the module that outputs the inlier logits, before any upsampling.
        embedding: path of the module whose output in front of the classifier is contrasted.
        mean, std: RGB statistics of the network's weights, in units of 0…1.
        norm: treatment of batch normalisation.

    Raises:
        ConfigError: a path that the network does not have.
    """
    return AdaptedSegmenter(convert_norm(without_dropout(network), norm), stages, logits, embedding, mean, std)
