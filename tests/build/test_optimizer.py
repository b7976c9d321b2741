"""Groups of the optimiser: rates by part, by depth and by rule; what does not learn is in none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist import build
from mgcda_dist.build.optimizer import _depths
from mgcda_dist.errors import ConfigError
from mgcda_dist.training.schedule import group_factor, rate_factor
from tests.support.configs import tiny_config
from tests.support.external import MASK_NETWORKS


def _groups(folder: Path, shards: Path, *changes: str) -> dict[str, dict[str, Any]]:
    """The group of each parameter that learns, by its name in the segmenter or the method."""
    config = tiny_config(folder, shards, *changes)
    model = build.mgcda(config)
    of = {id(p): group for group in build.optimizer(config, model).param_groups for p in group["params"]}
    return {name.removeprefix("segmenter."): of[id(p)] for name, p in model.named_parameters() if id(p) in of}


def test_a_part_that_does_not_learn_holds_no_state(tmp_path: Path, tiny_shards: Path) -> None:
    whole = _groups(tmp_path, tiny_shards)
    frozen = _groups(tmp_path, tiny_shards, "optim.freeze=[backbone.network.conv1, 'backbone.network.layer1*']")
    gone = whole.keys() - frozen.keys()
    assert gone == {n for n in whole if n.startswith(("backbone.network.conv1.", "backbone.network.layer1"))} and gone
    zero = _groups(tmp_path, tiny_shards, "optim.lr_backbone=0", "mdat.stages=[{name: embedding}]")
    assert not [name for name in zero if name.startswith("backbone.")]
    assert [name for name in zero if name.startswith("decoder.")] == [n for n in whole if n.startswith("decoder.")]


def test_a_stage_under_which_nothing_learns_is_refused(tmp_path: Path, tiny_shards: Path) -> None:
    config = tiny_config(tmp_path, tiny_shards, "optim.lr_backbone=0")
    with pytest.raises(ConfigError, match="stage stride16: no parameter that is trained lies under it"):
        build.mgcda(config)


def test_the_last_rule_that_names_a_parameter_decides(tmp_path: Path, tiny_shards: Path) -> None:
    rules = (
        "optim.parameters=[{match: decoder, lr: 0.5, weight_decay: 0.25}, {match: '*.weight', hold: 0.5},"
        " {match: decoder.classifier, lr: 0.125, warmup: 0.5}, {match: mdat, lr: 0.75}]"
    )
    groups = _groups(tmp_path, tiny_shards, rules)
    matrix = next(n for n, g in groups.items() if n.startswith("decoder.") and g["weight_decay"])
    assert (groups[matrix]["base_lr"], groups[matrix]["weight_decay"], groups[matrix]["hold"]) == (0.5, 0.25, 0.5)
    last = groups["decoder.classifier.weight"]
    assert (last["base_lr"], last["weight_decay"], last["warmup"], last["hold"]) == (0.125, 0.25, 0.5, 0.5)
    assert {g["base_lr"] for n, g in groups.items() if n.startswith("mdat.")} == {0.75}
    assert {g["base_lr"] for n, g in groups.items() if n.startswith("backbone.")} == {1e-3}


def test_a_rule_that_names_nothing_that_learns_is_refused(tmp_path: Path, tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim.parameters.1.match: 'decodre' names no parameter that learns"):
        _groups(tmp_path, tiny_shards, "optim.parameters=[{match: decoder}, {match: decodre}]")


def test_rates_fall_with_depth(tmp_path: Path, tiny_shards: Path) -> None:
    groups = _groups(tmp_path, tiny_shards, "optim.layer_decay=0.5")
    rates = [group["base_lr"] for name, group in groups.items() if name.startswith("backbone.")]
    assert rates == sorted(rates) and rates[-1] == 0.5e-3 and len(set(rates)) == 5, "four blocks and a stem"
    assert {g["base_lr"] for n, g in groups.items() if n.startswith("decoder.")} == {1e-3}


def test_embeddings_and_last_norm_of_eomt_have_the_rate_of_its_backbone(tmp_path: Path, tiny_shards: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra `networks`")
    network, arguments = MASK_NETWORKS["eomt"]
    changes = [f"model={json.dumps({'backbone': None, 'network': network, 'arguments': arguments})}"]
    changes += ["mdat.stages=[{name: embedding}]", "loss={inlier_energy: 0.1, outlier_energy: 2.0}"]
    groups = _groups(tmp_path, tiny_shards, *changes, "optim.lr_backbone=0.25", "optim.layer_decay=0.5")
    rates = {n.removeprefix("network."): group["base_lr"] for n, group in groups.items() if n.startswith("network.")}
    assert rates["layernorm.weight"] == 0.25 and rates["layers.3.mlp.fc1.weight"] == 0.125
    assert {rate for n, rate in rates.items() if n.startswith("embeddings.")} == {0.25 * 0.5**5}
    backbone = ("embeddings.", "layers.", "layernorm.")
    assert {rate for n, rate in rates.items() if not n.startswith(backbone)} == {1e-3}
    frozen = _groups(tmp_path, tiny_shards, *changes, "optim.lr_backbone=0")
    assert not [n for n in frozen if n.removeprefix("network.").startswith(backbone)]


@pytest.mark.parametrize(
    ("names", "depths"),
    [
        (["conv1.w", "layer1.0.c.w", "layer1.1.c.w", "layer2.0.c.w", "layer2.0.downsample.0.w"], [4, 3, 2, 1, 1]),
        (["m.cls", "m.blocks.0.a.w", "m.blocks.1.a.w", "m.norm.w"], [3, 2, 1, 0]),
        (["stem_0.w", "stages_0.blocks.0.w", "stages_1.downsample.0.w", "stages_1.blocks.0.w"], [3, 2, 2, 1]),
        (["e.embed.w", "e.layers.0.blocks.0.w", "e.layers.0.blocks.1.w", "e.layers.0.downsample.w",
          "e.layers.1.blocks.0.w", "hidden.norm.w"], [5, 4, 3, 2, 1, 0]),
        (["conv.w", "pool.w"], [0, 0]),
    ],
)  # fmt: skip
def test_depth_counts_blocks_from_the_end(names: list[str], depths: list[int]) -> None:
    """ResNet, plain ViT, ConvNeXt as features, Swin of transformers; without blocks all is one layer."""
    assert list(_depths(names).values()) == depths


def test_a_group_that_holds_waits_and_then_warms_up() -> None:
    group = {"hold": 0.5, "warmup": 0.5}
    rates = [group_factor(i / 8, "poly", 0.03, group) for i in range(8)]
    assert rates[:4] == [0.0] * 4 and 0 < rates[4] < 0.01 < rates[5] < rates[6] == 1.0 > rates[7]
    assert [group_factor(i / 8, "poly", 0.1, {}) for i in range(8)] == [
        rate_factor(i / 8, "poly", 0.1) for i in range(8)
    ]


def test_what_learns_is_told_with_its_rates(tmp_path: Path, tiny_shards: Path) -> None:
    config = tiny_config(tmp_path, tiny_shards, "optim.freeze=[backbone.network.conv1]", "optim.layer_decay=0.5")
    told = build.learning_in_words(config, build.mgcda(config))
    assert told.startswith("learning: backbone 0.") and " at 3.13e-05 to 0.0005, decoder " in told
    assert "mdat " in told and "; frozen: backbone " in told
