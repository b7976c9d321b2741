"""A contact sheet: images with their labels laid over and a legend, to see whether both belong together.

Anomalies are red and outlined, void is black, normal pixels without a class are unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from mgcda_dist.data.colours import UNKNOWN, Colour, class_colours
from mgcda_dist.data.decode import decode_cutout, decode_ids, decode_image
from mgcda_dist.data.labels import NORMAL, shown_by
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.method.randomness import numpy_generator

__all__ = ["Tile", "contact_sheet", "overlay", "read_tiles", "shown"]

_OPACITY = 0.45
_PADDING_PX = 6
_TEXT_PX = 16
_BACKGROUND = 245


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet: uint8 H×W×3 RGB and the line below it."""

    picture: np.ndarray
    caption: str


def read_tiles(manifest: Manifest, count: int, seed: int = 0) -> tuple[list[Tile], dict[str, Colour]]:
    """Random samples, the same ones for the same seed; and the legend of their labels.

    Raises:
        ShardError, SampleError: a sample cannot be read.
    """
    num_drawn = min(count, manifest.num_samples)
    chosen = np.sort(numpy_generator(seed, "contact sheet").choice(manifest.num_samples, num_drawn, replace=False))
    ends = np.cumsum(manifest.shard_sizes, dtype=np.int64)
    tiles: list[Tile] = []
    legend: dict[str, Colour] = {}
    meaning, reader = shown_by(manifest.label_format), ShardReader(manifest)
    for sample in chosen.tolist():
        shard = int(np.searchsorted(ends, sample, side="right"))
        row = manifest.shard_index(shard)[sample - int(ends[shard])]
        encoded = reader.read(sample)
        if manifest.kind == "objects":
            picture = _on_ground(decode_cutout(encoded.image, encoded.where, manifest.exif))
        else:
            picture = decode_image(encoded.image, encoded.where, manifest.exif)
        if encoded.label:
            ids = decode_ids(encoded.label, encoded.where, manifest.exif)
            legend |= shown(ids, meaning)
            picture = overlay(picture, ids, meaning)
        category = bytes(row["category"]).decode() if "category" in (row.dtype.names or ()) else ""
        tiles.append(Tile(picture, f"{category} {encoded.key}".strip()))
    return tiles, {name: legend[name] for name in meaning.values() if name in legend} | legend


def shown(ids: np.ndarray, meaning: Mapping[int, str]) -> dict[str, Colour]:
    """The things in a label, in the order of the ids, with their colours: a legend."""
    colours = _colours(meaning)
    names = {meaning.get(raw, f"unknown {raw}"): None for raw in np.unique(ids).tolist()}
    return {name: colours.get(name, UNKNOWN) for name in names if name != NORMAL}


def overlay(image: np.ndarray, ids: np.ndarray, meaning: Mapping[int, str]) -> np.ndarray:
    """The image with its label laid over, uint8 H×W×3 RGB; the bare image if the label is all void.

    Args:
        image: uint8 H×W×3 RGB.
        ids: raw ids, uint8 h×w; brought to the image's size if they differ.
        meaning: id → thing; other ids are magenta.
    """
    if shown(ids, meaning).keys() == {"void"}:
        return image
    height, width = image.shape[:2]
    if ids.shape != (height, width):
        ids = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    colours, opacity, anomaly = _palette(meaning)
    alpha = opacity[ids][..., None]
    mixed = (image * (1 - alpha) + colours[ids] * alpha).astype(np.uint8)
    outlines, _ = cv2.findContours(anomaly[ids], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(mixed, outlines, -1, (255, 255, 0), max(1, height // 240))


def contact_sheet(
    tiles: list[Tile], legend: Mapping[str, Colour], *, columns: int = 4, tile_width_px: int = 320
) -> np.ndarray:
    """All tiles in a grid with their keys, and a legend below: uint8 H×W×3 RGB."""
    columns = max(1, min(columns, len(tiles)))
    small = [_fit(tile.picture, tile_width_px) for tile in tiles]
    rows: list[np.ndarray] = []
    for start in range(0, len(tiles), columns):
        part = small[start : start + columns]
        height = max(picture.shape[0] for picture in part)
        cells = [
            _cell(picture, tile.caption, height, tile_width_px)
            for picture, tile in zip(part, tiles[start : start + columns], strict=True)
        ]
        blank = np.full_like(cells[0], _BACKGROUND)
        rows.append(np.hstack(cells + [blank] * (columns - len(cells))))
    if legend:
        rows.append(_legend(legend, rows[0].shape[1]))
    return np.vstack(rows)


def _colours(meaning: Mapping[int, str]) -> dict[str, Colour]:
    names = list(dict.fromkeys(name for _, name in sorted(meaning.items())))
    return dict(zip(names, class_colours(names), strict=True))


def _palette(meaning: Mapping[int, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per raw id: colour float[256, 3], opacity float[256], is it an anomaly uint8[256]; unknown ids are magenta."""
    colours = np.tile(np.array([255.0, 0.0, 255.0]), (256, 1))
    opacity = np.full(256, 1.0)
    anomaly = np.zeros(256, np.uint8)
    named = _colours(meaning)
    for raw, name in meaning.items():
        colours[raw] = named[name]
        opacity[raw] = 0.0 if name == NORMAL else _OPACITY
        anomaly[raw] = name == "anomaly"
    return colours, opacity, anomaly


def _on_ground(image: np.ndarray) -> np.ndarray:
    """An object, RGBA, on a chequered ground: RGB."""
    rows, columns = np.indices(image.shape[:2]) // 12
    ground = np.where((rows + columns) % 2, 225, 255)[..., None]
    alpha = image[..., 3:] / 255.0
    return (image[..., :3] * alpha + ground * (1 - alpha)).astype(np.uint8)


def _fit(picture: np.ndarray, width_px: int) -> np.ndarray:
    """At the width, but never higher than wide."""
    height, width = picture.shape[:2]
    scale = width_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _cell(picture: np.ndarray, caption: str, height_px: int, width_px: int) -> np.ndarray:
    cell = np.full((height_px + _TEXT_PX + _PADDING_PX, width_px + _PADDING_PX, 3), _BACKGROUND, np.uint8)
    cell[: picture.shape[0], : picture.shape[1]] = picture
    _write(cell, caption[-int(width_px / 6.2) :], (2, height_px + _TEXT_PX - 4))
    return cell


def _legend(entries: Mapping[str, Colour], width_px: int) -> np.ndarray:
    per_row = max(1, width_px // 150)
    legend = np.full((math.ceil(len(entries) / per_row) * 22 + 8, width_px, 3), _BACKGROUND, np.uint8)
    for i, (name, colour) in enumerate(entries.items()):
        x, y = i % per_row * 150, i // per_row * 22 + 4
        cv2.rectangle(legend, (x + 2, y + 2), (x + 18, y + 16), colour, -1)
        _write(legend, name, (x + 24, y + 14))
    return legend


def _write(canvas: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (20, 20, 20), 1, cv2.LINE_AA)
