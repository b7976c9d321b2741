"""External networks by name: trained with both terms, exported, and loaded back into their own classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgcda_dist import build, checks
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.inference.model import load_exported
from mgcda_dist.models.adapters import AdaptedSegmenter
from mgcda_dist.models.backbone import timm_backbone
from mgcda_dist.models.decoder import Decoder
from mgcda_dist.models.invariants import freeze_unused
from mgcda_dist.models.networks import named_segmenter
from mgcda_dist.runs.evaluation_request import EvaluationOptions, model_request
from tests.support.distributed import run_distributed
from tests.support.external import NETWORKS, UNET, UNET_TAPS, UNet, configuration, train_on_ranks
from tests.support.tiny import tiny_batch
from tests.support.training import train

pytest.importorskip("segmentation_models_pytorch", reason="needs the extra `networks`")
pytest.importorskip("transformers", reason="needs the extra `networks`")

BATCHES = [tiny_batch(step, 3, 64, 96) for step in range(2)]


def original(name: str) -> Any:
    """The network as its library makes it."""
    import segmentation_models_pytorch as smp
    import transformers
    from torchvision.models import get_model

    network, arguments = NETWORKS[name]
    library, _, architecture = network.partition(":")
    match library:
        case "torchvision":
            return get_model(architecture, weights=None, weights_backbone=None, num_classes=3, **arguments)
        case "smp":
            more: dict[str, Any] = {"dynamic_img_size": True} if architecture == "DPT" else {}
            return smp.create_model(architecture, encoder_weights=None, classes=3, **arguments, **more)
        case _:
            kind = "Segformer" if architecture == "segformer" else "Mask2Former"
            config = getattr(transformers, f"{kind}Config")(**copy.deepcopy(arguments), num_labels=3)
            suffix = "ForSemanticSegmentation" if kind == "Segformer" else "ForUniversalSegmentation"
            return getattr(transformers, kind + suffix)(config)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.extended if name in ("fcn", "deeplabv3", "dpt") else ())
        for name in NETWORKS
    ],
)
def test_trained_exported_and_loaded_back_into_its_own_class(name: str, tmp_path: Path) -> None:
    config = configuration(*NETWORKS[name])
    before = {key: x.clone() for key, x in build.segmenter(config).state_dict().items()}
    model, terms = train(config, BATCHES)
    assert all(math.isfinite(value) for step in terms for value in step.values())
    assert terms[0]["loss/mdat"] > 0 and terms[0]["loss/cacl"] > 0 and terms[0]["cacl/anchors"] > 0
    after = model.segmenter.state_dict()
    moved = [key for key, x in after.items() if not torch.equal(x, before[key])]
    assert len(moved) > len(after) / 4 and not [key for key in moved if "running_" in key or "num_batches" in key]

    build.save_model(config, model.segmenter, tmp_path / "model")
    exported = load_exported(tmp_path / "model")
    image = tiny_batch(7, 1, 90, 133).image
    with torch.no_grad():
        assert torch.equal(exported.network(image).logits, model.segmenter.eval()(image).logits)
    scores, classes = exported.predict(image[0].permute(1, 2, 0).numpy())
    assert scores.shape == classes.shape == (90, 133)

    bare: nn.Module = exported.network.network  # pyright: ignore[reportAssignmentType]
    own = original(name)
    own.load_state_dict(bare.state_dict(), strict=True)
    normalised = torch.linspace(-1, 1, 2 * 3 * 128 * 192).view(2, 3, 128, 192)
    with torch.no_grad():
        for x, y in zip(tensors(own.eval()(normalised)), tensors(bare.eval()(normalised)), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [x for value in values if value is not None for x in tensors(value)]


def test_a_tapped_network_is_one_graph_of_a_compiler() -> None:
    """With its hooks kept; traced and differentiated, and run as it is, since a compiler takes minutes."""
    network = build.segmenter(configuration(*NETWORKS["segformer"])).train()
    image = BATCHES[0].image
    expected = network(image)
    assert isinstance(network, AdaptedSegmenter)
    network.keep_taps()
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    first, found = compiled(image), compiled(image)
    for each in (first, found):
        torch.testing.assert_close(each.logits, expected.logits)
        assert each.stages.keys() == expected.stages.keys()
        for stage, x in expected.stages.items():
            torch.testing.assert_close(each.stages[stage], x)
    found.logits.square().mean().backward()
    torch._dynamo.reset()


@pytest.mark.slow
def test_two_ranks_train_as_one() -> None:
    """Law 1 with real processes: the losses of three steps, and the weights after them, in float64."""
    alone = train_on_ranks()
    for rank in run_distributed(train_on_ranks, 2, timeout_s=240):
        for name, (losses, weights) in alone.items():
            assert rank[name][0] == pytest.approx(losses, rel=1e-9), name
            torch.testing.assert_close(rank[name][1], weights, rtol=1e-9, atol=1e-9, msg=name)


def test_a_python_network_from_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = {"mdat": {"stages": [{"name": "middle"}, {"name": "embedding"}]}}
    config = configuration(
        UNET, {"width": 12}, model={"network": UNET, "arguments": {"width": 12}, "taps": UNET_TAPS}, **sections
    )
    checks.check_model(config)
    model, terms = train(config, BATCHES)
    assert terms[1]["loss/total"] != terms[0]["loss/total"]
    assert model.segmenter(tiny_batch(0, 3, 50, 70).image).logits.shape == (3, 3, 25, 35)
    frozen = [name for name, x in model.segmenter.named_parameters() if not x.requires_grad]
    assert frozen == ["network.auxiliary.weight", "network.auxiliary.bias"]
    rates = {name: group["base_lr"] for group in build.optimizer(config, model).param_groups
             for name, x in model.named_parameters() if any(x is y for y in group["params"])}  # fmt: skip
    assert rates["segmenter.network.down.0.0.weight"] == config.optim.lr_backbone
    assert rates["segmenter.network.head.weight"] == config.optim.lr_heads
    build.save_model(config, model.segmenter, tmp_path)
    UNet(3, 12).load_state_dict(load_exported(tmp_path).network.get_submodule("network").state_dict(), strict=True)

    from mgcda_dist import references

    monkeypatch.setattr(references, "_used", set())  # as in a process that did not train it
    with pytest.raises(ConfigError, match=r"may come from anybody[\s\S]*MGCDA_TRUST_CODE=tests\.support\.external"):
        load_exported(tmp_path)
    monkeypatch.setenv(references.TRUST, "tests.support.external")
    load_exported(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network": "torchvision:deeplabv3_resnet5"}, "nearest: deeplabv3_resnet50"),
        ({"network": "smp:unt"}, "nearest: unet"),
        ({"network": "transformers:segfomer"}, "nearest: segformer"),
        ({"network": "transformers:upernet"}, "python:MODULE:FUNCTION"),
        ({"network": "python:tests.support.external:without_classes"}, "argument 'num_classes'\n.*num_classes and"),
        ({"network": UNET, "arguments": {"widht": 8}}, "argument 'widht'"),
        ({"network": "python:tests.support.external:UNET_TAPS"}, "a dict, not a function"),
        ({"network": "python:no_such_module:make"}, r"cannot import 'no_such_module'[\s\S]*PYTHONPATH"),
        ({"network": "python:tests.support.external:mak"}, "nothing called 'mak'"),
        ({"network": UNET}, "model.taps: .*the layers of .* are unknown"),
        ({"network": UNET, "taps": UNET_TAPS | {"logits": "head[²]"}}, r"no output \[²\]"),
        ({"network": UNET, "taps": UNET_TAPS | {"logits": "heads"}}, r"no module 'heads'[\s\S]*candidates: head"),
        ({"network": UNET, "taps": UNET_TAPS | {"logits": "down.2"}}, "8 channels, but 3 are needed"),
        ({"network": UNET, "taps": UNET_TAPS | {"logits": "[logits]", "embedding": "up.1"}},
         r"no output \[logits\], but \[out\] 1×3×32×48"),
        ({"network": "smp:fpn", "arguments": {"classes": 3}}, "model.arguments.classes: is set by another field"),
        ({"network": "smp:fpn", "arguments": {"encoder_nam": "x"}}, "no such argument\n.*did you mean encoder_name"),
        ({"network": "smp:fpn", "arguments": {"encoder_name": "x"}}, "model.arguments: smp:fpn cannot be made"),
        ({"network": "transformers:segformer", "arguments": {"depth": [1]}}, "did you mean depths"),
        ({"network": "smp:fpn", "weights": "package:x"}, "is not of timm"),
        ({"network": "transformers:segformer", "weights": "hub"}, "model.weights=file:FOLDER"),
    ],
)  # fmt: skip
def test_invalid_networks_are_refused_with_a_remedy(change: dict[str, Any], says: str) -> None:
    section = {"arguments": {}} | change
    with pytest.raises(ConfigError, match=says):
        checks.check_model(configuration(change["network"], {}, model=section))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"network": "keras:unet"}, "should match pattern"),
        ({"network": "smp:unet", "backbone": "resnet18"}, "both are there"),
        ({}, "give either a timm backbone"),
        ({"backbone": "resnet18", "taps": {"logits": "x"}}, "taps: is for `network`"),
        ({"network": UNET, "taps": {"logit": "x"}}, "Extra inputs"),
    ],
)
def test_the_configuration_is_strict(model: dict[str, Any], says: str) -> None:
    content = configuration("smp:unet", {}).model_dump() | {"model": model}
    with pytest.raises(ValueError, match=says):
        Config.model_validate(content)


def test_frozen_norms_without_statistics_give_a_warning() -> None:
    """They normalise nothing; GroupNorm needs no statistics, and pretrained weights contain them."""
    unet: dict[str, Any] = {"network": "smp:unet", "arguments": {"encoder_name": "resnet18"}}
    (text,) = checks.check_model(configuration("smp:unet", {}, model=unet))
    assert "frozen batch norms of smp:unet have no statistics" in text and "model.norm=group" in text
    assert checks.check_model(configuration("smp:unet", {}, model=unet | {"norm": "group"})) == []


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ConfigError, match=r"in the repository: .*'\.\[networks\]'"):
        checks.check_model(configuration("smp:unet", {}))


def test_a_crop_that_is_too_small_for_the_network_is_refused() -> None:
    name, arguments = "smp:PAN", {"encoder_name": "resnet18", "decoder_channels": 16}
    config = configuration(name, arguments)
    with pytest.raises(
        ConfigError, match=r"'smp:PAN' does not take crops of 64×96: (?s:.*)128×192 and more work"
    ) as error:
        checks.check_model(config)
    assert error.value.where == "data.crop_px"
    large = config.data.model_copy(update={"crop_px": (128, 192)})
    checks.check_model(config.model_copy(update={"data": large}))


@pytest.mark.parametrize(
    ("network", "sections", "says"),
    [
        ("mask2former", {"loss": {"outlier": "abstention"}}, "classifies masks"),
        ("mask2former", {"loss": {"inlier_energy": -8.0}}, "cannot be reached"),
        ("mask2former", {"score": "rba"}, "use 'rba_mask'"),
        ("segformer", {"score": "rba_mask"}, "these logits are per pixel"),
        ("segformer", {"score": "rba"}, "leaves the level"),
    ],
)
def test_incompatible_settings_are_refused_with_the_reason(network: str, sections: dict[str, Any], says: str) -> None:
    sections = copy.deepcopy(sections)
    name, arguments = NETWORKS[network]
    model = {"network": name, "arguments": arguments} | (
        {"score": sections.pop("score")} if "score" in sections else {}
    )
    with pytest.raises(ConfigError, match=says):
        checks.check_model(configuration(name, arguments, model=model, **sections))


@pytest.mark.parametrize(
    ("network", "outlier", "score"),
    [
        ("segformer", "abstention", "energy"),
        ("segformer", "rba_hinge", "rba"),
        ("mask2former", "rba_hinge", "rba_mask"),
        ("fpn", "abstention", "msp"),
        ("fpn", "entropy", "entropy"),
    ],
)
def test_outlier_losses_decrease_in_training(network: str, outlier: str, score: str, tmp_path: Path) -> None:
    name, arguments = NETWORKS[network]
    rates = {"steps": 8, "lr_backbone": 3e-3, "lr_heads": 3e-3}
    config = configuration(name, arguments, model={"network": name, "arguments": arguments, "score": score},
                           loss={"outlier": outlier, "outlier_weight": 1.0}, optim=rates)  # fmt: skip
    batch = tiny_batch(0, 3, 64, 96)
    model, terms = train(config, [batch] * 8)
    assert terms[-1]["loss/outlier"] < terms[0]["loss/outlier"]
    build.save_model(config, model.segmenter, tmp_path)
    # Abstention's logit is for training: what is exported shows the classes.
    assert load_exported(tmp_path).network(batch.image).logits.shape[1] == 3


def test_weights_of_a_whole_network_of_other_classes_and_of_a_backbone(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v3_large, segmentation

    name = "torchvision:lraspp_mobilenet_v3_large"
    whole = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "whole.pth")
    loaded = named_segmenter(name, num_classes=3, weights=f"file:{tmp_path}/whole.pth").network
    assert torch.equal(loaded.state_dict()["classifier.cbr.0.weight"], whole.state_dict()["classifier.cbr.0.weight"])
    classifier = mobilenet_v3_large(weights=None)
    torch.save({k.removeprefix("features."): x for k, x in classifier.state_dict().items()}, tmp_path / "backbone.pth")
    loaded = named_segmenter(name, num_classes=3, weights=f"file:{tmp_path}/backbone.pth").network
    assert torch.equal(
        loaded.state_dict()["backbone.3.block.0.0.weight"], classifier.state_dict()["features.3.block.0.0.weight"]
    )
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"does not fit LRASPP: \d+ of its tensors are missing[\s\S]*as its backbone"):
        named_segmenter(name, num_classes=3, weights=f"file:{tmp_path}/other.pth")


def test_a_saved_transformers_folder_is_configuration_and_weights(tmp_path: Path) -> None:
    saved = original("segformer")
    saved.save_pretrained(tmp_path)
    segmenter = named_segmenter("transformers:segformer", num_classes=5, arguments={"config": str(tmp_path)},
                                weights=f"file:{tmp_path}")  # fmt: skip
    theirs, ours = saved.state_dict(), segmenter.network.state_dict()
    assert ours["decode_head.classifier.weight"].shape[0] == 5
    same = [key for key, x in theirs.items() if torch.equal(x, ours[key])]
    assert set(theirs) - set(same) <= {"decode_head.classifier.weight", "decode_head.classifier.bias"}


@pytest.mark.parametrize(
    ("make", "weight"),
    [
        (partial(timm_backbone, "test_efficientnet"), "network.conv_stem.weight"),
        (partial(Decoder, {"stride4": 8, "stride32": 40}, 5, 24), "classifier.weight"),
        (
            partial(named_segmenter, "smp:fpn", num_classes=3, arguments=NETWORKS["fpn"][1]),
            "network.segmentation_head.0.weight",
        ),
    ],
    ids=["backbone", "decoder", "network"],
)
def test_initialisation_is_a_function_of_the_seed_alone(make: Callable[..., nn.Module], weight: str) -> None:
    before = torch.get_rng_state()
    first = make(seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = make(seed=3).state_dict(), make(seed=4).state_dict()
    assert all(torch.equal(x, again[key]) for key, x in first.items())
    assert not torch.equal(first[weight], other[weight])


def test_heads_may_have_another_norm() -> None:
    segmenter = named_segmenter("smp:fpn", num_classes=3, arguments=NETWORKS["fpn"][1], head_norm="group")
    kinds = {
        ("encoder" in name, type(x).__name__) for name, x in segmenter.named_modules() if "Norm" in type(x).__name__
    }
    assert (True, "FrozenBatchNorm") in kinds and not {k for at_encoder, k in kinds if not at_encoder} & {
        "FrozenBatchNorm"
    }
    assert freeze_unused(segmenter, ["logits"]) == []


def test_a_score_that_the_model_has_no_logits_for_is_refused_at_evaluation(tmp_path: Path) -> None:
    config = configuration(*NETWORKS["mask2former"])
    build.save_model(config, build.segmenter(config), tmp_path / "model")
    with pytest.raises(ConfigError, match="use 'rba_mask'"):
        model_request(tmp_path, [], EvaluationOptions(score="rba"))
