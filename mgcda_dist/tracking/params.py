"""Parameters on one level: the dotted names and the text under which every run records its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flat_params"]


def flat_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections, and lists that hold sections, as dotted keys; other lists as one value. Values as text."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_params(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            flat |= flat_params({str(index): item for index, item in enumerate(value)}, f"{name}.")
        else:
            # Without brackets: MLflow's comparison spreads what looks like JSON over many lines.
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) and value else str(value)
    return flat
