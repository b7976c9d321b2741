"""Configurations: of runs without data, and of a small real run on the generated shards of `tiny_shards`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mgcda_dist.config.load import load_config
from mgcda_dist.config.schema import Config

__all__ = ["merged", "plain_config", "plain_content", "tiny_config", "tiny_content", "write_config"]


def plain_config(per_step: dict[str, int] | None = None, **sections: Any) -> Config:
    """A valid configuration of domains with so many images per step; sections are merged, other values replaced."""
    return Config.model_validate(plain_content(per_step, **sections))


def plain_content(per_step: dict[str, int] | None = None, **sections: Any) -> dict[str, Any]:
    """The content of `plain_config`."""
    streams = [
        {"name": name, "shards": f"/{name}", "per_step": n} for name, n in (per_step or {"a": 2, "b": 2}).items()
    ]
    content: dict[str, Any] = {
        "name": "r",
        "data": {"class_space": "road8", "crop_px": [64, 64], "streams": streams},
        "model": {"backbone": "x"},
        "optim": {"steps": 1000},
    }
    return merged(content, sections)


def tiny_content(shards: Path | str, **sections: Any) -> dict[str, Any]:
    """20 steps of 4 images of every kind of stream, with timm's smallest network; sections are merged as above."""
    paste = {"objects": f"{shards}/objects/train"}  # on all of them alike: anything else is a warning
    streams = [
        {"name": "render_a", "shards": f"{shards}/render_a/train", "per_step": 2, "paste": paste},
        {"name": "render_b", "shards": f"{shards}/render_b/train", "per_step": 1, "paste": paste},
        {"name": "real_day", "shards": f"{shards}/real_day/train", "per_step": 1, "labelled": False, "paste": paste},
    ]
    content: dict[str, Any] = {
        "name": "run",
        "data": {"on_bad_sample": "skip", "class_space": "road8", "crop_px": [64, 96], "streams": streams},
        "model": {"backbone": "test_resnet.r160_in1k", "decoder_channels": 16},
        "cacl": {"projection_dim": 16, "anomaly_pixels": 8, "inlier_pixels": 2, "queue_rows": 32},
        "optim": {"steps": 20, "lr_backbone": 1e-3, "lr_heads": 1e-3},
        "checkpoint": {"every_steps": 50},
        "tracking": {"log_every_steps": 1, "system_metrics": False},
        "evaluation": {
            "panel_frames": 2,
            "sets": [{"name": "unseen", "shards": f"{shards}/real_day/test", "max_frames": 4}],
        },
    }
    return merged(content, sections)


def tiny_config(folder: Path, shards: Path, *changes: str) -> Config:
    """`tiny_content` without loader processes, loaded from a file in `folder` with changes of the command line."""
    content = tiny_content(shards, data={"loader_workers": 0}, cacl={"warmup": 0})
    return load_config(write_config(folder / "t.yaml", content), list(changes)).config


def write_config(file: Path, content: dict[str, Any]) -> Path:
    """Write a configuration as YAML; the file."""
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def merged(content: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """The content with sections merged into its own, and other values replaced."""
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values if isinstance(values, dict) else values
    return content
