"""`model.json` of others: a schema, and no file, request or code but what the user allows."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.inference.model import load_exported
from mgcda_dist.models.exported import load_segmenter
from mgcda_dist.models.external import names_elsewhere
from mgcda_dist.trust import offline
from tests.support.commands import typed
from tests.support.exported import write_run


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "net") / "model"


def changed(good: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The model with another `model.json`."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes())
    content = json.loads((good / "model.json").read_text())
    change(content)
    (folder / "model.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("weights", ["hub", "file:/nowhere/none.pth", "package:anything"])
def test_weights_that_a_file_asks_for_are_not_loaded(weights: str, good: Path, tmp_path: Path) -> None:
    folder = changed(good, tmp_path / "model", lambda content: content["architecture"].update(weights=weights))
    load_segmenter(folder)  # all weights are in model.safetensors


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "model"])
def test_a_model_that_is_a_link_out_of_its_folder_is_refused(name: str, good: Path, tmp_path: Path) -> None:
    folder = changed(good, tmp_path / "model", lambda content: None)
    if name == "model":
        run = tmp_path / "run"
        run.mkdir()
        (run / "model").symlink_to(folder)
    else:
        run = folder
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(MgcdaError, match="is a link that leads out"):
        load_exported(run)


def test_a_request_while_a_model_is_made_is_refused(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(**_: object) -> None:
        socket.create_connection(("127.0.0.1", 9))

    monkeypatch.setattr("mgcda_dist.models.exported.bare_segmenter", asks)
    with pytest.raises(MgcdaError, match="asks for a connection, and loading makes none"):
        load_segmenter(good)
    with pytest.raises(MgcdaError, match="asks for a connection"), offline("here"):
        socket.getaddrinfo("localhost", 9)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 9), timeout=5)


@pytest.mark.parametrize(
    ("library", "arguments"),
    [
        ("smp:unet", {"encoder_name": "tu-hf_hub:somebody/net"}),
        ("smp:unet", {"encoder_name": "tu-local-dir:/etc"}),
        ("transformers:mask2former", {"backbone": "gpt2"}),
        ("transformers:mask2former", {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18"}}),
        ("transformers:mask2former", {"backbone_config": [{"use_pretrained_backbone": True}]}),
        ("transformers:segformer", {"config": "somewhere"}),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}),
        ("smp:unet", {"decoder_attention_type": "../x"}),
    ],
)
def test_arguments_that_name_files_or_hubs_are_refused(
    library: str, arguments: dict[str, Any], good: Path, tmp_path: Path
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["architecture"] = {
            "norm": "frozen",
            "num_classes": 8,
            "network": {"name": library, "arguments": arguments},
        }

    with pytest.raises(MgcdaError, match="a file or the repository of a hub"):
        load_segmenter(changed(good, tmp_path / "model", change))


def test_arguments_of_a_network_are_no_places() -> None:
    content = {
        "encoder_name": "tu-tf_efficientnet_lite0", "depths": [2, 2], "hidden_act": "gelu", "backbone": None,
        "use_pretrained_backbone": False, "_name_or_path": "nvidia/mit-b0",
        "backbone_config": {"model_type": "swin", "architectures": ["A/b"]},
    }  # fmt: skip
    assert names_elsewhere(content) is None


DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]
CHANGES: dict[str, Any] = {
    "no object": lambda c: c.clear(),
    "name is a list": lambda c: c.update(name=["x"]),
    "name moves the cursor": lambda c: c.update(name="\x1b[2J"),
    "name is long": lambda c: c.update(name="x" * 100_000),
    "no classes": lambda c: c.update(class_names=[]),
    "classes are one text": lambda c: c.update(class_names="road"),
    "class is a number of lines": lambda c: c.update(class_names=["road\n\\input{/etc/passwd}"]),
    "score is unknown": lambda c: c.update(score="best"),
    "height is huge": lambda c: c.update(height_px=10**9),
    "height is negative": lambda c: c.update(height_px=-1),
    "height is NaN": lambda c: c.update(height_px=float("nan")),
    "config is a list": lambda c: c.update(config=[]),
    "architecture is a text": lambda c: c.update(architecture="resnet"),
    "architecture is deep": lambda c: c.update(architecture=DEEP),
    "architecture is empty": lambda c: c.update(architecture={}),
    "backbone is a path": lambda c: c["architecture"].update(backbone="../../etc/passwd"),
    "backbone is a hub": lambda c: c["architecture"].update(backbone="hf_hub:somebody/net"),
    "backbone is none": lambda c: c["architecture"].update(backbone="no_such_network"),
    "classes are a billion": lambda c: c["architecture"].update(num_classes=10**9),
    "channels are a billion": lambda c: c["architecture"].update(decoder_channels=10**9),
    "channels are no number": lambda c: c["architecture"].update(decoder_channels="many"),
    "norm is unknown": lambda c: c["architecture"].update(norm="none"),
    "two networks": lambda c: c["architecture"].update(network={"name": "smp:unet"}),
    "network is a text": lambda c: c["architecture"].update(backbone=None, network="smp:unet"),
    "network has no library": lambda c: c["architecture"].update(backbone=None, network={"name": "unet"}),
    "taps are no taps": lambda c: c["architecture"].update(
        backbone=None, network={"name": "torchvision:lraspp_mobilenet_v3_large", "taps": {"x": 1}}
    ),
    "statistics are a list": lambda c: c.update(class_statistics=[1]),
    "statistics are texts": lambda c: c.update(class_statistics={"mean": ["a"], "var": [1]}),
    "points are numbers": lambda c: c.update(operating_points=[1]),
    "points lack keys": lambda c: c.update(operating_points=[{"set": "a"}]),
    "range has one end": lambda c: c.update(
        operating_points=[
            {"set": "a", "dataset": None, "split": None, "pasted": True, "thresholds": {}, "range": [1], "settings": {}}
        ]
    ),
    "scales are texts": lambda c: c["config"].update(evaluation={"scales": ["x"]}),
    "scales are huge": lambda c: c["config"].update(evaluation={"scales": [10**6]}),
    "window is one number": lambda c: c["config"].update(evaluation={"window_px": 5}),
    "evaluation is a list": lambda c: c["config"].update(evaluation=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_malformed_model_ends_in_an_error_of_ours(
    change: Callable[[dict[str, Any]], object], good: Path, tmp_path: Path
) -> None:
    folder = changed(good, tmp_path / "model", change)
    (tmp_path / "a.png").write_bytes(b"no picture")
    done = typed("predict", folder, tmp_path / "a.png", "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.startswith("error: "), done
    assert "\x1b" not in done.stderr and len(done.stderr) < 2000


@pytest.mark.parametrize("text", ["", "[]", "7", '{"name"', "[" * 100_000, "\xff", '{"a": ' + "9" * 5000 + "}"])
def test_a_file_that_is_no_object_ends_in_an_error_of_ours(text: str, good: Path, tmp_path: Path) -> None:
    folder = changed(good, tmp_path / "model", lambda content: None)
    (folder / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(MgcdaError, match=r"model"):
        load_exported(folder)
