"""Plain transformers: blocks as stages at the native patch size, weights of timm's own files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.networks import named_segmenter
from tests.support.external import configuration
from tests.support.tiny import tiny_batch
from tests.support.training import train


def _made(name: str = "test_vit", weights: str = "none", **arguments: Any) -> Any:
    return named_segmenter(f"timm:{name}", num_classes=3, norm="group", arguments=arguments, weights=weights)


def test_blocks_are_stages_at_the_native_patch_size() -> None:
    assert list(_made().stage_channels) == ["block0", "block2", "block3", "block5", "embedding"]
    network = _made("vit_tiny_patch16_224", blocks=[1, 11], channels=16)
    prediction = network(tiny_batch(0, 2, 70, 100).image)
    assert {name: tuple(x.shape[1:]) for name, x in prediction.stages.items()} == {
        "block1": (192, 5, 7),
        "block11": (192, 5, 7),
        "embedding": (16, 5, 7),
    }
    assert prediction.logits.shape == (2, 3, 5, 7)


def test_patches_of_14_stay() -> None:
    network = _made("vit_small_patch14_reg4_dinov2", blocks=[0], channels=16, img_size=56)
    assert network.multiple_px == 14 and network(tiny_batch(0, 1, 70, 98).image).logits.shape == (1, 3, 5, 7)


def test_weights_of_timms_own_file_are_loaded(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        whole = timm.create_model("test_vit")
    torch.save(whole.state_dict(), tmp_path / "vit.pth")
    state = _made(weights=f"file:{tmp_path / 'vit.pth'}").state_dict()
    for name, x in whole.state_dict().items():
        if not name.startswith(("head.", "norm.", "fc_norm.")):
            assert torch.equal(state[f"network.backbone.model.{name}"], x), name


def test_it_trains_with_the_method() -> None:
    stages = {"mdat": {"stages": [{"name": "block5"}, {"name": "embedding"}]}}
    config = configuration("timm:test_vit", {"channels": 16}, model={"arguments": {"channels": 16}}, **stages)
    _, terms = train(config, [tiny_batch(step, 3, 64, 96) for step in range(2)])
    assert terms[1]["loss/total"] != terms[0]["loss/total"] and terms[0]["loss/mdat"] > 0


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("resnet18", {}, r"is no plain vision transformer: it has no `blocks`\s*→ model.backbone=resnet18"),
        ("test_vit", {"blocks": [9]}, r"\[9\] are not ascending numbers of blocks\s*→ test_vit has blocks 0 to 5"),
        ("test_vit", {"blocks": [3, 1]}, "are not ascending numbers"),
        ("tset_vit", {}, r"no model named 'tset_vit'\s*→ nearest: test_vit"),
        ("test_vit", {"chanels": 8}, r"no such argument\s*→ did you mean channels"),
    ],
)
def test_others_are_refused(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _made(name, **arguments)
