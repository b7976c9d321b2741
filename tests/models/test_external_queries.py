"""EoMT and OneFormer: equal to the library's own on what that takes, for images of any size, with their layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mgcda_dist.errors import ConfigError
from mgcda_dist.models.adapters import AdaptedSegmenter
from mgcda_dist.models.external_queries import SEMANTIC_TASK
from mgcda_dist.models.invariants import freeze_unused
from mgcda_dist.models.networks import named_segmenter
from mgcda_dist.plugins.masks import layers
from tests.support.external import MASK_NETWORKS

transformers = pytest.importorskip("transformers", reason="needs the extra `networks`")

_OUTPUTS = "class_queries_logits", "masks_queries_logits"


@pytest.fixture(scope="module", params=["eomt", "oneformer"])
def named(request: pytest.FixtureRequest) -> tuple[str, AdaptedSegmenter]:
    """A tiny network; making it tries the laws on it."""
    network, arguments = MASK_NETWORKS[request.param]
    return request.param, named_segmenter(network, num_classes=3, arguments=arguments).eval()


def _own(segmenter: AdaptedSegmenter) -> Any:
    """The library's own network with the same parameters, all of them."""
    kind = type(segmenter.network).__bases__[0]
    own = kind(segmenter.network.config)
    own.load_state_dict(segmenter.network.state_dict(), strict=True)
    return own.eval()


def test_it_predicts_what_the_librarys_own_does(named: tuple[str, AdaptedSegmenter]) -> None:
    name, segmenter = named
    own, image = _own(segmenter), torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    more: list[Any] = []
    if name == "eomt":
        own.attn_mask_probs.zero_()  # the end of its annealing, and inference
    else:
        more.append(torch.tensor([[*SEMANTIC_TASK, *[0] * 70]] * 2))
    with torch.no_grad():
        found, expected = segmenter.network(image), own(image, *more)
    for key in _OUTPUTS:
        assert torch.equal(found[key], expected[key])


def test_images_of_any_size_give_classes_stages_and_every_prediction(named: tuple[str, AdaptedSegmenter]) -> None:
    name, segmenter = named
    prediction = segmenter(torch.randint(0, 256, (2, 3, 90, 133), dtype=torch.uint8))
    assert prediction.logits.shape == (2, 3, 23, 34) and prediction.embedding.shape[2:] == (23, 34)
    assert prediction.stages["stride16"].shape[2:] == (6, 9)
    predictions = dict(layers(prediction))
    assert [*predictions] == ["last", "aux/0", "aux/1"]
    for each in predictions.values():
        assert each.classes.shape == (2, 12, 4) and each.masks.shape == (2, 12, 23, 34)
    stage = {"eomt": "middle", "oneformer": "stride32"}[name]
    read = ["logits", "embedding", stage, *(f"extra:aux/{i}/{kind}" for i in range(2) for kind in ("classes", "masks"))]
    trained = [x for x in segmenter.parameters() if x.requires_grad]
    frozen = freeze_unused(segmenter, read, segmenter.example_size)
    for parameter in trained:
        parameter.requires_grad_(True)
    # Swin's last norm, which is of no stage, and the temperature of captions.
    unused = {"eomt": set(), "oneformer": {"layernorm.weight", "layernorm.bias", "criterion.logit_scale"}}[name]
    assert {".".join(key.split(".")[-2:]) for key in frozen} == unused


def test_a_stage_of_eomt_is_the_tokens_of_its_block() -> None:
    network, arguments = MASK_NETWORKS["eomt"]
    segmenter = named_segmenter(network, num_classes=3, arguments=arguments).eval()
    own, image = _own(segmenter), torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64)
    own.attn_mask_probs.zero_()
    tokens: list[torch.Tensor] = []
    for block in own.layers:
        block.register_forward_hook(lambda module, given, output: tokens.append(output))
    with torch.no_grad():
        stages = segmenter.network(image)["stages"]
        last = own(image).last_hidden_state
    for found, expected in ((stages["middle"], tokens[1][:, 2:]), (stages["last"], last[:, 12 + 2 :])):
        assert torch.equal(found.flatten(2).transpose(1, 2), expected)


@pytest.mark.parametrize("name", ["eomt", "oneformer"])
def test_a_saved_folder_is_configuration_and_weights(name: str, tmp_path: Path) -> None:
    network, arguments = MASK_NETWORKS[name]
    saved = _own(named_segmenter(network, num_classes=5, arguments=arguments))
    saved.save_pretrained(tmp_path)
    loaded = named_segmenter(network, num_classes=3, arguments={"config": str(tmp_path)}, weights=f"file:{tmp_path}")
    theirs, ours = saved.state_dict(), loaded.network.state_dict()
    other = {key for key, x in theirs.items() if not torch.equal(x, ours[key])}
    assert theirs.keys() == ours.keys() and len(other) <= 3
    assert all(ours[key].shape[0] == 4 for key in other)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("oneformer", {"is_training": True}, r"is_training: asks for the text branch[\s\S]*set loss"),
        ("eomt", {"patch_size": 14}, r"patch_size: 14 is no multiple of 4[\s\S]*patches of 16"),
        ("eomt", {"image_size": [64, 96]}, r"image_size: is \[64, 96\][\s\S]*one number"),
        ("eomt", {"num_blocks": 9}, r"num_blocks: is 9 of 4 blocks"),
        ("eomt", {"num_queris": 9}, "did you mean num_queries"),
    ],
)
def test_what_it_cannot_do_is_refused(name: str, change: dict[str, Any], says: str) -> None:
    network, arguments = MASK_NETWORKS[name]
    with pytest.raises(ConfigError, match=says):
        named_segmenter(network, num_classes=3, arguments=arguments | change)
