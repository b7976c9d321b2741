"""Checks of what a run builds: networks, losses, scores and crops that do not fit the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.extras import need

if TYPE_CHECKING:
    from mgcda_dist.models.heads import AnySegmenter

__all__ = ["check_model", "doubts"]


def check_model(config: Config) -> list[str]:
    """Raise `ConfigError` for what a run could not build: network, weights, losses and scores, callbacks, trackers.

    Refused are a network or weights that do not exist, a norm that needs GPUs where none is used, losses and scores
    that do not suit it, callbacks that cannot be called, augmentations of one's own that are not functions of their
    draws, and trackers whose package is not installed. The network is made once and thrown away. One with a timm
    backbone is made on torch's `meta` device, without memory and without weights.

    Returns:
        What is doubtful, in words.
    """
    build.check_callbacks(config)
    _check_trackers(config)
    _check_for_gpus(config)
    found: list[str] = []
    for phase in config.training_phases:
        try:
            found += _check_network(phase.config)
        except ConfigError as error:
            if phase.is_last:
                raise
            raise ConfigError(
                f"phases.{phase.index} ({phase.name}), {error.where}", error.problem, error.remedy
            ) from error
    return list(dict.fromkeys(found))


def _check_network(config: Config) -> list[str]:
    """`check_model` of the network of one phase."""
    from mgcda_dist.models.activations import checkpoint_activations
    from mgcda_dist.models.backbone import check_backbone
    from mgcda_dist.models.invariants import check_compiles

    for change in build.own_augmentations(config.data):
        change.tried(config.data.crop_px, len(config.data.class_names))
    if config.model.backbone is not None:
        check_backbone(config.model.backbone, config.model.weights)
        network = _outline(config)
    else:
        network = build.segmenter(config)
    if config.model.compile:
        check_compiles(network)
    if config.engine.activation_checkpointing:
        checkpoint_activations(network, "engine.activation_checkpointing")
    build.check_stages(config, network)
    build.check_pairs(config, network, build.dropped_heads(config, network))
    if config.model.backbone is not None:
        return []
    _check_crop(config, network)
    return doubts(config, network)


def _check_trackers(config: Config) -> None:
    """Raise `MgcdaError` for a tracker whose package is not installed."""
    if config.tracking.tensorboard:
        need("tracking.tensorboard", "tensorboard")
    if config.tracking.wandb is not None:
        need("tracking.wandb", "wandb")


def _check_for_gpus(config: Config) -> None:
    """Raise `ConfigError` for what there is on GPUs alone, where none is used."""
    if config.engine.precision == "fp16" and config.scaling.gpus_per_worker == 0:
        raise ConfigError(
            "engine.precision",
            "'fp16' trains on GPUs only, and scaling.gpus_per_worker is 0",
            "set scaling.gpus_per_worker=1, or engine.precision=bf16, whose range is that of float32",
        )
    for key in ("norm", "head_norm"):
        if getattr(config.model, key) == "sync" and config.scaling.gpus_per_worker == 0:
            raise ConfigError(
                f"model.{key}",
                "'sync' trains on GPUs only, and scaling.gpus_per_worker is 0",
                f"set scaling.gpus_per_worker=1, or model.{key}=frozen (with pretrained weights) or group (without)",
            )


def _outline(config: Config) -> AnySegmenter:
    """The network with a timm backbone, of tensors without values."""
    with torch.device("meta"):
        return build.segmenter(config, weights="none")


def doubts(config: Config, network: nn.Module) -> list[str]:
    """Warnings about a network that can train, but badly."""
    from mgcda_dist.models.norm import norms_without_statistics

    unset, num_frozen = norms_without_statistics(network)
    if not unset:
        return []
    remedy = (
        ", or model.head_norm=group if it is the head's" if len(unset) < num_frozen and config.model.network else ""
    )
    return [
        f"{len(unset)} of {num_frozen} frozen batch norms of {config.model.shown} have no statistics (mean 0, variance "
        f"1) and normalise nothing, first {unset[0]}; give model.weights, or model.norm=group{remedy}"
    ]


def _check_crop(config: Config, network: AnySegmenter) -> None:
    """Try a crop that is smaller than the image the network was tried with: some pool away more than it has."""
    height, width = config.data.crop_px
    enough = network.example_size
    if height >= enough[0] and width >= enough[1]:
        return
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, height, width))
    except Exception as error:  # networks raise every kind
        raise ConfigError(
            "data.crop_px",
            f"{config.model.shown!r} does not take crops of {height}×{width}: {error}",
            f"{enough[0]}×{enough[1]} and more work",
        ) from error
