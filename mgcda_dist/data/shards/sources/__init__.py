"""The datasets that `mgcda shards write` reads, one file per family of layouts."""

from __future__ import annotations

from mgcda_dist.data.shards.sources.acdc import ACDC
from mgcda_dist.data.shards.sources.bdd100k import BDD100K
from mgcda_dist.data.shards.sources.camvid import CAMVID
from mgcda_dist.data.shards.sources.carla import CARLA
from mgcda_dist.data.shards.sources.cityscapes import CITYSCAPES, IDD_LITE, LOST_AND_FOUND
from mgcda_dist.data.shards.sources.coco import COCO
from mgcda_dist.data.shards.sources.fishyscapes import FISHYSCAPES_LOST_AND_FOUND, FISHYSCAPES_STATIC
from mgcda_dist.data.shards.sources.idd import IDD
from mgcda_dist.data.shards.sources.mapillary import MAPILLARY
from mgcda_dist.data.shards.sources.plain import GTA5, PLAIN, ROAD_ANOMALY
from mgcda_dist.data.shards.sources.smiyc import ROAD_ANOMALY_21, ROAD_OBSTACLE_21
from mgcda_dist.data.shards.sources.source import Source, SourceSet
from mgcda_dist.data.shards.sources.street_hazards import STREET_HAZARDS
from mgcda_dist.data.shards.sources.synthia import SYNTHIA

__all__ = ["SOURCES", "Source", "SourceSet"]

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        CAMVID,
        IDD_LITE,
        CITYSCAPES,
        COCO,
        ROAD_ANOMALY,
        LOST_AND_FOUND,
        GTA5,
        CARLA,
        BDD100K,
        IDD,
        ACDC,
        SYNTHIA,
        STREET_HAZARDS,
        MAPILLARY,
        ROAD_ANOMALY_21,
        ROAD_OBSTACLE_21,
        FISHYSCAPES_LOST_AND_FOUND,
        FISHYSCAPES_STATIC,
        PLAIN,
    )
}
"""Name → reader."""
