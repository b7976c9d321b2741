"""Test-time options against what they mean, on networks whose answer is known."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcda_dist.data.pixels import Pixels, flipped, resized
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation import test_time as module
from mgcda_dist.evaluation.test_time import TestTimeAugmentation, score_map
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.outlier_losses import upsample
from mgcda_dist.models.scores import LogitScore, energy
from tests.support.tiny import TinySegmenter

ENERGY = LogitScore(energy)


class Pointwise(nn.Module):
    """Each cell of 4×4 pixels sees its own mean only."""

    def forward(self, image: Tensor) -> Prediction:
        bottom, right = -image.shape[2] % 4, -image.shape[3] % 4
        cells = F.avg_pool2d(F.pad(image.float(), (0, right, 0, bottom), mode="replicate"), 4) / 255
        logits = torch.cat([cells, 1 - cells[:, :1]], dim=1)
        return Prediction(logits, {}, logits)


def _image(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _tensor(image: Pixels) -> Tensor:
    return torch.as_tensor(image.copy()).permute(2, 0, 1).unsqueeze(0)


def _network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinySegmenter().eval()


def _plain(network: nn.Module, image: Pixels, size: tuple[int, int]) -> Tensor:
    """Logits of the whole frame at H×W, in two steps of PyTorch's own."""
    with torch.no_grad():
        logits = upsample(network(_tensor(image)).logits, (image.shape[0], image.shape[1]))
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90)])
@pytest.mark.parametrize("size", [None, (97, 155), (40, 40)])
def test_a_whole_frame_is_what_pytorch_interpolates(
    height: int, width: int, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, image, target = _network(), _image(height, width), size or (height, width)
    expected = _plain(network, image, target)
    for elements in (1 << 24, 7 * 3 * target[1]):  # one strip, and strips of seven rows
        monkeypatch.setitem(module._STRIP_ELEMENTS, "cpu", elements)
        scores, predicted = score_map(network, image, target, score=ENERGY)
        np.testing.assert_allclose(scores, energy(expected)[0].numpy(), atol=2e-6)
        sure = expected.topk(2, dim=1).values.diff(dim=1).abs()[0, 0] > 1e-5
        assert (predicted == expected.argmax(1)[0].numpy())[sure.numpy()].all()


def test_of_equal_logits_the_first_class_is_predicted() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0], [0.0, 3.0, 0.5]])[:, None]
    assert module._classes(logits)[0].tolist() == [0, 1, 2]


def test_scales_and_flips_average_the_logits() -> None:
    network, image, size = _network(), _image(62, 90), (62, 90)
    seen: list[Tensor] = []
    for scale in (0.5, 1.0, 1.25):
        scaled = resized(image, round(62 * scale), round(90 * scale))
        for mirrored in (False, True):
            shown = flipped(scaled) if mirrored else scaled
            with torch.no_grad():
                logits = upsample(network(_tensor(shown)).logits, (shown.shape[0], shown.shape[1]))
            logits = logits.flip(-1) if mirrored else logits
            seen.append(F.interpolate(logits, size=size, mode="bilinear", align_corners=False))
    expected = energy(torch.stack(seen).mean(0))[0].numpy()
    scores, _ = score_map(
        network, image, size, score=ENERGY, augmentation=TestTimeAugmentation(scales=(0.5, 1.0, 1.25), flip=True)
    )
    np.testing.assert_allclose(scores, expected, atol=2e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
@pytest.mark.parametrize(("height", "width"), [(128, 160), (101, 131), (40, 300)])
def test_windows_change_nothing_for_a_pointwise_network(height: int, width: int, overlap: float) -> None:
    image, size = _image(height, width), (height, width)
    whole, predicted = score_map(Pointwise(), image, size, score=ENERGY)
    windows = TestTimeAugmentation(window_px=(64, 64), window_overlap=overlap)
    scores, classes = score_map(Pointwise(), image, size, score=ENERGY, augmentation=windows)
    np.testing.assert_allclose(scores, whole, atol=1e-6)
    assert (classes == predicted).mean() > 0.999  # cells of two equal means may fall to either


def test_a_window_as_large_as_the_frame_is_the_frame() -> None:
    network, image = _network(), _image(64, 96)
    whole, _ = score_map(network, image, (64, 96), score=ENERGY)
    scores, _ = score_map(network, image, (64, 96), score=ENERGY, augmentation=TestTimeAugmentation(window_px=(64, 96)))
    np.testing.assert_array_equal(scores, whole)


def test_windows_of_a_real_network_differ_at_their_seams_only() -> None:
    # The tiny network sees 7 pixels; windows of 64 agree with the whole frame everywhere else.
    network, image = _network(), _image(64, 224)
    whole, _ = score_map(network, image, (64, 224), score=ENERGY)
    scores, _ = score_map(
        network, image, (64, 224), score=ENERGY, augmentation=TestTimeAugmentation(window_px=(64, 128))
    )
    near = np.abs(scores - whole).max(axis=0) > 1e-6
    assert 0 < near.sum() < 60
    assert not near[:80].any() and not near[144:].any()


def test_a_stride_that_windows_cannot_keep_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, image: Tensor) -> Prediction:
            logits = F.avg_pool2d(image.float(), 12, ceil_mode=True)
            return Prediction(logits, {}, logits)

    with pytest.raises(MgcdaError, match="multiples of the network's stride"):
        score_map(
            Odd(), _image(128, 128), (128, 128), score=ENERGY, augmentation=TestTimeAugmentation(window_px=(64, 64))
        )


