"""A run folder with an untrained model, for tests of evaluation and use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgcda_dist import build
from tests.support.configs import plain_config

__all__ = ["NEEDED", "write_run"]

NEEDED = {"PIL", "numpy", "pydantic", "safetensors", "timm", "torch", "torchvision"}
"""Packages that an exported model needs; the rest of the stack is for training."""


def write_run(folder: Path, evaluation: dict[str, Any] | None = None, class_space: str = "road8", **model: Any) -> Path:
    """A run folder whose `model/` holds timm's smallest network with random weights, where its configuration says."""
    config = plain_config(
        {"a": 2},
        name=folder.name,
        runs=str(folder.parent),
        data={"class_space": class_space, "crop_px": (64, 96)},
        model={"backbone": "test_resnet.r160_in1k", "decoder_channels": 16} | model,
        mdat={"enabled": False},
        optim={"steps": 1},
        evaluation={"height_px": 32} | (evaluation or {}),
    )
    build.save_model(config, build.segmenter(config), folder / "model")
    return folder
