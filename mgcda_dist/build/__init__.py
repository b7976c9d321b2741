"""Composition root: configuration → objects. Components take plain arguments; only this package translates."""

from mgcda_dist.build.data import (
    class_space,
    evaluation_frames,
    label_pixels,
    label_table,
    manifests,
    open_shards,
    road_ids,
    training_stream,
)
from mgcda_dist.build.model import (
    check_pairs,
    check_stages,
    load_model,
    mgcda,
    model_text,
    optimizer,
    save_model,
    segmenter,
)

__all__ = [
    "check_pairs",
    "check_stages",
    "class_space",
    "evaluation_frames",
    "label_pixels",
    "label_table",
    "load_model",
    "manifests",
    "mgcda",
    "model_text",
    "open_shards",
    "optimizer",
    "road_ids",
    "save_model",
    "segmenter",
    "training_stream",
]
