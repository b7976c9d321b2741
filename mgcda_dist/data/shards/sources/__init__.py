"""The datasets that `mgcda shards write` reads, one file per family of layouts, imported when one is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mgcda_dist.data.shards.sources.source import Source

__all__ = ["SOURCES"]


class _Sources(Mapping[str, "Source"]):
    """Name → reader; the names are known without an import, since `--help` lists them."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Source:
        return resolve_name(f"{__name__}.{self._places[name]}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


SOURCES = _Sources(
    {
        "acdc": "acdc:ACDC",
        "bdd100k": "bdd100k:BDD100K",
        "camvid": "camvid:CAMVID",
        "carla": "carla:CARLA",
        "cityscapes": "cityscapes:CITYSCAPES",
        "coco": "coco:COCO",
        "fishyscapes_lost_and_found": "fishyscapes:FISHYSCAPES_LOST_AND_FOUND",
        "fishyscapes_static": "fishyscapes:FISHYSCAPES_STATIC",
        "gta5": "plain:GTA5",
        "idd": "idd:IDD",
        "idd_lite": "cityscapes:IDD_LITE",
        "lost_and_found": "cityscapes:LOST_AND_FOUND",
        "mapillary": "mapillary:MAPILLARY",
        "road_anomaly": "plain:ROAD_ANOMALY",
        "road_anomaly21": "smiyc:ROAD_ANOMALY_21",
        "road_obstacle21": "smiyc:ROAD_OBSTACLE_21",
        "street_hazards": "street_hazards:STREET_HAZARDS",
        "synthia": "synthia:SYNTHIA",
        "plain": "plain:PLAIN",
    }
)
"""Name of a dataset → its reader, written as `FILE:CONSTANT`."""
