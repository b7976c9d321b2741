"""Composition root: configuration → objects. Components take plain arguments; only this package translates."""

from mgcda_dist.build.callbacks import callbacks, check_callbacks, methods_of
from mgcda_dist.build.data import (
    class_space,
    global_batches,
    own_augmentations,
    road_ids,
    run_inputs,
    scene_batches,
    training_stream,
)
from mgcda_dist.build.evaluation import (
    evaluation_frames,
    evaluation_job,
    maps_job,
    preview_job,
    validation_job,
)
from mgcda_dist.build.model import (
    check_pairs,
    check_stages,
    dropped_heads,
    load_model,
    mgcda,
    model_text,
    save_model,
    segmenter,
)
from mgcda_dist.build.optimizer import learning_in_words, optimizer

__all__ = [
    "callbacks",
    "check_callbacks",
    "check_pairs",
    "check_stages",
    "class_space",
    "dropped_heads",
    "evaluation_frames",
    "evaluation_job",
    "global_batches",
    "learning_in_words",
    "load_model",
    "maps_job",
    "methods_of",
    "mgcda",
    "model_text",
    "optimizer",
    "own_augmentations",
    "preview_job",
    "road_ids",
    "run_inputs",
    "save_model",
    "scene_batches",
    "segmenter",
    "training_stream",
    "validation_job",
]
