"""An exported model as MLflow's `python_function`: loaded by name from safetensors, without pickle and without MLflow.

MLflow stores this module and what it imports beside the weights, and calls `_load_pyfunc`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.inference.model import ExportedModel, load_exported

__all__ = ["ScoreFunction"]


class ScoreFunction:
    """The function that MLflow serves: images in, score maps out."""

    def __init__(self, model: ExportedModel) -> None:
        self.model = model

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> dict[str, NDArray[Any]]:
        """Anomaly scores and classes, as `mgcda evaluate` computes them.

        Args:
            images: N×H×W×3 uint8, RGB.
            params: `height_px`, height of the network's input: 0 for the images' own, -1 (the default) as the run was
                evaluated. Dictionaries are MLflow's interface.

        Returns:
            `score` N×H×W float32, higher is more anomalous; `classes` N×H×W uint8, index into the model's class names.

        Raises:
            ValueError: another shape or type.
        """
        batch = np.asarray(images)
        if batch.ndim != 4 or batch.shape[3] != 3 or batch.dtype != np.uint8:
            raise ValueError(f"images: {batch.dtype} {batch.shape}, expected uint8 N×H×W×3 (RGB)")
        height = int((params or {}).get("height_px", -1))
        found = [self.model.predict(image, height_px=None if height < 0 else height) for image in batch]
        return {
            "score": np.stack([score for score, _ in found]),
            "classes": np.stack([classes for _, classes in found]),
        }


def _load_pyfunc(data_path: str) -> ScoreFunction:
    """Entry point of MLflow; `data_path` is the folder with `model.safetensors` and `model.json`."""
    return ScoreFunction(load_exported(data_path))
