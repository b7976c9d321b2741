"""Small shard folders, made from a seed: smooth coloured frames with blocky labels, and round objects."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mgcda_dist.data.labels import lookup_table
from mgcda_dist.data.pixels import Pixels, as_pixels
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.verify import Verified, verify_shards
from mgcda_dist.data.shards.write import write_shards

LUT = lookup_table("road8", "road8")


def frame(seed: int, height: int = 60, width: int = 80) -> tuple[Pixels, Pixels]:
    """Image (RGB) and label of raw `road8` ids whose lower half is road."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = as_pixels(cv2.GaussianBlur(noise, (0, 0), 3))
    label = np.kron(generator.integers(1, 8, (height // 10 + 1, width // 10 + 1)), np.ones((10, 10)))
    label = label[:height, :width].astype(np.uint8)
    label[height // 2 :] = 0
    return image, label


def cutout(seed: int, height: int = 40, width: int = 30) -> Pixels:
    """A red ellipse, RGBA, with empty space around it."""
    pixels = np.zeros((height, width, 4), np.uint8)
    colour = (200, 30, 20 + seed % 40, 255)
    cv2.ellipse(pixels, (width // 2, height // 2), (width // 3, height // 3), 0, 0, 360, colour, -1)
    return pixels


def encoded(pixels: Pixels, ext: str = ".png") -> bytes:
    """RGB, RGBA or grey pixels as a file."""
    if pixels.ndim == 3:
        pixels = as_pixels(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR))
    return cv2.imencode(ext, pixels)[1].tobytes()


def write_frames(
    folder: Path, num_samples: int, *, seed: int = 0, labelled: bool = True, per_shard: int = 4
) -> Manifest:
    """Frames `NAME-00000` … in shards of `per_shard`."""
    samples: list[SourceSample] = []
    for number in range(num_samples):
        image, label = frame(1000 * seed + number)
        key = f"{folder.name}-{number:05d}"
        samples.append(SourceSample(key, encoded(image, ".jpg"), "jpg", encoded(label) if labelled else None))
    return write_shards(
        samples, folder, dataset="made", split="train", label_format="road8", samples_per_shard=per_shard, workers=1
    )


def write_objects(folder: Path, num_samples: int) -> Manifest:
    """Objects of different sizes."""
    samples = [
        SourceSample(f"object-{number:03d}", encoded(cutout(number, 30 + 5 * number, 30)), "png")
        for number in range(num_samples)
    ]
    return write_shards(samples, folder, dataset="made", split="train", label_format="road8", kind="objects", workers=1)


def all_samples(manifest: Manifest) -> list[tuple[str, bytes, bytes | None]]:
    """Key, image and label of every sample, as a reader of its own gives them."""
    reader = ShardReader(manifest)
    samples = [reader.read(index) for index in range(len(reader))]
    reader.close()
    return [(sample.key, sample.image, sample.label) for sample in samples]


def verified(folder: Path | str, *, partial: bool = False, contents: bool = True) -> Verified:
    """The check of a folder or URL of shards."""
    return verify_shards(Manifest.open(folder, check=False), partial=partial, contents=contents)
