"""Score maps of a network, with test-time options: scales, flips, a sliding window, blur; in bounded memory.

A *view* is the frame at one scale, mirrored or not. Each gives coarse outputs, the logits and what the score reads
beside them (as the network returns them, for a window at a time if asked); their mean on the label's own grid is
scored. At full size they exist for a strip of rows at a time only: at 8000×4000 pixels 19 logits would take 2.4 GB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.choices import TestTimeDefaults
from mgcda_dist.data.pixels import Pixels, bounded_size, flipped, resized
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.whole_float32 import whole_float32
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.outlier_losses import covered
from mgcda_dist.models.scores import Score, blurred, score_inputs, score_of_inputs

__all__ = ["TestTimeAugmentation", "score_map", "score_maps"]

_STRIP_ELEMENTS = {"cpu": 1 << 20}
_STRIP_ELEMENTS_ELSEWHERE = 1 << 24
"""Logits that a strip may hold: on the CPU few enough to stay in its cache, elsewhere 64 MB of float32."""
_ALIGNMENT_PX = 32
"""Windows begin at multiples of it, so that a network of any usual stride sees the grid it would see without them."""
_WINDOW_REMEDY = f"give a window whose sides are multiples of {_ALIGNMENT_PX}"


@dataclass(frozen=True)
class TestTimeAugmentation:
    """The ways in which a frame is shown to the network.

    Attributes:
        scales: factors on the network's input size; each scale is a view.
        flip: also show every scale mirrored left to right.
        window_px: height and width of the sliding window, pixels of the view; None: the whole view at once.
        window_overlap: share of a window that its neighbour covers too, at least; where windows overlap, each counts
            the more the farther the pixel lies from its border.
    """

    scales: tuple[float, ...] = TestTimeDefaults.scales
    flip: bool = TestTimeDefaults.flip
    window_px: tuple[int, int] | None = None
    window_overlap: float = TestTimeDefaults.window_overlap

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the view at each scale, of an image of a network's input size.

        Raises:
            SampleError: more pixels than an input may have.
        """
        return [
            bounded_size(max(1, round(scale * height)), max(1, round(scale * width)), "scales", scale)
            for scale in self.scales
        ]

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> TestTimeAugmentation:
        """From the keys of `results.json`, which are those of the section `evaluation`; what is missing: default."""
        default, window, overlap = cls(), content.get("window_px"), content.get("window_overlap")
        return cls(
            tuple(float(scale) for scale in content.get("scales", default.scales)),
            bool(content.get("flip", default.flip)),
            (int(window[0]), int(window[1])) if window else None,
            default.window_overlap if overlap is None else float(overlap),
        )


@dataclass(frozen=True)
class _Seen:
    """The network's output for one view: coarse (C+c)×h×w of an image of height×width pixels, C of them logits."""

    outputs: Tensor
    num_logits: int
    height: int
    width: int
    mirrored: bool