@pytest.mark.parametrize("window", [(1, 1), (2, 2), (8, 8), (31, 31), (8, 200), (64, 16)])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90), (40, 300)])
def test_windows_smaller_than_the_alignment_are_refused(window: tuple[int, int], height: int, width: int) -> None:
    with pytest.raises(MgcdaError, match=r"window of \d+×\d+ pixels[\s\S]*multiples of 32"):
        score_map(
            Pointwise(),
            _image(height, width),
            (height, width),
            score=ENERGY,
            augmentation=TestTimeAugmentation(window_px=window),
        )


def test_a_scale_whose_view_cannot_be_held_is_refused() -> None:
    with pytest.raises(MgcdaError, match=r"`scales` 1000\.0 makes it 40000×60000 pixels"):
        score_map(
            Pointwise(), _image(40, 60), (40, 60), score=ENERGY, augmentation=TestTimeAugmentation(scales=(1000.0,))
        )


def test_a_blur_keeps_constants_and_spreads_a_point() -> None:
    class One(nn.Module):
        def forward(self, image: Tensor) -> Prediction:
            logits = (image[:, :1] > 200).float()
            return Prediction(logits, {}, logits)

    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 255
    scores, _ = score_map(One(), image, (21, 21), score=LogitScore(lambda logits: logits[:, 0]), blur=True)
    offsets = np.arange(-3, 4)
    kernel = np.exp(-0.5 * offsets**2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    np.testing.assert_allclose(scores[7:14, 7:14], kernel, atol=1e-7)
    assert scores.sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("fails", [False, True])
def test_gpus_score_in_whole_float32_and_are_left_as_they_were(fails: bool) -> None:
    seen = list[tuple[bool, ...]]()

    class Looking(nn.Module):
        def forward(self, image: Tensor) -> Prediction:
            seen.append(_switches())
            if fails:
                raise ValueError("a network that fails")
            return Pointwise()(image)

    before = _switches()
    try:
        _switch(True)
        with pytest.raises(ValueError, match="fails") if fails else nullcontext():
            score_map(Looking(), _image(8, 8), (8, 8), score=ENERGY)
        assert seen == [(False, False, False)] and _switches() == (True, True, True)
    finally:
        _switch(*before)


def _switches() -> tuple[bool, ...]:
    cudnn: Any = torch.backends.cudnn
    return bool(torch.backends.cuda.matmul.allow_tf32), cudnn.allow_tf32, cudnn.benchmark


def _switch(*values: bool) -> None:
    cudnn: Any = torch.backends.cudnn
    products, cudnn.allow_tf32, cudnn.benchmark = values if len(values) == 3 else values * 3
    torch.backends.cuda.matmul.allow_tf32 = products
