"""A network that starts from another run takes every tensor, and the rows of its classifier by class."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError, MgcdaError
from tests.support.configs import tiny_config


@pytest.fixture
def saved(tmp_path: Path, tiny_shards: Path) -> tuple[Config, Path]:
    config = tiny_config(tmp_path, tiny_shards, "seed=5")
    build.save_model(config, build.segmenter(config), tmp_path / "earlier" / "model")
    return config, tmp_path / "earlier"


def test_the_same_network_is_taken_whole(saved: tuple[Config, Path], tmp_path: Path, tiny_shards: Path) -> None:
    config, folder = saved
    ours = build.segmenter(tiny_config(tmp_path, tiny_shards, f"model.weights=run:{folder}")).state_dict()
    for name, x in build.segmenter(config).state_dict().items():
        assert torch.equal(ours[name], x), name


def test_a_column_more_begins_with_zeros(saved: tuple[Config, Path], tmp_path: Path, tiny_shards: Path) -> None:
    config, folder = saved
    given = build.segmenter(config).state_dict()
    wider = tiny_config(tmp_path, tiny_shards, f"model.weights=run:{folder}", "loss.outlier=abstention")
    ours = build.segmenter(wider).state_dict()
    grown = [name for name, x in ours.items() if x.shape != given[name].shape]
    assert grown
    for name in grown:
        assert torch.equal(ours[name][:-1], given[name]) and not ours[name][-1].any(), name
    build.save_model(wider, build.segmenter(wider), tmp_path / "wide")
    back = build.segmenter(tiny_config(tmp_path, tiny_shards, f"model.weights=run:{tmp_path / 'wide'}")).state_dict()
    assert all(torch.equal(back[name], x) for name, x in given.items()), "and a column less leaves it behind"


def test_heads_that_are_new_keep_their_first_parameters(
    saved: tuple[Config, Path], tmp_path: Path, tiny_shards: Path
) -> None:
    config, folder = saved
    changes = ["loss.outlier=plugin:uem", "model.heads=[{name: unknown, arguments: {outputs: 2}}]"]
    headed = build.segmenter(tiny_config(tmp_path, tiny_shards, f"model.weights=run:{folder}", *changes)).state_dict()
    fresh = build.segmenter(tiny_config(tmp_path, tiny_shards, *changes)).state_dict()
    given = build.segmenter(config).state_dict()
    assert all(torch.equal(headed[f"segmenter.{name}"], x) for name, x in given.items())
    heads = [name for name in headed if name.startswith("heads.")]
    assert heads and all(torch.equal(headed[name], fresh[name]) for name in heads)


def test_another_network_and_other_classes_are_refused(
    saved: tuple[Config, Path], tmp_path: Path, tiny_shards: Path
) -> None:
    _, folder = saved
    for change, says in (
        ("model.decoder_channels=24", "is of another network: .* tensors differ, first decoder"),
        ("data.class_space=cityscapes19", "has the classes road.*, and this run road"),
        (f"model.weights=run:{tmp_path}/nowhere", "does not exist"),
    ):
        config = tiny_config(tmp_path, tiny_shards, f"model.weights=run:{folder}", change)
        with pytest.raises(MgcdaError, match=says):
            build.segmenter(config)


def test_weights_of_another_digest_are_refused(saved: tuple[Config, Path], tmp_path: Path, tiny_shards: Path) -> None:
    _, folder = saved
    file = folder / "model" / "model.safetensors"
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    for place in (f"run:{folder}", f"file:{file}"):
        of = [f"model.weights={place}"]
        build.segmenter(tiny_config(tmp_path, tiny_shards, *of, f"model.weights_sha256={right}"))
        with pytest.raises(ConfigError, match=r"model.weights_sha256: the weights in .* have [0-9a-f]{64}, not 0000"):
            build.segmenter(tiny_config(tmp_path, tiny_shards, *of, f"model.weights_sha256='{'0' * 64}'"))
    with pytest.raises(ConfigError, match="weights_sha256: is of a file: or run:"):
        tiny_config(tmp_path, tiny_shards, f"model.weights_sha256={right}")


def _copied(*pairs: tuple[str, str], outputs: int = 0) -> list[str]:
    copies = ", ".join(f"{{source: {source}, target: {target}}}" for source, target in pairs)
    return [
        f"model.heads=[{{name: twin, arguments: {{outputs: {outputs or CLASSES}}}}}]",
        f"model.copies=[{copies}]",
        "loss.outlier=plugin:uem",
    ]


CLASSES = 8


def test_a_new_head_begins_as_a_copy_of_what_was_trained(
    saved: tuple[Config, Path], tmp_path: Path, tiny_shards: Path
) -> None:
    config, folder = saved
    given = build.segmenter(config).state_dict()
    changes = _copied(("decoder.classifier", "heads.heads.twin.layers.0"))
    twin = build.segmenter(tiny_config(tmp_path, tiny_shards, f"model.weights=run:{folder}", *changes)).state_dict()
    for name in ("weight", "bias"):
        copy = twin[f"heads.heads.twin.layers.0.{name}"]
        assert torch.equal(copy, given[f"decoder.classifier.{name}"])
        assert copy.data_ptr() != twin[f"segmenter.decoder.classifier.{name}"].data_ptr(), "and learns by itself"
    single = _copied(("decoder.classifier.bias", "heads.heads.twin.layers.0.bias"))
    one = build.segmenter(tiny_config(tmp_path, tiny_shards, f"model.weights=run:{folder}", *single)).state_dict()
    assert torch.equal(one["heads.heads.twin.layers.0.bias"], given["decoder.classifier.bias"])
    assert not torch.equal(one["heads.heads.twin.layers.0.weight"], given["decoder.classifier.weight"])


@pytest.mark.parametrize(
    ("pair", "outputs", "words"),
    [
        (
            ("decoder.classifer", "heads.heads.twin.layers.0"),
            CLASSES,
            "no tensor.*did you mean decoder.classifier",
        ),
        (("decoder.classifier", "heads.heads.twin"), CLASSES, "differ in 4 tensors, first heads.heads.twin.bias"),
        (
            ("decoder.classifier", "heads.heads.twin.layers.0"),
            2,
            "differ in 2 tensors, first heads.heads.twin.layers.0.bias",
        ),
    ],
)
def test_copies_of_what_is_not_there_or_differs_are_refused(
    pair: tuple[str, str], outputs: int, words: str, tmp_path: Path, tiny_shards: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)model\.copies\.0.*{words}"):
        build.segmenter(tiny_config(tmp_path, tiny_shards, *_copied(pair, outputs=outputs)))
