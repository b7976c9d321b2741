"""The metrics as scikit-learn computes them, and adversarial scores to compare on."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

METRICS = ("ap", "auroc", "fpr95", "best_f1")
Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def sklearn_metrics(score: Floats, anomaly: Bools) -> dict[str, float]:
    """AP, AUROC, FPR95 and best F1 of pooled scores."""
    fpr, tpr, _ = roc_curve(anomaly, score, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(anomaly, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "ap": float(average_precision_score(anomaly, score)),
        "auroc": float(roc_auc_score(anomaly, score)),
        "fpr95": float(fpr[np.argmax(tpr >= 0.95)]),
        "best_f1": float(f1.max()),
    }


def pooled(frames: Sequence[tuple[Floats, Bools]]) -> dict[str, float]:
    """`sklearn_metrics` of the pixels of all frames together."""
    return sklearn_metrics(np.concatenate([s for s, _ in frames]), np.concatenate([a for _, a in frames]))


def assert_metrics(result: object, expected: dict[str, float], tolerance: float) -> None:
    """The attributes of `result` are the expected numbers."""
    assert {name: getattr(result, name) for name in expected} == pytest.approx(expected, abs=tolerance)


def merged(count: Callable[[range], Any], num_frames: int, world_size: int) -> Any:
    """The sum of what each rank counts of its frames, last rank first, pickled as on its way between processes."""
    ranks = [count(range(rank, num_frames, world_size)) for rank in range(world_size)]
    total = pickle.loads(pickle.dumps(ranks[-1]))
    for other in ranks[:-1]:
        total.merge(pickle.loads(pickle.dumps(other)))
    return total


def labels(anomaly: Bools) -> NDArray[np.uint8]:
    """Labels of a frame: 254 and, as inlier of unknown class or of class 3, 253 and 3."""
    inlier = np.where(np.arange(anomaly.size).reshape(anomaly.shape) % 2, 253, 3)
    return np.where(anomaly, 254, inlier).astype(np.uint8)


def _sigmoid(x: Floats) -> Floats:
    return (1.0 / (1.0 + np.exp(-x))).astype(np.float32)


SCORES: dict[str, Callable[[Floats, int], Floats]] = {
    # x: standard normal plus 2 on anomalies; f: number of the frame, 0 … 7.
    "normal": lambda x, f: x.astype(np.float32),
    "inverted": lambda x, f: (-x).astype(np.float32),
    "drifting": lambda x, f: (x + 0.5 * f).astype(np.float32),
    "separated": lambda x, f: (x + 20 * (x > 2.5)).astype(np.float32),
    "cubed": lambda x, f: (x**3).astype(np.float32),
    "heavy tail": lambda x, f: np.sinh(8 * x).astype(np.float32),
    "forty decades": lambda x, f: np.exp(9 * x).astype(np.float32),
    "saturated sigmoid": lambda x, f: _sigmoid(10 * x),
    "narrow": lambda x, f: (1 + 1e-6 * x).astype(np.float32),
    "narrow float64": lambda x, f: 1 + 1e-9 * x,
    "agreeing to 14 digits": lambda x, f: 0.5 + 1e-14 * x,
    "agreeing to 14 digits, with ties": lambda x, f: -0.5 - 1e-14 * np.round(8 * np.clip(x, -2, 3)),
    "saturated float64 sigmoid": lambda x, f: 1.0 / (1.0 + np.exp(-12.0 * x)),
    "top of the range": lambda x, f: (0.999 + 0.001 * _sigmoid(x)).astype(np.float32),
    "denormal": lambda x, f: (1e-38 * x).astype(np.float32),
    "huge": lambda x, f: 1e300 * x,
    "float16": lambda x, f: x.astype(np.float16),
    "integers": lambda x, f: np.round(3 * x).astype(np.float32),
    "two values": lambda x, f: (x > 1).astype(np.float32),
    "constant": lambda x, f: np.full(x.shape, -3.7, np.float32),
    "clipped": lambda x, f: np.clip(x, -0.9123, 1.2345).astype(np.float32),
    "clipped below zero": lambda x, f: np.minimum(x - 5, -4.1).astype(np.float32),
    "two scales": lambda x, f: np.where(np.sin(1e5 * x) > 0, np.exp(8 * x), 1 + 1e-5 * x).astype(np.float32),
    "single and double precision": lambda x, f: (x if f % 2 else 0.1 * x).astype(np.float64 if f % 3 else np.float32),
    "each frame its own scale": lambda x, f: (x * 10.0 ** (f - 4)).astype(np.float32),
}


def adversarial_frames(name: str, pixels: int, num_frames: int = 8) -> list[tuple[Floats, Bools]]:
    """Frames of (score, anomaly); the share of anomalies differs, and frame 0 has none."""
    rng = np.random.default_rng(7)
    frames: list[tuple[Floats, Bools]] = []
    for f in range(num_frames):
        anomaly = rng.random(pixels) < 0.02 * (f % 4)
        frames.append((SCORES[name](rng.standard_normal(pixels) + 2.0 * anomaly, f), anomaly))
    return frames
