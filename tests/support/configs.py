"""Configurations of runs without data, for what depends on the configuration alone."""

from __future__ import annotations

from typing import Any

from mgcda_dist.config.schema import Config

__all__ = ["plain_config"]


def plain_config(per_step: dict[str, int] | None = None, **sections: Any) -> Config:
    """A valid configuration of domains with so many images per step; sections are merged, other values replaced."""
    domains = [
        {"name": name, "shards": f"/{name}", "per_step": n} for name, n in (per_step or {"a": 2, "b": 2}).items()
    ]
    content: dict[str, Any] = {
        "name": "r",
        "data": {"class_space": "road8", "crop_px": (64, 64), "streams": domains},
        "model": {"backbone": "x"},
        "optim": {"steps": 1000},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values if isinstance(values, dict) else values
    return Config.model_validate(content)
