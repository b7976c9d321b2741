"""From a configuration to objects: every term can be switched off, and what is exported is the bare network."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import pytest
import torch

from mgcda_dist import build
from mgcda_dist.errors import CheckpointError, ConfigError, ShardError
from tests.support.configs import tiny_config
from tests.support.training import train


def test_each_term_can_be_switched_off_and_makes_a_difference(tmp_path: Path, tiny_shards: Path) -> None:
    switches = {
        "full": [],
        "no_seg": ["loss.enabled=false"],
        "no_mdat": ["mdat.enabled=false"],
        "no_cacl": ["cacl.enabled=false"],
    }
    terms: dict[str, dict[str, float]] = {}
    weights: dict[str, torch.Tensor] = {}
    for name, off in switches.items():
        config = tiny_config(tmp_path, tiny_shards, *off)
        model, steps = train(config, list(islice(build.training_stream(config, 0, 1), 3)))
        terms[name] = steps[-1]
        assert all(math.isfinite(value) for value in terms[name].values())
        state = model.segmenter.state_dict().values()
        weights[name] = torch.cat([value.flatten() for value in state if value.is_floating_point()])
    assert "loss/mdat" not in terms["no_mdat"] and "loss/cacl" not in terms["no_cacl"]
    for name in ("no_seg", "no_mdat", "no_cacl"):
        assert not torch.equal(weights["full"], weights[name]), name


def test_choices_of_mdat_reach_the_discriminators(tmp_path: Path, tiny_shards: Path) -> None:
    choices = ["mdat.target=hard", "mdat.condition=class", "mdat.certainty=true", "mdat.mask_width=receptive_field"]
    config = tiny_config(tmp_path, tiny_shards, *choices)
    model, steps = train(config, list(islice(build.training_stream(config, 0, 1), 2)))
    mdat, again = model.mdat, build.mgcda(config).mdat
    assert mdat is not None and again is not None and math.isfinite(steps[-1]["loss/mdat"])
    assert (mdat.target, mdat.condition, mdat.certainty) == ("hard", "class", True)
    assert mdat.reach_px is not None and all(px > 0 for px in mdat.reach_px), "a location sees more than it shows"
    assert mdat.reach_px == again.reach_px


def test_what_is_saved_is_the_bare_segmenter(tmp_path: Path, tiny_shards: Path) -> None:
    config = tiny_config(tmp_path, tiny_shards)
    model = build.mgcda(config)
    build.save_model(config, model.segmenter, tmp_path / "model")
    loaded_config, network = build.load_model(tmp_path / "model")
    assert loaded_config == config
    names = set(network.state_dict())
    assert names == set(model.segmenter.state_dict())
    assert not [name for name in names if "mdat" in name or "cacl" in name or "discriminator" in name]
    image = torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(image).logits, model.segmenter(image).logits)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not an exported model"):
        build.load_model(tmp_path)


def test_a_stage_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path, tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match="'stride64' in a backbone; it has some of stride4, stride8"):
        tiny_config(tmp_path, tiny_shards, "mdat.stages=[{name: stride64}]")


def test_parameter_groups_cover_every_parameter_once(tmp_path: Path, tiny_shards: Path) -> None:
    config = tiny_config(
        tmp_path, tiny_shards, "optim.lr_backbone=0.1", "optim.lr_heads=0.2", "optim.lr_discriminators=0.3"
    )
    model = build.mgcda(config)
    groups = build.optimizer(config, model).param_groups
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    rates = {group["name"].removesuffix("_no_decay"): group["base_lr"] for group in groups}
    assert rates == {"backbone": 0.1, "heads": 0.2, "discriminators": 0.3}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "data.streams.1.shards={shards}/objects/train",
            "holds objects, but a stream or an evaluation set reads frames",
        ),
        ("data.streams.0.paste.objects={shards}/render_b/train", "holds frames, but pasting reads objects"),
        ("evaluation.sets=[{{name: e, shards: {shards}/objects/val}}]", "holds objects, but a stream or"),
    ],
)
def test_shards_of_the_wrong_kind_are_named_before_anything_starts(
    tmp_path: Path, tiny_shards: Path, change: str, says: str
) -> None:
    config = tiny_config(tmp_path, tiny_shards, change.format(shards=tiny_shards))
    with pytest.raises(ShardError, match=says):
        build.run_inputs(config)
