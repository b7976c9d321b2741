from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgcda_dist.reports.alignment import EmbeddedPixels, alignment_figure, domain_accuracy

CLASSES = ("road", "sky")


def _pixels(gap: float, seed: int = 0) -> EmbeddedPixels:
    """Three domains of eight images with 20 pixels each, `gap` apart; every tenth pixel is an anomaly."""
    rng = np.random.default_rng(seed)
    domain, image, _ = (x.ravel() for x in np.meshgrid(np.arange(3), np.arange(8), np.arange(20), indexing="ij"))
    x = rng.standard_normal((len(domain), 6)) + gap * np.eye(6)[domain]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    kind = np.where(np.arange(len(domain)) % 10 == 0, len(CLASSES), rng.integers(-1, 2, len(domain)))
    return EmbeddedPixels(x.astype(np.float32), domain, kind, image)


def test_domains_apart_are_told_and_one_cloud_is_not() -> None:
    assert domain_accuracy(_pixels(20.0), 3, 2) > 0.99
    assert domain_accuracy(_pixels(0.0), 3, 2) == pytest.approx(1 / 3, abs=0.1)


def test_anomalies_and_the_memory_of_an_image_do_not_count() -> None:
    pixels = _pixels(0.0)
    anomaly = pixels.type == len(CLASSES)
    # Anomalies that give their domain away, and images that give themselves away.
    embedding = pixels.embedding + 50 * anomaly[:, None] * np.eye(6, dtype=np.float32)[pixels.domain]
    embedding[:, 3:] += 5 * np.random.default_rng(1).standard_normal((8, 3))[pixels.image]
    given_away = EmbeddedPixels(embedding.astype(np.float32), pixels.domain, pixels.type, pixels.image)
    assert domain_accuracy(given_away, 3, 2) == pytest.approx(1 / 3, abs=0.1)


def test_one_domain_has_no_accuracy() -> None:
    pixels = _pixels(1.0)
    alone = EmbeddedPixels(pixels.embedding, np.ones_like(pixels.domain), pixels.type, pixels.image)
    assert np.isnan(domain_accuracy(alone, 3, 2))


def test_the_picture_has_a_column_per_moment(tmp_path: Path) -> None:
    moments = {"before training": _pixels(5.0), "after": _pixels(0.5)}
    path = alignment_figure(moments, ("a", "b", "c"), CLASSES, tmp_path / "gap.png")
    with Image.open(path) as picture:
        assert picture.width > picture.height
        assert len(set(picture.convert("RGB").resize((200, 150)).get_flattened_data())) > 50
