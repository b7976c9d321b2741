"""The segmenter: sizes, padding, dtypes, its weights as those of a backbone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mgcda_dist.models.backbone import timm_backbone
from mgcda_dist.models.decoder import Decoder
from mgcda_dist.models.preprocessing import normalised
from mgcda_dist.models.segmenter import Segmenter


def build(name: str = "test_efficientnet", seed: int = 0, **options) -> Segmenter:
    backbone = timm_backbone(name, seed=seed, **options)
    return Segmenter(backbone, Decoder(backbone.channels, 7, 32, seed=seed), backbone.mean, backbone.std)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (37, 130), (5, 7)])
def test_any_size_gives_maps_at_the_strides(name, size):
    segmenter = build(name).eval()
    height, width = size
    with torch.no_grad():
        prediction = segmenter(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8))
    assert prediction.logits.shape == (1, 7, -(-height // 4), -(-width // 4))
    assert prediction.embedding.shape == (1, 32, -(-height // 4), -(-width // 4))
    assert prediction.stages["embedding"] is prediction.embedding
    assert {stage: x.shape[1] for stage, x in prediction.stages.items()} == segmenter.stage_channels
    for stage in segmenter.stage_channels.keys() - {"embedding"}:
        stride = int(stage.removeprefix("stride"))
        assert prediction.stages[stage].shape[2:] == (-(-height // stride), -(-width // stride))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_the_channels_stay_last_in_memory_from_the_image_to_the_logits(name):
    segmenter, turned = build(name).train(), []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        if inputs[0].ndim == 4 and not inputs[0].is_contiguous(memory_format=torch.channels_last):
            turned.append(f"{type(module).__name__} reads {inputs[0].stride()} of {tuple(inputs[0].shape)}")

    for module in segmenter.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            module.register_forward_hook(look)
    image = torch.zeros(2, 3, 64, 96, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert segmenter(image).logits.is_contiguous(memory_format=torch.channels_last)
    assert not turned
    segmenter(image.contiguous())
    assert turned, "an image in another layout is seen"


def test_padding_does_not_change_pixels_away_from_it():
    # The convolutions see the padding near the border only; the network's means over the image are switched off.
    segmenter = build().eval()
    segmenter.decoder = PointwiseDecoder(segmenter.stage_channels["stride4"])
    image = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    with torch.no_grad():
        whole, cut = segmenter(image).logits, segmenter(image[:, :, :100, :90]).logits
    torch.testing.assert_close(cut[:, :, :16, :16], whole[:, :, :16, :16])


class PointwiseDecoder(nn.Module):
    """A classifier of stride 4 alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = width
        self.classifier = nn.Conv2d(width, 7, 1)

    def forward(self, stages: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.classifier(stages["stride4"]), stages["stride4"]


def test_uint8_and_float_images_agree():
    segmenter = build().eval()
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(segmenter(image).logits, segmenter(image.float()).logits)


def test_double_precision_end_to_end():
    segmenter = build().double()
    prediction = segmenter(torch.rand(1, 3, 33, 40, dtype=torch.float64) * 255)
    assert prediction.logits.dtype == prediction.embedding.dtype == torch.float64
    prediction.logits.sum().backward()


def test_half_precision_parameters_with_single_precision_buffers():
    segmenter = build()
    for parameter in segmenter.parameters():
        parameter.data = parameter.data.bfloat16()
    prediction = segmenter(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert prediction.logits.dtype == torch.bfloat16
    prediction.logits.float().sum().backward()


def test_normalisation_uses_the_weights_statistics():
    segmenter = build()
    grey = torch.full((1, 3, 32, 32), 127.5)
    found = normalised(grey, segmenter.mean, segmenter.std, torch.float32)
    expected = (0.5 - torch.tensor(segmenter.backbone.mean)) / torch.tensor(segmenter.backbone.std)
    torch.testing.assert_close(found[0, :, 0, 0], expected)


def test_a_saved_segmenter_is_valid_as_backbone_weights(tmp_path):
    save_file(build(seed=0).state_dict(), tmp_path / "model.safetensors")
    backbone = timm_backbone("test_efficientnet", f"file:{tmp_path}/model.safetensors", seed=5)
    expected = build(seed=0).backbone.state_dict()
    assert all(torch.equal(x, expected[key]) for key, x in backbone.state_dict().items())
