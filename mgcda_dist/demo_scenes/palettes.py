"""Colours of every material in every domain: lists of hex colours, of which a shape's variant picks one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mgcda_dist.demo_scenes.camera import Float
from mgcda_dist.demo_scenes.materials import Material

__all__ = ["PALETTES", "albedo"]

M = Material

_BASE: dict[Material, str] = {
    M.SKY: "000000",
    M.ASPHALT: "747476 69696c 807e7a 5f6163 8a8783",
    M.ASPHALT_PATCH: "5e5e60 6f6d6a 53555a",
    M.MARKING: "cfcfca c6c6c0 d6d4cc c9a545",
    M.SLABS: "9b968d 8d8a85 aaa092 93959a 857f78",
    M.KERB: "a3a19b b2afa8 96938c",
    M.GRASS: "6b7a40 5d743b 80804a 6f7548",
    M.WALL: "c2b297 b5b0a4 a0735c d0c6b2 8e8a85 bfa07c 96604d d2cec5 a89a86",
    M.TRIM: "cfc9bc b9b3a6 e2ddd3 8b857b",
    M.GLASS: "3a434d 66788a e0c88c",
    M.SHOP: "313a42 4b5661 5b544a",
    M.AWNING: "83332e 33496a 43593f a98540 55405a 2a2a2c 9a9a96",
    M.DOOR: "4a382b 2f3c34 57302a 35363c",
    M.ROOF: "84503f 6b4c40 58575c 935d46",
    M.TRUNK: "584a3c 685b4b 4a4038",
    M.LEAF: "4d6535 425c33 5c723c 546a42 747340",
    M.HEDGE: "46602f 3f5634 5a6a38",
    M.FENCE: "958b7d 7a5e4a bdb6a9",
    M.BODY: "bfc2c5 2c2e32 878c92 74282a 27406a dcdcd8 5c604a 50697f a98c4c 3b3f45",
    M.CAR_GLASS: "232a31 2b333b",
    M.PLASTIC: "1d1e20",
    M.TYRE: "181818",
    M.RIM: "94979b 6a6d70",
    M.TAIL_LIGHT: "98201e",
    M.HEAD_LIGHT: "d9dde0",
    M.PLATE: "dcd9c8",
    M.SKIN: "cfa287 a87858 764f39 e0ba9c",
    M.HAIR: "2a211b 4a3524 15120f 8a6a40 8b8784",
    M.CLOTH: "2d3340 5a4a40 7a2f2f 3d4f6e 8f8a80 1e1f22 c8c2b5 4a5a3f a07a35 6b3f5f",
    M.METAL: "757a7e 5e6367 939a9d 46504b",
    M.LAMP: "dcd8c6",
    M.SIGN_RED: "ab2826",
    M.SIGN_BLUE: "24559a",
    M.SIGN_WHITE: "dededa",
    M.SIGN_GREEN: "2a6a4a",
    M.SIGNAL_RED: "e23a28",
    M.SIGNAL_GREEN: "3ad08a",
    M.SKYLINE: "8f969e 9d9a96 7f868c",
    M.FAR_TREES: "566547 48573c 5f6a4a",
    M.OBJECT: "808080",
}

_CLEAN = {
    M.ASPHALT: "8b8f9a 858994 9498a2",
    M.ASPHALT_PATCH: "787c88 70747f",
    M.MARKING: "ffffff ffffff ffffff ffd34a",
    M.SLABS: "d8c4ae cfc0b4 e0cdb8",
    M.KERB: "e6e0d8 dcd6d0",
    M.GRASS: "84c94f 7abf4a 8fd05a",
    M.WALL: "f2dcae e9a884 a9c6da e3e3ee f3c98b cfe0c4 d98f7c f6ecd9",
    M.TRIM: "ffffff f4efe6 fff7e8 b8c0cc",
    M.GLASS: "5f8fb4 8fc0dc ffe9a6",
    M.SHOP: "5a86a8 6f9fbe",
    M.AWNING: "e0483e 3f7fd0 49b060 f0b63c a060c0",
    M.ROOF: "d0643f b8553a 7d86a0",
    M.TRUNK: "8a6240 7a5638",
    M.LEAF: "55b244 48a83c 68c04e 3f9a48",
    M.HEDGE: "4aa63c 3f9838",
    M.FENCE: "e0c8a0 c89868 f0ece4",
    M.BODY: "f2f4f6 e2382c 2f6fd8 f4c22c 30b070 34383f b9c0c8 f08030",
    M.CAR_GLASS: "3c5468 466078",
    M.CLOTH: "3060c0 d03c3c f0c040 40a060 8050b0 f0f0f0 404858 f08050",
    M.METAL: "9aa4b0 8a94a0",
    M.SKYLINE: "b8c8dc c4d0e0",
    M.FAR_TREES: "7cb87c 6aae70",
}

_RICH = {
    M.ASPHALT: "44454d 3e4048 4b4a4f",
    M.ASPHALT_PATCH: "35363c 2f3036",
    M.SLABS: "a5664e b07058 98624f 8f7a6c",
    M.KERB: "c0b4a4 a8a096",
    M.GRASS: "8a8a2c 7f7a2a 5f7f2a",
    M.WALL: "a8432f c98a3c 7c3b34 d8a860 8a6a58 b85a38 6a7a80",
    M.TRIM: "e8d8b8 c0a888 f0e4cc",
    M.GLASS: "26384c 4a7090 ffcf70",
    M.AWNING: "b01c1c 10408c 0c6a3c d08010 601878",
    M.ROOF: "7a2e22 4a4048 90402a",
    M.LEAF: "c07a1c a85a18 7f8a22 cf9a28 5f7a22 b04a1c",
    M.HEDGE: "6a7a1c 7f6a1c",
    M.BODY: "d8dade a81818 103c98 e0a010 187048 18181c 7c8088 c85010",
    M.CLOTH: "182858 8c1818 c88818 185838 481868 d8d0c0 202020",
    M.SKYLINE: "a08878 8a7c80",
    M.FAR_TREES: "94702c 7c6a2c",
}

PALETTES: dict[str, dict[Material, str]] = {"natural": {}, "clean": _CLEAN, "rich": _RICH}
"""Changes of each palette to the natural one."""


@lru_cache(maxsize=8)
def _table(name: str) -> tuple[Float, NDArray[np.int32]]:
    colours = {**_BASE, **PALETTES[name]}
    rows = [[[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in colours[m].split()] for m in Material]
    table = np.zeros((len(rows), max(map(len, rows)), 3), np.float32)
    for row, entries in zip(table, rows, strict=True):
        row[: len(entries)] = np.array(entries, np.float32) / 255
    return table, np.array([len(entries) for entries in rows], np.int32)


def albedo(name: str, materials: NDArray[np.int32], variants: Float) -> Float:
    """Linear reflectance of shapes, shapes×3; near variants differ a little in brightness."""
    table, counts = _table(name)
    encoded = table[materials, (variants * counts[materials]).astype(np.int32)]
    jitter = 1 + 0.14 * ((variants * 13.7) % 1 - 0.5)
    return (encoded**2 * jitter[:, None] ** 2).astype(np.float32)
