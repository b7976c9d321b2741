"""A run folder with an untrained model, for tests of evaluation and use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgcda_dist import build
from mgcda_dist.config.schema import Config

__all__ = ["NEEDED", "write_run"]

NEEDED = {"PIL", "numpy", "safetensors", "timm", "torch", "torchvision"}
"""Packages that an exported model needs; the rest of the stack is for training."""


def write_run(folder: Path, evaluation: dict[str, Any] | None = None, **model: Any) -> Path:
    """A run folder whose `model/` holds timm's smallest network with random weights."""
    config = Config.model_validate(
        {
            "name": folder.name,
            "data": {
                "class_space": "road8",
                "crop_px": (64, 96),
                "domains": [{"name": "a", "shards": "shards/a", "per_step": 2}],
            },
            "model": {"backbone": "test_resnet.r160_in1k", "decoder_channels": 16} | model,
            "mdat": {"enabled": False},
            "optim": {"steps": 1},
            "evaluation": {"height_px": 32} | (evaluation or {}),
        }
    )
    build.save_model(config, build.segmenter(config), folder / "model")
    return folder
