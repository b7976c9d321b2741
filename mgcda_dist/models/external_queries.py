"""EoMT and OneFormer of transformers as networks of an image alone: any size, keyed draws, and the semantic task.

Both are subclasses of the library's own classes with its parameters, and differ in `forward`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_dist.method.forwards import ForwardContext

__all__ = ["SEMANTIC_TASK", "eomt", "mask_share", "oneformer"]

SEMANTIC_TASK = 49406, 518, 10549, 533, 29119, 1550, 49407
"""Tokens of CLIP's vocabulary for "the task is semantic", with start and end; zeros follow, as in the library."""


@cache
def eomt() -> Any:
    """The class `EomtForUniversalSegmentation` (Kerssies et al., CVPR 2025, arXiv 2503.19108) for images of any size.

    The library's takes squares of one size. Its attention masks are kept at random in training, with a probability
    that falls to 0, and are absent at inference. Here they are absent throughout, unless the configuration says
    `masked_attention`; then a query keeps the mask of a block with probability `mask_share`, drawn anew for every
    image, query and step. Position embeddings are interpolated bilinearly to the patches of the image; at the size of
    the configuration they are the library's.
    """
    from transformers import EomtForUniversalSegmentation

    class Eomt(EomtForUniversalSegmentation):
        """N×3×H×W, sides that are multiples of the patch → a dictionary of class and mask logits, stages, features."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            if getattr(config, "masked_attention", False):  # without: a network that draws nothing
                self.forward_context: ForwardContext | None = None

        def forward(self, pixel_values: Tensor) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Predict.

            Returns:
                `class_queries_logits` N×Q×(C+1), `masks_queries_logits` N×Q×4h×4w for h×w patches and two upscaling
                blocks, `mask_features` N×c×4h×4w; `stages`: tokens half-way through the blocks (`middle`) and at the
                end (`last`), N×c×h×w, without queries; `auxiliary_logits`: predictions before each block that sees
                queries, if the configuration says `output_auxiliary_logits`.
            """
            config: Any = self.config
            patch: int = config.patch_size
            h, w = pixel_values.shape[2] // patch, pixel_values.shape[3] // patch
            prefix, blocks = self.embeddings.num_prefix_tokens, list(self.layers)
            first = len(blocks) - config.num_blocks
            x = self._embedded(pixel_values, h, w)
            auxiliary: list[dict[str, Tensor]] = []
            middle = x
            for i, block in enumerate(blocks):
                if i == first:
                    x = torch.cat([self.query.weight.unsqueeze(0).expand(x.shape[0], -1, -1), x], dim=1)
                masks = None
                if i >= first and config.output_auxiliary_logits:
                    classes, masks, _ = self._predicted(self.layernorm(x), h, w)
                    auxiliary.append({"class_queries_logits": classes, "masks_queries_logits": masks})
                x = block(x) if i < first else block(x, self._attention_mask(x, masks, i - first, h, w))
                if i == max(len(blocks) // 2, 1) - 1:
                    middle = _as_map(x[:, prefix + (config.num_queries if i >= first else 0) :], h, w)
            x = self.layernorm(x)
            classes, masks, features = self._predicted(x, h, w)
            return {
                "class_queries_logits": classes,
                "masks_queries_logits": masks,
                "mask_features": features,
                "stages": {"middle": middle, "last": _as_map(x[:, config.num_queries + prefix :], h, w)},
                "auxiliary_logits": auxiliary,
            }

        def _embedded(self, pixel_values: Tensor, h: int, w: int) -> Tensor:
            """Class and register tokens, and patches with their position."""
            parts, config = self.embeddings, cast(Any, self.config)
            side: int = config.image_size // config.patch_size
            table = _as_map(parts.position_embeddings.weight.unsqueeze(0), side, side)
            places = F.interpolate(table, size=(h, w), mode="bilinear", align_corners=False)
            patches = parts.patch_embeddings(pixel_values) + places.flatten(2).transpose(1, 2)
            prefix = torch.cat([parts.cls_token, parts.register_tokens], dim=1).expand(patches.shape[0], -1, -1)
            return torch.cat([prefix, patches], dim=1)

        def _attention_mask(self, x: Tensor, masks: Tensor | None, number: int, h: int, w: int) -> Tensor | None:
            """Summand of the attention of block `number` with queries, N×1×L×L; None: none, as at inference.

            Args:
                x: tokens before the block, N×L×c.
                masks: logits N×Q×·×· predicted from them; None: not predicted yet.
            """
            context: ForwardContext | None = getattr(self, "forward_context", None) if self.training else None
            share = 0.0 if context is None else mask_share(context.progress, number, self.config.num_blocks)
            if context is None or share == 0:
                return None
            with torch.no_grad():
                masks = self._predicted(self.layernorm(x), h, w)[1] if masks is None else masks
                outside = F.interpolate(masks, size=(h, w), mode="bilinear").flatten(2) <= 0
                queries, start = outside.shape[1], x.shape[1] - h * w
                masked = context.uniform(f"masked attention {number}", queries) <= share
                added = x.new_zeros(x.shape[0], 1, x.shape[1], x.shape[1])
                # A query always sees the other queries and the class token: no row is without a way out.
                added[:, 0, :queries, start:].masked_fill_(outside & masked.unsqueeze(2), torch.finfo(x.dtype).min / 2)
            return added

        def _predicted(self, x: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
            """Class logits, mask logits and upscaled features of normalised tokens."""
            number = self.config.num_queries
            queries, cells = x[:, :number], x[:, number + self.embeddings.num_prefix_tokens :]
            features = self.upscale_block(_as_map(cells, h, w))
            masks = torch.einsum("nqc,nchw->nqhw", self.mask_head(queries), features)
            return self.class_predictor(queries), masks, features

    return Eomt


@cache
def oneformer() -> Any:
    """The class `OneFormerForUniversalSegmentation` (Jain et al., CVPR 2023, arXiv 2211.06220) for the semantic task.

    The task reaches the library's network as tokens of a sentence; a fixed one needs no tokenizer. The text branch of
    its training, which compares queries with captions of the label map, does not exist: `is_training` is false.
    """
    from transformers import OneFormerForUniversalSegmentation

    class OneFormer(OneFormerForUniversalSegmentation):
        """N×3×H×W → the library's output."""

        def forward(self, pixel_values: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Predict; the sentence is "the task is semantic" for every image."""
            padding = (0,) * (self.config.task_seq_len - len(SEMANTIC_TASK))
            task = torch.tensor(SEMANTIC_TASK + padding, device=pixel_values.device)
            return super().forward(pixel_values, task.expand(pixel_values.shape[0], -1))

    return OneFormer


def mask_share(progress: float, block: int, num_blocks: int) -> float:
    """Probability that a query keeps its attention mask in one of the last B blocks: (1 - t)^0.9 with the poly rate.

    Training has B + 2 phases of equal length; t goes from 0 to 1 in phase `block` + 1, so that the first phase has all
    masks and the last none (training/mask_classification_semantic.py of EoMT: 19902 steps, B = 4, phases of 3317).

    Args:
        progress: of training, 0…1.
        block: of the B, from 0.
    """
    t = progress * (num_blocks + 2) - (block + 1)
    return (1.0 - min(max(t, 0.0), 1.0)) ** 0.9


def _as_map(tokens: Tensor, h: int, w: int) -> Tensor:
    """N×(h·w)×c → N×c×h×w."""
    return tokens.transpose(1, 2).unflatten(2, (h, w))
