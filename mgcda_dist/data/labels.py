"""Raw label ids of every data set → names of the things they show → train ids of a class space; only this file.

A *label format* gives the name of the thing that each raw id of a label PNG shows (`FORMATS`). A *class space* gives
the train id of each name (`SPACES`, train ids in the order of the configured class names; or a `ClassSpace` of the
user's own). `lookup_table` joins the two to 256 bytes that map a label image in one indexing. Things that are normal
but have no class in a space become `INLIER` (253): evaluated as normal, never trained.

Sources of the ids: cityscapesScripts `labels.py`; the SegNet release of CamVid; IDD-Lite's page; CARLA's reference of
the semantic camera; the RoadAnomaly and Lost and Found releases; IDD: `helpers/anue_labels.py` of AutoNUE/public-code;
the README of SYNTHIA-RAND-CITYSCAPES; StreetHazards: `create_dataset.py` of hendrycks/anomaly-seg, from 1 in the files;
Mapillary Vistas: `config_v1.2.json` and `config_v2.0.json` of the release, mapped by Cityscapes' definitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mgcda_dist.choices import ANOMALY, INLIER, VOID
from mgcda_dist.errors import ConfigError, near_or_all

__all__ = [
    "CATEGORIES",
    "FORMATS",
    "LABEL_FORMATS",
    "OWN",
    "SPACES",
    "ClassSpace",
    "doubtful_labels",
    "is_own",
    "known_ids",
    "lookup_table",
    "mapped_ids",
    "shown_by",
    "train_names",
    "void_ids",
]

OWN = "own"
"""Label formats whose ids only the user knows: `own`, and `own_NAME` where there are several."""

NORMAL = "normal"
"""Name of a pixel that is no anomaly, class unknown."""

_ROAD8 = ("road", "sidewalk", "building", "vegetation", "sky", "vehicle", "person", "pole_sign")
_CITYSCAPES = {
    -1: "license plate", 0: "void", 1: "void", 2: "void", 3: "void", 4: "void", 5: "void", 6: "ground", 7: "road",
    8: "sidewalk", 9: "parking", 10: "rail track", 11: "building", 12: "wall", 13: "fence", 14: "guard rail",
    15: "bridge", 16: "tunnel", 17: "pole", 18: "polegroup", 19: "traffic light", 20: "traffic sign",
    21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus",
    29: "caravan", 30: "trailer", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
_CITYSCAPES_TRAIN = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
_CARLA = (
    "void", "building", "fence", "void", "person", "pole", "road", "road", "sidewalk", "vegetation", "vehicle", "wall",
    "traffic sign", "sky", "ground", "bridge", "rail track", "guard rail", "traffic light", "void", "void", "void",
    "terrain",
)  # fmt: skip

_IDD = (
    "road", "parking", "drivable fallback", "sidewalk", "rail track", "non-drivable fallback", "person", "animal",
    "rider", "motorcycle", "bicycle", "autorickshaw", "car", "truck", "bus", "caravan", "trailer", "train",
    "vehicle fallback", "curb", "wall", "fence", "guard rail", "billboard", "traffic sign", "traffic light", "pole",
    "polegroup", "structure fallback", "building", "bridge", "tunnel", "vegetation", "sky", "fallback background",
    "void", "void", "void", "void", "void",
)  # fmt: skip
# Level 3 merges: 1 parking and drivable fallback, 3 rail track and non-drivable fallback, 4 person and animal, 12 the
# rare large vehicles, 20 poles, 23 bridge and tunnel, 25 sky and fallback background. Each has the name of the part
# that is most of it, or whose train id all parts share.
_IDD_LEVEL3 = (
    "road", "drivable fallback", "sidewalk", "non-drivable fallback", "person", "rider", "motorcycle", "bicycle",
    "autorickshaw", "car", "truck", "bus", "vehicle fallback", "curb", "wall", "fence", "guard rail", "billboard",
    "traffic sign", "traffic light", "pole", "structure fallback", "building", "bridge", "vegetation", "sky",
)  # fmt: skip
_SYNTHIA = (
    "void", "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car", "traffic sign", "person",
    "bicycle", "motorcycle", "parking", "roadside object", "traffic light", "terrain", "rider", "truck", "bus", "train",
    "wall", "road",
)  # fmt: skip
# The sky and everything without a class of its own are "unlabeled" (1) there: no anomaly, but no known class either.
_STREET_HAZARDS = (
    "void", NORMAL, "building", "fence", NORMAL, "person", "pole", "road", "road", "sidewalk", "vegetation", "car",
    "wall", "traffic sign", "anomaly",
)  # fmt: skip
# Cityscapes counts curbs, traffic islands and pedestrian zones to the sidewalk, markings and bike lanes to the road.
_MAPILLARY_V12 = (
    "animal", "animal", "sidewalk", "fence", "guard rail", "roadside object", "wall", "road", "road", "sidewalk",
    "parking", "sidewalk", "rail track", "road", "road", "sidewalk", "bridge", "building", "tunnel", "person", "rider",
    "rider", "rider", "road", "road", "mountain", "terrain", "sky", "snow", "terrain", "vegetation", "water",
    *("roadside object",) * 3, "billboard", "road", *("roadside object",) * 4, "road", "roadside object", "road",
    "roadside object", "pole", "pole", "pole", "traffic light", "roadside object", "traffic sign", "roadside object",
    "bicycle", "vehicle fallback", "bus", "car", "caravan", "motorcycle", "train", "vehicle fallback", "trailer",
    "truck", "vehicle fallback", "void", "void", "void",
)  # fmt: skip
_MAPILLARY_V20 = (
    "animal", "animal", "roadside object", "roadside object", "sidewalk", "fence", "guard rail",
    *("roadside object",) * 5, "wall", "road", "road", "sidewalk", "road", "parking", "parking", "sidewalk",
    "rail track", "road", "road", "road", "sidewalk", "sidewalk", "bridge", "building", "building", "tunnel", "person",
    "person", "rider", "rider", "rider", *("road",) * 24, "mountain", "terrain", "sky", "snow", "terrain", "vegetation",
    "water", *("roadside object",) * 3, "road", *("roadside object",) * 4, "road", *("roadside object",) * 2, "road",
    *("billboard",) * 6, "roadside object", "pole", "polegroup", "pole", "pole", "roadside object",
    *("traffic light",) * 6, *("roadside object",) * 3, *("traffic sign",) * 3, "roadside object", "traffic sign",
    "roadside object", "bicycle", "vehicle fallback", "bus", "car", "caravan", "motorcycle", "train",
    "vehicle fallback", "trailer", "truck", "vehicle fallback", "vehicle fallback", "roadside object",
    *("void",) * 6,
)  # fmt: skip

FORMATS: dict[str, dict[int, str]] = {
    "camvid": dict(enumerate(
        ("sky", "building", "pole", "road", "sidewalk", "vegetation", "traffic sign", "fence", "car", "person", "rider",
         "void"))),
    "idd_lite": dict(enumerate(
        ("drivable", "non drivable", "living thing", "vehicle", "roadside object", "far object", "sky"))),
    "idd_ids": dict(enumerate(_IDD)),
    "idd_level3_ids": dict(enumerate(_IDD_LEVEL3)),
    "synthia_ids": dict(enumerate(_SYNTHIA)),
    "street_hazards": dict(enumerate(_STREET_HAZARDS)),
    "mapillary_v12": dict(enumerate(_MAPILLARY_V12)),
    "mapillary_v20": dict(enumerate(_MAPILLARY_V20)),
    "cityscapes_ids": {raw % 256: name for raw, name in _CITYSCAPES.items()},
    # Playing for Data, whose number plates have an id of their own.
    "gta5_ids": {raw: name for raw, name in _CITYSCAPES.items() if raw >= 0} | {34: "license plate"},
    "cityscapes_train_ids": dict(enumerate(_CITYSCAPES_TRAIN)) | {255: "void"},
    # CARLA 0.9.0 … 0.9.13; the older 0.8 has the first 13 only and calls the sky "none" (0).
    "carla_ids": dict(enumerate(_CARLA)),
    # CARLA 0.9.14 and later starts with the 19 classes of Cityscapes.
    "carla_0914_ids": {0: "void"} | {raw + 1: name for raw, name in enumerate(_CITYSCAPES_TRAIN)} | {
        20: "void", 21: "void", 22: "void", 23: "void", 24: "road", 25: "ground", 26: "bridge", 27: "rail track",
        28: "guard rail"},
    "road8": dict(enumerate(_ROAD8)) | {254: "anomaly"},
    "road_anomaly": {0: NORMAL, 2: "anomaly"},
    "binary": {0: NORMAL, 1: "anomaly"},
    "binary_0_255": {0: NORMAL, 255: "anomaly"},
    "lost_and_found_ids": {0: "void", 1: NORMAL} | dict.fromkeys(range(2, 201), "anomaly"),
    "unlabelled": {},
}  # fmt: skip
"""Label format → raw id → thing. 255 is void in every format that gives it no other meaning."""

for _table in FORMATS.values():
    _table.setdefault(255, "void")

LABEL_FORMATS: tuple[str, ...] = tuple(FORMATS)
"""Names of the label formats."""

_LAF_CATEGORIES = {
    "standard objects": range(2, 8),
    "random hazards": (*range(8, 22), 30, 32, 35),
    "emotional hazards": range(22, 30),
    "random non-hazards": (31, 33, 34, *range(36, 40)),
    "humans": range(40, 44),
}
CATEGORIES: dict[str, dict[int, str]] = {
    "lost_and_found_ids": {raw: name for name, ids in _LAF_CATEGORIES.items() for raw in ids}
}
"""Label format → raw id → category of an anomaly, where a data set has several (Lost and Found's table)."""

SPACES: dict[str, dict[str, int]] = {
    "cityscapes19": {name: i for i, name in enumerate(_CITYSCAPES_TRAIN)} | {
        "vehicle": 13, "pole_sign": INLIER, "drivable": 0, "non drivable": INLIER, "living thing": INLIER,
        "roadside object": INLIER, "far object": INLIER,
        "non-drivable fallback": 9, "mountain": INLIER, "snow": INLIER, "water": INLIER},
    "idd7": {
        "road": 0, "parking": 0, "drivable": 0,
        "sidewalk": 1, "rail track": 1, "terrain": 1, "non drivable": 1,
        "person": 2, "rider": 2, "living thing": 2,
        "vehicle": 3, "car": 3, "truck": 3, "bus": 3, "caravan": 3, "trailer": 3, "train": 3, "motorcycle": 3,
        "bicycle": 3,
        "wall": 4, "fence": 4, "guard rail": 4, "pole": 4, "polegroup": 4, "traffic light": 4, "traffic sign": 4,
        "pole_sign": 4, "roadside object": 4,
        "building": 5, "bridge": 5, "tunnel": 5, "vegetation": 5, "far object": 5,
        "sky": 6,
        # IDD's level 1, which counts the "fallback background" to the sky.
        "drivable fallback": 0, "non-drivable fallback": 1, "animal": 2, "autorickshaw": 3, "vehicle fallback": 3,
        "curb": 4, "billboard": 4, "structure fallback": 4, "fallback background": 6,
        "mountain": 5, "snow": INLIER, "water": INLIER},
    "road8": {name: i for i, name in enumerate(_ROAD8)} | {
        "drivable": 0, "parking": 0,
        "rail track": INLIER, "non drivable": INLIER,
        "wall": 2, "bridge": 2, "tunnel": 2, "fence": INLIER, "guard rail": INLIER,
        "terrain": 3,
        "car": 5, "truck": 5, "bus": 5, "caravan": 5, "trailer": 5, "train": 5, "motorcycle": 5, "bicycle": 5,
        "rider": 6, "living thing": INLIER,
        "pole": 7, "polegroup": 7, "traffic light": 7, "traffic sign": 7, "roadside object": INLIER,
        "far object": INLIER,
        "drivable fallback": 0, "non-drivable fallback": INLIER, "curb": INLIER, "autorickshaw": 5,
        "vehicle fallback": 5, "billboard": INLIER, "structure fallback": INLIER,
        "mountain": INLIER, "snow": INLIER, "water": INLIER},
}  # fmt: skip
"""Class space → thing → train id. A thing that a space does not list is void there."""

_ALWAYS = {NORMAL: INLIER, "anomaly": ANOMALY, "void": VOID}
_MOST_ANOMALIES = 0.7
"""Of the judged pixels of a set; 33 photographs of RoadAnomaly, whose objects are large, have 0.09."""


def shown_by(label_format: str) -> dict[int, str]:
    """Raw id → thing, of a format; for legends.

    Raises:
        ConfigError: no such format.
    """
    return dict(_format(label_format))


def known_ids(label_format: str) -> frozenset[int]:
    """The raw ids that labels of this format may hold, 255 included.

    Raises:
        ConfigError: no such format.
    """
    return frozenset(_format(label_format))


def void_ids(label_format: str) -> frozenset[int]:
    """The raw ids of this format that mean "not judged".

    Raises:
        ConfigError: no such format.
    """
    return frozenset(raw for raw, name in _format(label_format).items() if name == "void")


@dataclass(frozen=True)
class ClassSpace:
    """Classes of one's own.

    Attributes:
        based_on: a known class space; None: only what `ids` lists can be read.
        classes: train id of `based_on` → train id here (or 253 … 255).
        ids: label format → raw id → train id here (or 253 … 255), on top of what `based_on` says.
    """

    based_on: str | None = None
    classes: Mapping[int, int] = field(default_factory=dict)
    ids: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


def lookup_table(label_format: str, class_space: str | ClassSpace) -> np.ndarray:
    """Table of 256 bytes: raw id → train id 0…C-1, 253 (normal, class unknown), 254 (anomaly) or 255 (void).

    Args:
        label_format: as a manifest records it.
        class_space: one of `SPACES`, or classes of one's own.

    Returns:
        uint8[256], read-only. Ids that the format does not know read as void.

    Raises:
        ConfigError: no such format or class space, or a class space that cannot read the format.
    """
    table = np.full(256, VOID, np.uint8)
    for raw, train_id in mapped_ids(label_format, class_space).items():
        table[raw] = train_id
    table.setflags(write=False)
    return table


def mapped_ids(label_format: str, class_space: str | ClassSpace) -> dict[int, int]:
    """Train id of every raw id that labels of this format may hold; see `lookup_table`."""
    if isinstance(class_space, ClassSpace):
        return _mapped_to_own(label_format, class_space)
    names = _format(label_format)
    if class_space not in SPACES:
        raise ConfigError("class_space", f"no class space {class_space!r}", f"choose one of {', '.join(SPACES)}")
    if is_own(label_format):
        remedy = f"say what they are in data.class_space: names, and ids of {label_format}"
        raise ConfigError("class_space", f"{class_space} does not know labels of format {label_format}", remedy)
    train_ids = SPACES[class_space] | _ALWAYS
    return {raw: train_ids.get(name, VOID) for raw, name in names.items()}


def _mapped_to_own(label_format: str, space: ClassSpace) -> dict[int, int]:
    names = _format(label_format)
    own = space.ids.get(label_format, {})
    if space.based_on is not None and not is_own(label_format):
        below = mapped_ids(label_format, space.based_on)
        return {raw: space.classes.get(train_id, train_id) for raw, train_id in below.items()} | dict(own)
    if own:
        return {255: VOID} | dict(own)
    if is_own(label_format) or not set(names.values()) <= _ALWAYS.keys():
        remedy = f"list them in data.class_space.ids.{label_format}, or give data.class_space.based_on"
        raise ConfigError("class_space", f"nothing says which class the ids of {label_format} are", remedy)
    return {raw: _ALWAYS[name] for raw, name in names.items()}


def train_names(class_names: Sequence[str]) -> dict[int, str]:
    """Train id → name, and the names of 253, 254, 255; for legends."""
    return dict(enumerate(class_names)) | {train_id: name for name, train_id in _ALWAYS.items()}


def doubtful_labels(label_format: str, histogram: Mapping[int, int]) -> tuple[str, str] | None:
    """A problem and its remedy, if the labels of a whole data set look like those of another format, or inverted.

    Args:
        label_format: as which they are read.
        histogram: pixels per raw id.

    Raises:
        ConfigError: no such format.
    """
    names, ids = _format(label_format), {raw for raw, count in histogram.items() if count}
    is_mask = set(names.values()) <= _ALWAYS.keys() and "anomaly" in names.values()
    if 255 in ids and ids <= {0, 255} and set(names.values()) == _ALWAYS.keys():
        problem = f"only the ids 0 and 255 occur, and 255 is void in {label_format}: no anomaly is in the labels"
        return problem, "if 255 is the anomaly, choose the label format binary_0_255"
    train_ids = set(range(len(_CITYSCAPES_TRAIN)))
    if label_format in ("cityscapes_ids", "gta5_ids") and 255 in ids and ids - {255} <= train_ids:
        problem = "only ids of 0 to 18 and 255 occur, which are the train ids of Cityscapes"
        return f"{problem}: in {label_format} each is another class", "choose the label format cityscapes_train_ids"
    anomaly = sum(count for raw, count in histogram.items() if names.get(raw) == "anomaly")
    judged = anomaly + sum(count for raw, count in histogram.items() if names.get(raw) == NORMAL)
    if is_mask and anomaly > _MOST_ANOMALIES * judged:
        ids_in_words = ", ".join(str(raw) for raw, name in names.items() if name == "anomaly" and raw in ids)
        problem = f"{anomaly / judged:.0%} of the judged pixels are anomalies (id {ids_in_words})"
        return problem, "if the masks are inverted, write them with the anomalies' id on the anomalies"
    return None


def is_own(label_format: str) -> bool:
    """Is this the name of a label format of the user's own?"""
    return label_format == OWN or (label_format.startswith(f"{OWN}_") and label_format.isidentifier())


def _format(label_format: str) -> dict[int, str]:
    if is_own(label_format):
        return {raw: f"id {raw}" for raw in range(255)} | {255: "void"}
    if label_format not in FORMATS:
        choice = near_or_all(label_format, (*LABEL_FORMATS, OWN))
        own = f"{OWN} or {OWN}_NAME are ids of your own, which the class space of the configuration explains"
        raise ConfigError("label_format", f"no label format {label_format!r}", f"{choice}; {own}")
    return FORMATS[label_format]