def score_map(
    network: nn.Module,
    image: Pixels,
    size: tuple[int, int],
    *,
    score: Score,
    augmentation: TestTimeAugmentation = TestTimeAugmentation(),
    blur: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Anomaly scores (H×W float32, of float64 outputs float64) and predicted classes (H×W uint8) of one frame.

    Args:
        network: image → `Prediction`, in evaluation mode, on `device`.
        image: h×w×3, RGB, at the network's input size.
        size: H, W of the result: the label's own size.
        score: higher is more anomalous.
        blur: 7×7, σ = 1 blur of the score map.
    """
    return score_maps(network, [image], size, score=score, augmentation=augmentation, blur=blur, device=device)[0]


@torch.no_grad()
def score_maps(
    network: nn.Module,
    images: Sequence[Pixels],
    size: tuple[int, int],
    *,
    score: Score,
    augmentation: TestTimeAugmentation = TestTimeAugmentation(),
    blur: bool = False,
    device: torch.device | str = "cpu",
) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Anomaly scores and predicted classes of frames of one size, which the network sees together.

    Args:
        network, size, score, augmentation, blur, device: as of `score_map`.
        images: N of h×w×3.
    """
    with whole_float32():
        looks = [
            _look(network, images, score, size_in, mirrored, augmentation, device)
            for size_in in augmentation.sizes(images[0].shape[0], images[0].shape[1])
            for mirrored in ((False, True) if augmentation.flip else (False,))
        ]
        return [_scored([look[n] for look in looks], size, score, blur) for n in range(len(images))]


def _scored(
    seen: Sequence[_Seen], size: tuple[int, int], score: Score, blur: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Scores and classes of one frame from what the network returned for each of its augmentation."""
    scores = torch.empty(size, dtype=seen[0].outputs.dtype, device=seen[0].outputs.device)
    predicted = torch.empty(size, dtype=torch.uint8, device=scores.device)
    elements = _STRIP_ELEMENTS.get(scores.device.type, _STRIP_ELEMENTS_ELSEWHERE)
    rows = max(1, elements // (seen[0].outputs.shape[0] * size[1]))
    for top, bottom in pairwise([*range(0, size[0], rows), size[0]]):
        # Outputs are brought to the label's own size first: the score of their mean is what a deployed network gives.
        outputs = _strip(seen[0], size, top, bottom)
        for view in seen[1:]:
            outputs += _strip(view, size, top, bottom)
        outputs = (outputs / len(seen) if len(seen) > 1 else outputs).unsqueeze(0)
        scores[top:bottom] = score_of_inputs(outputs, seen[0].num_logits, score)[0]
        predicted[top:bottom] = _classes(outputs[0, : seen[0].num_logits])
    scores = blurred(scores[None])[0] if blur else scores
    return scores.cpu().numpy(), predicted.cpu().numpy()


def _look(
    network: nn.Module,
    images: Sequence[Pixels],
    score: Score,
    size_in: tuple[int, int],
    mirrored: bool,
    augmentation: TestTimeAugmentation,
    device: torch.device | str,
) -> list[_Seen]:
    height, width = size_in
    shown = [resized(image, height, width) for image in images]
    pixels = torch.stack([torch.as_tensor(flipped(each) if mirrored else each).permute(2, 0, 1) for each in shown])
    if augmentation.window_px is None or (height <= augmentation.window_px[0] and width <= augmentation.window_px[1]):
        outputs, num_logits = _outputs(network, pixels.to(device), score)
    else:
        outputs, num_logits = _slide(
            network, pixels, score, augmentation.window_px, augmentation.window_overlap, device
        )
    return [_Seen(each, num_logits, height, width, mirrored) for each in outputs]


def _outputs(network: nn.Module, pixels: Tensor, score: Score) -> tuple[Tensor, int]:
    """Logits and what the score reads beside them, N×(C+c)×h×w float32, or float64 if they are, and C."""
    prediction: Prediction = network(pixels)
    return score_inputs(prediction, score), prediction.logits.shape[1]


def _slide(
    network: nn.Module,
    pixels: Tensor,
    score: Score,
    window_px: tuple[int, int],
    overlap: float,
    device: torch.device | str,
) -> tuple[Tensor, int]:
    """Coarse outputs N×(C+c)×⌈H/s⌉×⌈W/s⌉ of pixels N×3×H×W, seen through windows, and C; s is the network's stride."""
    full = pixels.shape[2], pixels.shape[3]
    if min(window_px) < _ALIGNMENT_PX:  # the last windows would begin beyond the image
        problem = f"a window of {window_px[1]}×{window_px[0]} pixels has a side shorter than {_ALIGNMENT_PX}"
        raise MgcdaError("sliding window", problem, _WINDOW_REMEDY)
    # Never larger than the image, up to the alignment: the rest would be padding.
    window = [min(w, _up(n, _ALIGNMENT_PX)) for w, n in zip(window_px, full, strict=True)]
    tops, lefts = (_origins(n, w, overlap) for n, w in zip(full, window, strict=True))
    total = weight = None
    stride, num_logits = (1, 1), 0
    for top in tops:
        for left in lefts:
            part = pixels[:, :, top : top + window[0], left : left + window[1]].to(device).float()
            padding = (0, window[1] - part.shape[3], 0, window[0] - part.shape[2])
            shown = F.pad(part, padding, mode="replicate") if any(padding) else part
            seen, num_logits = _outputs(network, shown, score)
            if total is None or weight is None:
                stride = _stride(seen, window)
                grid = [(_up(n, s)) // s for n, s in zip(full, stride, strict=True)]
                total = seen.new_zeros(*seen.shape[:2], grid[0], grid[1])
                weight = seen.new_zeros(grid[0], grid[1])
            row, column = top // stride[0], left // stride[1]
            height, width = min(seen.shape[2], total.shape[2] - row), min(seen.shape[3], total.shape[3] - column)
            taper = _taper(seen.shape[2], seen.device)[:height, None] * _taper(seen.shape[3], seen.device)[:width]
            total[:, :, row : row + height, column : column + width] += seen[:, :, :height, :width] * taper
            weight[row : row + height, column : column + width] += taper
    assert total is not None and weight is not None
    return total / weight, num_logits


def _origins(full: int, window: int, overlap: float) -> list[int]:
    """First pixels of the windows along one axis: evenly spread multiples of the alignment that cover `full` pixels."""
    last = _up(max(full - window, 0), _ALIGNMENT_PX)
    step = max(_ALIGNMENT_PX, int(window * (1 - overlap)))
    count = math.ceil(last / step) + 1
    return sorted({last * i // max(count - 1, 1) // _ALIGNMENT_PX * _ALIGNMENT_PX for i in range(count)})


def _stride(logits: Tensor, window: list[int]) -> tuple[int, int]:
    strides = [pixels // cells for pixels, cells in zip(window, logits.shape[2:], strict=True)]
    for pixels, cells, stride in zip(window, logits.shape[2:], strides, strict=True):
        if cells * stride != pixels or _ALIGNMENT_PX % stride:
            raise MgcdaError(
                "sliding window",
                f"a window of {window[1]}×{window[0]} pixels gives logits of {logits.shape[3]}×{logits.shape[2]}: its "
                f"sides must be multiples of the network's stride, and the stride a divisor of {_ALIGNMENT_PX}",
                _WINDOW_REMEDY,
            )
    return strides[0], strides[1]


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _taper(length: int, device: torch.device) -> Tensor:
    """1 at both ends, rising by 1 per cell towards the middle."""
    cells = torch.arange(length, device=device, dtype=torch.float32)
    return torch.minimum(cells, length - 1 - cells) + 1


def _strip(view: _Seen, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Rows top … bottom - 1 of a view's outputs at H×W pixels: (C+c)×rows×W, a new tensor.

    As two bilinear steps: to the view's own size, then to H×W. Bilinear interpolation is separable, so rows come first,
    while they are narrow.
    """
    outputs = view.outputs
    grid_height, grid_width = covered(outputs.shape[1], view.height), covered(outputs.shape[2], view.width)
    if size[0] == view.height:
        part = _lerp_rows(outputs, _positions(outputs.shape[1], grid_height, top, bottom, outputs.device))
    else:
        rows = _positions(view.height, size[0], top, bottom, outputs.device)
        # In numbers of the host: those on a GPU would have to be waited for.
        first, last = (int(_position(view.height, size[0], row)) for row in (top, bottom - 1))
        last = min(last + 1, view.height - 1)
        part = _lerp_rows(outputs, _positions(outputs.shape[1], grid_height, first, last + 1, outputs.device))
        part = _lerp_rows(part, rows - first)
    part = _to_width(part, grid_width)[:, :, : view.width]
    part = part.flip(-1) if view.mirrored else part
    part = _to_width(part, size[1])
    # The caller adds to it.
    return part.clone() if part.data_ptr() == outputs.data_ptr() else part


def _classes(logits: Tensor) -> Tensor:
    """Argmax over C of C×h×w, as uint8; PyTorch's own takes eight times as long on a CPU."""
    is_highest = logits == logits.amax(dim=0)
    # The first of equal ones: weights fall with the class.
    weights = torch.arange(logits.shape[0], 0, -1, dtype=torch.uint8, device=logits.device)
    return logits.shape[0] - (is_highest * weights[:, None, None]).amax(dim=0)


def _position(source: int, target: int, row: int) -> float:
    """One of `_positions`, to the bit."""
    return min(max((row + 0.5) * (source / target) - 0.5, 0.0), source - 1)


def _positions(source: int, target: int, first: int, end: int, device: torch.device) -> Tensor:
    """Positions of the centres of target rows among source rows, as `align_corners=False` has it; float64."""
    centres = (torch.arange(first, end, device=device, dtype=torch.float64) + 0.5) * (source / target) - 0.5
    return centres.clamp(0, source - 1)


def _lerp_rows(x: Tensor, positions: Tensor) -> Tensor:
    """C×h×w at fractional rows: C×len(positions)×w."""
    low = positions.floor()
    index = low.long()
    share = (positions - low).to(x.dtype)[:, None]
    return torch.lerp(x[:, index], x[:, (index + 1).clamp(max=x.shape[1] - 1)], share)


def _to_width(x: Tensor, width: int) -> Tensor:
    if x.shape[2] == width:
        return x
    return F.interpolate(x.unsqueeze(0), size=(x.shape[1], width), mode="bilinear", align_corners=False)[0]
