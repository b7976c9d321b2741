"""EoMT and OneFormer: equal to the library's own on what that takes, for images of any size, with their layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mgcda_dist.errors import ConfigError
from mgcda_dist.laws.alone import resume
from mgcda_dist.laws.findings import worst
from mgcda_dist.laws.invariance import accumulated
from mgcda_dist.laws.scenes import Scene
from mgcda_dist.laws.steps import Played, play
from mgcda_dist.laws.subject import Subject, model_of
from mgcda_dist.method.forwards import ForwardContext, telling
from mgcda_dist.models.adapters import AdaptedSegmenter
from mgcda_dist.models.external_queries import SEMANTIC_TASK, mask_share
from mgcda_dist.models.invariants import freeze_unused
from mgcda_dist.models.networks import named_segmenter
from mgcda_dist.plugins.masks import layers
from tests.support.external import MASK_NETWORKS, WITHOUT_MGCDA, method_configuration

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


@pytest.fixture(scope="module")
def masked() -> AdaptedSegmenter:
    """EoMT with masked attention, in training mode."""
    network, arguments = MASK_NETWORKS["eomt_masked"]
    segmenter = named_segmenter(network, num_classes=3, arguments=arguments)
    with torch.no_grad():  # masks that show something and hide something
        segmenter.network.get_parameter("mask_head.fc3.weight").mul_(30)
    return segmenter.train()


def _masks(segmenter: AdaptedSegmenter, image: torch.Tensor, progress: float | None, slot: int = 0) -> torch.Tensor:
    """Mask logits of a pass in which the images have slots from `slot` on; None: without a context."""
    network: Any = segmenter.network
    context = ForwardContext(5, progress or 0.0, torch.arange(slot, slot + len(image)), seed=7)
    with torch.no_grad(), telling([network] if progress is not None else [], context):
        return network(image)["masks_queries_logits"]


def test_eomt_attends_with_the_masks_of_the_library_at_the_start_and_without_at_the_end(
    masked: AdaptedSegmenter,
) -> None:
    own, image = _own(masked).train(), torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    found = {p: _masks(masked, image, p) for p in (0.0, 0.25, 0.6, 1.0)}
    for progress, share in ((0.0, 1.0), (1.0, 0.0)):
        own.attn_mask_probs.fill_(share)
        with torch.no_grad():
            torch.testing.assert_close(found[progress], own(image).masks_queries_logits, rtol=1e-4, atol=1e-5)
    for first, second in ((0.0, 0.6), (0.6, 1.0)):
        assert (found[first] - found[second]).abs().max() > 1e-3 * found[first].abs().max()
    assert torch.equal(found[0.0], found[0.25]), "the first of four phases has all masks"
    assert torch.equal(_masks(masked, image, None), found[1.0])
    masked.eval()
    assert torch.equal(_masks(masked, image, 0.0), found[1.0]), "inference has none"
    masked.train()


def test_the_masks_of_an_image_are_drawn_by_its_slot(masked: AdaptedSegmenter) -> None:
    image = torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64).expand(2, -1, -1, -1)
    both = _masks(masked, image, 0.4)
    assert (both[0] - both[1]).abs().max() > 1e-3 * both.abs().max(), "the same image at two slots"
    for slot in (0, 1):
        torch.testing.assert_close(_masks(masked, image[:1], 0.4, slot)[0], both[slot], rtol=1e-4, atol=1e-5)


def test_masks_are_given_up_one_block_after_another() -> None:
    shares = [[mask_share(progress / 12, block, 4) for block in range(4)] for progress in range(13)]
    assert shares[2] == [1, 1, 1, 1] and shares[4] == [0, 1, 1, 1] and shares[10] == [0, 0, 0, 0]
    assert shares[7] == [0, 0, 0.5**0.9, 1]


def test_masked_attention_trains_the_same_in_micro_batches_and_after_a_resume() -> None:
    subject = Subject("eomt", method_configuration("rba_masked", **WITHOUT_MGCDA))
    model = model_of(subject)
    whole: dict[Scene, Played] = {"all sides": play(model, "all sides", (64, 96), 3, 1)}
    assert worst(accumulated(model, subject, (64, 96), whole)).number < 1e-9
    assert resume(subject, (64, 96)).verdict == "kept"


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
        ("eomt", {"masked_attention": "yes"}, "masked_attention: is 'yes'"),
        ("eomt", {"num_queris": 9}, "did you mean num_queries"),
    ],
)
def test_what_it_cannot_do_is_refused(name: str, change: dict[str, Any], says: str) -> None:
    network, arguments = MASK_NETWORKS[name]
    with pytest.raises(ConfigError, match=says):
        named_segmenter(network, num_classes=3, arguments=arguments | change)
