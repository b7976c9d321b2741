"""Heads: outputs among the extras, kept ones part of the network, and what cannot be a head refused."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mgcda_dist import build
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.exported import bare_segmenter, load_segmenter
from mgcda_dist.models.heads import HeadSpec, make_heads
from tests.support.configs import tiny_config
from tests.support.training import train

CHANNELS = {"stride4": 6, "embedding": 5}
IMAGE = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
USER_HEAD, NO_HEAD = "python:tests.models.test_heads:Scaled", "python:tests.models.test_heads:_spec"


class Scaled(nn.Module):
    """A head of a user's own."""

    def __init__(self, channels: int, factor: float = 1.0) -> None:
        super().__init__()
        self.layer, self.factor = nn.Conv2d(channels, 2, 3, padding=1), factor

    def forward(self, x: Tensor) -> Tensor:
        """Two channels."""
        return self.factor * self.layer(x)


def _spec(**changes: object) -> dict[str, HeadSpec]:
    spec: dict[str, object] = {"use": "pixelwise", "stage": "embedding", "arguments": {"outputs": 2, "widths": [7]}}
    return {"unknown": spec | changes}  # type: ignore[dict-item]


def test_a_kept_head_is_loaded_strictly_with_the_network(tmp_path: Path, tiny_shards: Path) -> None:
    head = "model.heads=[{name: unknown, stage: stride8, arguments: {outputs: 2, widths: [7], norm: group}}]"
    config = tiny_config(tmp_path, tiny_shards, head, "loss.outlier=plugin:uem", "model.score=plugin:uem_score")
    assert config.loss.outlier == "python:mgcda_dist.plugins.uem:UemLoss"
    model, steps = train(config, list(islice(build.training_stream(config, 0, 1), 2)))
    assert math.isfinite(steps[-1]["outlier/ratio"])
    build.save_model(config, model.segmenter, tmp_path / "model")
    metadata, loaded = load_segmenter(tmp_path / "model")
    assert metadata.score == "python:mgcda_dist.plugins.uem:UemScore"
    found, expected = loaded(IMAGE), model.segmenter.eval()(IMAGE)
    assert torch.equal(found.extra["unknown"], expected.extra["unknown"])
    assert found.extra["unknown"].shape[1] == 2


def test_a_detached_head_sends_no_gradient_into_the_network() -> None:
    features = torch.randn(1, 5, 3, 4, requires_grad=True)
    for detached in (True, False):
        heads = make_heads(_spec(detached=detached), CHANNELS, 0, "model.heads")
        output = heads.heads["unknown"](features.detach() if detached else features)
        assert output.shape == (1, 2, 3, 4)
    headed = bare_segmenter("mobilenetv3_small_050", norm="group", num_classes=3, heads=_spec(detached=True))
    headed(IMAGE).extra["unknown"].sum().backward()
    touched = {name.partition(".")[0] for name, x in headed.named_parameters() if x.grad is not None}
    assert touched == {"heads"}


def test_heads_are_equal_on_every_rank_and_differ_by_name() -> None:
    specs = {**_spec(), "second": _spec()["unknown"]}
    first, second = (make_heads(specs, CHANNELS, 3, "model.heads").state_dict() for _ in range(2))
    assert all(torch.equal(x, second[name]) for name, x in first.items())
    assert not torch.equal(first["heads.unknown.layers.0.weight"], first["heads.second.layers.0.weight"])


def test_a_head_of_ones_own_is_called_with_its_channels_and_arguments() -> None:
    heads = make_heads(_spec(use=USER_HEAD, arguments={"factor": 2.0}), CHANNELS, 0, "model.heads")
    made = heads.heads["unknown"]
    assert isinstance(made, Scaled) and made.layer.weight.shape[1] == 5 and made.factor == 2.0


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"stage": "stride5"}, "model.heads.unknown.stage", "did you mean stride4"),
        ({"use": "pixelwize"}, "model.heads.unknown.use", "did you mean pixelwise"),
        ({"arguments": {"output": 2}}, "model.heads.unknown.arguments", "unexpected keyword argument 'output'"),
        ({"arguments": {"activation": "rellu"}}, "model.heads.unknown.arguments.activation", "did you mean relu"),
        (
            {"use": "python:tests.models.test_heads:_spec", "arguments": {}},
            "model.heads.unknown.arguments",
            "positional",
        ),
    ],
)
def test_what_is_no_head_is_refused(changes: dict[str, object], where: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        make_heads(_spec(**changes), CHANNELS, 0, "model.heads")
    assert error.value.where == where


def test_a_head_that_no_loss_reads_is_refused(tmp_path: Path, tiny_shards: Path) -> None:
    config = tiny_config(tmp_path, tiny_shards, "model.heads=[{name: unknown}]")
    with pytest.raises(ConfigError, match="nothing trains it: the loss energy_hinge does not read it"):
        build.mgcda(config)


def test_a_loss_that_reads_what_is_not_there_is_refused(tmp_path: Path, tiny_shards: Path) -> None:
    config = tiny_config(tmp_path, tiny_shards, "loss.outlier=plugin:uem")
    with pytest.raises(
        ConfigError, match=r"reads extra\['unknown'\], which the network does not give[\s\S]*model\.heads"
    ):
        build.mgcda(config)
