"""Decision of every key of a configuration on resume: free, override or fixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from mgcda_dist.config.fields import OnResume
from mgcda_dist.config.keys import on_resume, section_of
from mgcda_dist.config.schema import Config

# `*`: a position in a list, or a name in a mapping.
EXPECTED = {
    OnResume.FREE: """
runs data.domains.*.shards data.domains.*.paste.objects data.loader_workers data.prefetch_steps
data.loader_timeout_s data.on_bad_sample data.max_bad_samples data.pin_memory model.compile
optim.max_skipped_in_a_row scaling.workers scaling.gpus_per_worker scaling.cpus_per_worker scaling.placement
scaling.elastic.min scaling.elastic.max scaling.elastic.every_s scaling.interface scaling.max_failures
scaling.hang_timeout_s scaling.node_wait_s checkpoint.every_steps checkpoint.keep checkpoint.asynchronous
checkpoint.best.set.name checkpoint.best.set.shards checkpoint.best.set.paste.objects
checkpoint.best.set.paste.probability checkpoint.best.set.paste.include.* checkpoint.best.set.paste.exclude.*
checkpoint.best.set.paste.min_objects checkpoint.best.set.paste.max_objects checkpoint.best.set.paste.scale.*
checkpoint.best.set.paste.flip checkpoint.best.set.paste.colour_match checkpoint.best.set.paste.border
checkpoint.best.set.paste.feather_px checkpoint.best.set.paste.placement checkpoint.best.set.max_frames
checkpoint.best.metric checkpoint.resume tracking.mlflow_uri tracking.experiment tracking.parent_run
tracking.register_model tracking.log_every_steps tracking.system_metrics tracking.report tracking.preview_frames
tracking.alignment_steps evaluation.sets.*.name evaluation.sets.*.shards evaluation.sets.*.paste.objects
evaluation.sets.*.paste.probability evaluation.sets.*.paste.include.* evaluation.sets.*.paste.exclude.*
evaluation.sets.*.paste.min_objects evaluation.sets.*.paste.max_objects evaluation.sets.*.paste.scale.*
evaluation.sets.*.paste.flip evaluation.sets.*.paste.colour_match evaluation.sets.*.paste.border
evaluation.sets.*.paste.feather_px evaluation.sets.*.paste.placement evaluation.sets.*.max_frames
evaluation.height_px evaluation.blur evaluation.scales.* evaluation.flip evaluation.window_px.*
evaluation.window_overlap evaluation.conventions.* evaluation.components evaluation.instances evaluation.threshold
evaluation.panel_frames evaluation.kept_frames
    """,
    OnResume.OVERRIDE: """
data.crop_px.* data.domains.*.per_step data.domains.*.labelled data.domains.*.paste.probability
data.domains.*.paste.include.* data.domains.*.paste.exclude.* data.domains.*.paste.min_objects
data.domains.*.paste.max_objects data.domains.*.paste.scale.* data.domains.*.paste.flip
data.domains.*.paste.colour_match data.domains.*.paste.border data.domains.*.paste.feather_px
data.domains.*.paste.placement data.augment.scale.* data.augment.reference_height_px data.augment.flip
data.augment.brightness data.augment.contrast data.augment.saturation data.augment.hue data.augment.blur model.score
loss.enabled loss.outlier loss.outlier_weight loss.class_weights.* loss.inlier_energy loss.outlier_energy
loss.inlier_rba loss.outlier_rba mdat.weight mdat.warmup mdat.lambda_max mdat.stages.*.weight mdat.smoothing.mode
mdat.smoothing.epsilon mdat.smoothing.momentum mdat.mask_anomalies cacl.weight cacl.warmup cacl.temperature
cacl.anomaly_pixels cacl.inlier_pixels cacl.hard_fraction cacl.image_aware cacl.num_positives cacl.num_negatives
cacl.hard_negative_fraction cacl.cross_domain cacl.negatives cacl.unlabelled_confidence optim.steps
optim.lr_backbone optim.lr_heads optim.lr_discriminators optim.weight_decay optim.momentum optim.schedule
optim.warmup optim.clip_norm engine.accumulation
    """,
    OnResume.FIXED: """
name seed data.class_space.names.* data.class_space.based_on data.class_space.map.* data.class_space.ids.*
data.class_space.road.* data.domains.*.name data.window_shards model.backbone model.network model.arguments.*
model.taps.stages.* model.taps.logits model.taps.embedding model.taps.backbone model.taps.mean.* model.taps.std.*
model.taps.multiple_px model.weights model.norm model.head_norm model.decoder_channels mdat.enabled
mdat.stages.*.name mdat.channels cacl.enabled cacl.projection_dim cacl.queue_rows cacl.queue_layout optim.optimizer
engine.zero_stage engine.precision
    """,
}
DECISIONS = [(key, decision) for decision, keys in EXPECTED.items() for key in keys.split()]


def _leaves(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted key of every value; `*` stands for positions in lists and names in mappings."""
    for name, info in section.model_fields.items():
        below, kinds = section_of(section, name), (info.annotation, *get_args(info.annotation))
        many = any(get_origin(kind) in (list, tuple, dict) for kind in kinds)
        key = f"{prefix}{name}" + (".*" if many else "")
        yield from [key] if below is None else _leaves(below, f"{key}.")


@pytest.mark.parametrize(("key", "expected"), DECISIONS, ids=[key for key, _ in DECISIONS])
def test_a_key_keeps_its_decision(key: str, expected: OnResume) -> None:
    assert on_resume(key.replace("*", "0")) is expected


def test_every_key_has_a_decision() -> None:
    undecided = [key for key in _leaves(Config) if on_resume(key.replace("*", "0")) is None]
    assert not undecided, f"annotate them with FREE, OVERRIDE or FIXED: {', '.join(undecided)}"


def test_the_expectation_names_keys_that_exist() -> None:
    assert {key for key, _ in DECISIONS} <= set(_leaves(Config))


def test_a_key_that_the_schema_does_not_know_has_the_decision_of_its_section() -> None:
    assert on_resume("tracking.of_an_older_version") is OnResume.FREE
    assert on_resume("mdat.of_an_older_version") is None
