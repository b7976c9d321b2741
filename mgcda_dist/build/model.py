"""Configuration → network, training module, optimizer, and the exported model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mgcda_dist.choices import OutlierKind, outlier_entry
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import CheckpointError, ConfigError
from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.cacl import CACL, Budget, Selection
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mdat import MDAT, LabelSmoothing
from mgcda_dist.method.mdat.receptive_field import reach_px
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.method.teacher import Teacher
from mgcda_dist.references import PREFIX

if TYPE_CHECKING:
    from mgcda_dist.models.exported import ModelMetadata
    from mgcda_dist.models.heads import AnySegmenter, Heads, HeadSpec
    from mgcda_dist.models.segmentation_loss import OutlierLoss

__all__ = [
    "check_pairs",
    "check_stages",
    "dropped_heads",
    "load_model",
    "mgcda",
    "model_text",
    "save_model",
    "segmenter",
]


def segmenter(config: Config, weights: str | None = None) -> AnySegmenter:
    """The bare network of a configuration; `weights` overrides what it starts from."""
    from mgcda_dist.models.exported import bare_segmenter
    from mgcda_dist.models.start import check_digest, copy_part, start_from

    wanted = weights or config.model.weights
    kind, _, place = wanted.partition(":")
    if config.model.weights_sha256 is not None and kind in ("file", "run"):
        check_digest(Path(place), config.model.weights_sha256)
    made = bare_segmenter(**_architecture(config), weights="none" if kind == "run" else wanted, seed=config.seed)
    if kind == "run":
        start_from(made, Path(place), config.data.class_names)
    for number, copy in enumerate(config.model.copies):
        copy_part(made, copy.source, copy.target, f"model.copies.{number}")
    return made


def _architecture(config: Config) -> dict[str, Any]:
    """`ModelMetadata.architecture` of a configuration."""
    model = config.model
    common: dict[str, Any] = {
        "norm": model.norm,
        "num_classes": len(config.data.class_names),
        "columns": list(_columns(config)),
        "heads": _heads(config, kept=True),
    }
    if model.network is None:
        return {"backbone": model.backbone, "decoder_channels": model.decoder_channels, **common}
    from mgcda_dist.models.networks import portable_arguments

    network = {
        "name": model.network,
        "arguments": portable_arguments(model.network, model.arguments),
        "taps": model.taps.model_dump(mode="json", exclude_none=True) if model.taps else None,
        "head_norm": model.head_norm,
    }
    return {"network": network, **common}


def _columns(config: Config) -> tuple[str, ...]:
    """Names of the logits behind those of the inlier classes."""
    from mgcda_dist.models.segmentation_loss import columns_of

    return columns_of(_outlier_loss(config))


def _heads(config: Config, *, kept: bool) -> dict[str, HeadSpec]:
    """Heads that are part of the exported network, or those that are dropped."""
    return {
        head.name: {"use": head.use, "stage": head.stage, "arguments": head.arguments, "detached": head.detached}
        for head in config.model.heads
        if head.kept == kept
    }


def check_pairs(config: Config, network: AnySegmenter, dropped: nn.Module | None = None) -> None:
    """Raise `ConfigError` for an outlier loss or a score that is not defined on what this network gives.

    A loss and a score of the user's own are tried on a small example.

    Args:
        dropped: heads that are not part of the network.
    """
    from mgcda_dist.models.compatibility import check_loss, check_score
    from mgcda_dist.models.external_loss import example, try_loss
    from mgcda_dist.models.external_score import try_score
    from mgcda_dist.models.scores import scorer
    from mgcda_dist.models.segmentation_loss import CLASSIFICATION, reads_of

    logits, loss = network.logit_kind, _outlier_loss(config)
    check_loss(config.loss.outlier, logits, _limits(config))
    check_score(config.model.score, logits, config.loss.outlier)
    for head in config.model.heads:
        if head.name not in reads_of(loss):
            problem = f"nothing trains it: the loss {config.loss.outlier} does not read it"
            raise ConfigError(
                f"model.heads, {head.name}", problem, "name it in the `reads` of a loss of your own, or remove it"
            )
    score = scorer(config.model.score) if config.model.score.startswith(PREFIX) else None
    if isinstance(loss, str) and score is None:
        return
    if not isinstance(loss, str) and CLASSIFICATION in loss.terms and config.loss.class_weights:
        problem = f"{config.loss.outlier} takes the place of the cross-entropy that they are factors of"
        raise ConfigError("loss.class_weights", problem, "remove them (null, where a `base` has them)")
    exported, whole = _extras(network, dropped) if reads_of(loss) or (score and score.reads) else ({}, {})
    channels, num_classes = network.stage_channels, len(config.data.class_names)
    if not isinstance(loss, str):
        try_loss(loss, num_classes, channels, logits, whole)
    if score is not None:
        try_score(score, example(num_classes, channels, exported)[0])


def _extras(network: AnySegmenter, dropped: nn.Module | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Extras of one image: those of the exported network, and with those of dropped heads."""
    device, training = next(network.parameters()).device, network.training
    with torch.no_grad():
        prediction: Prediction = network.eval()(torch.zeros(1, 3, *network.example_size, device=device))
        whole: Prediction = prediction if dropped is None else dropped(prediction)
    network.train(training)
    return prediction.extra, whole.extra


def _outlier_loss(config: Config) -> OutlierKind | OutlierLoss:
    """The name of an outlier loss, or the user's own."""
    name = config.loss.outlier
    if not name.startswith(PREFIX):
        return cast(OutlierKind, name)
    from mgcda_dist.models.external_loss import external_loss

    return external_loss(name, config.loss.arguments)


def _limits(config: Config) -> dict[str, float]:
    """Limits of the outlier loss, by name."""
    return {name: getattr(config.loss, name) for name in outlier_entry(config.loss.outlier).limits}


def check_stages(config: Config, network: AnySegmenter) -> None:
    """Raise `ConfigError` for a discriminated stage that the network does not have."""
    if not config.mdat.enabled:
        return
    for stage in config.mdat.stages:
        if stage.name not in network.stage_channels:
            raise ConfigError(
                "mdat.stages",
                f"{config.model.shown!r} has no stage {stage.name!r}",
                f"it has {', '.join(network.stage_channels)}",
            )


def _trained_outputs(config: Config) -> list[str]:
    """Outputs of a prediction that the losses read; parameters that none of them depends on get no gradient."""
    from mgcda_dist.models.segmentation_loss import reads_of

    names = {"logits"} | ({"embedding"} if config.cacl.enabled else set())
    names |= {stage.name for stage in config.mdat.stages} if config.mdat.enabled else set()
    heads = config.model.heads
    dropped = {head.name for head in heads if not head.kept}
    names |= {f"extra:{name}" for name in reads_of(_outlier_loss(config)) if name not in dropped}
    names |= {head.stage for head in heads if not head.kept and not head.detached}
    return sorted(names)


def dropped_heads(config: Config, network: AnySegmenter) -> Heads | None:
    """Heads that a loss reads and that are no part of the exported network; None: there are none."""
    specs = _heads(config, kept=False)
    if not specs:
        return None
    from mgcda_dist.models.heads import make_heads

    return make_heads(specs, network.stage_channels, config.seed, "model.heads")


def mgcda(config: Config, collectives: Collectives | None = None, *, tried: bool = True) -> MGCDA:
    """The training module: segmenter, losses, MDAT, CACL; equal on every rank.

    Args:
        tried: refuse a loss and a score that `check_pairs` does.
    """
    from mgcda_dist.models.activations import checkpoint_activations
    from mgcda_dist.models.adapters import AdaptedSegmenter
    from mgcda_dist.models.compiling import compile_blocks
    from mgcda_dist.models.folding import fold_norms
    from mgcda_dist.models.freezing import freeze
    from mgcda_dist.models.invariants import check_compiles, freeze_unused
    from mgcda_dist.models.scores import scorer
    from mgcda_dist.models.seeding import seeded
    from mgcda_dist.models.segmentation_loss import segmentation_loss

    network = segmenter(config)
    frozen = freeze(network, config.optim.frozen_patterns(network.backbone_parts), "optim.freeze")
    heads = dropped_heads(config, network)
    if tried:
        check_pairs(config, network, heads)
    check_stages(config, network)
    freeze_unused(network, _trained_outputs(config), network.example_size)
    if config.engine.activation_checkpointing:
        checkpoint_activations(network, "engine.activation_checkpointing")
    if config.engine.fold_norm:
        fold_norms(network, network.example_size, "engine.fold_norm")
    channels = network.stage_channels
    num_domains, num_classes = len(config.data.domains), len(config.data.class_names)
    mdat = cacl = None
    if config.mdat.enabled:
        with seeded(config.seed, "mdat"):
            mdat = _mdat(config, network)
    if config.cacl.enabled:
        with seeded(config.seed, "cacl"):
            cacl = _cacl(config, channels["embedding"], num_domains, num_classes, collectives or Collectives())
    loss = config.loss
    model = MGCDA(
        network,
        segmentation_loss(
            _outlier_loss(config),
            num_classes,
            outlier_weight=loss.outlier_weight,
            limits=_limits(config),
            logits=network.logit_kind,
            class_weights=[loss.class_weights.get(name, 1.0) for name in config.data.class_names]
            if loss.class_weights
            else None,
        ),
        scorer(config.model.score),
        mdat=mdat,
        cacl=cacl,
        teacher=_teacher(config, network) if config.teacher.enabled else None,
        heads=heads,
        frozen=frozen,
        segmentation_weight=1.0 if loss.enabled else 0.0,
        mdat_weight=config.mdat.weight,
        cacl_weight=config.cacl.weight,
        mdat_warmup=config.mdat.warmup,
        cacl_warmup=config.cacl.warmup,
        teacher_weight=config.teacher.weight,
        teacher_outlier_weight=config.teacher.outlier_weight,
        teacher_warmup=config.teacher.warmup,
        teacher_contrast=config.teacher.contrast,
        seed=config.seed,
        collectives=collectives,
    )
    if model.mdat is not None or model.teacher is not None:
        model.stage_sizes(*config.data.crop_px)
    if config.model.compile:
        check_compiles(network)
        adapted = [module for module in network.modules() if isinstance(module, AdaptedSegmenter)]
        for module in adapted:
            module.keep_taps()
        compile_blocks(network, network.example_size)
    return model


def _teacher(config: Config, network: nn.Module) -> Teacher:
    section = config.teacher
    limits = {"confidence": section.confidence, "score_quantile": section.score_quantile}
    return Teacher(segmenter(config, "none"), network, section.decay, **limits)


def _mdat(config: Config, network: AnySegmenter) -> MDAT:
    section, domains = config.mdat, config.data.domains
    mdat = MDAT(
        {stage.name: network.stage_channels[stage.name] for stage in section.stages},
        len(domains),
        stage_weights=[stage.weight for stage in section.stages],
        smoothing=LabelSmoothing(section.smoothing.mode, section.smoothing.epsilon),
        lambda_max=section.lambda_max,
        channels=section.channels,
        momentum=section.smoothing.momentum,
        target=section.target,
        condition=section.condition,
        certainty=section.certainty,
        num_classes=len(config.data.class_names),
        mask_anomalies=section.mask_anomalies,
        domain_names=domains,
    )
    if section.mask_width == "receptive_field":
        mdat.reach_px = _reaches(mdat, network, config.data.crop_px)
    return mdat


def _reaches(mdat: MDAT, network: nn.Module, size: tuple[int, int]) -> list[int]:
    """Pixels that a location of each discriminator sees around itself, in the network as it is before training."""

    def cells(stage: str, image: torch.Tensor) -> torch.Tensor:
        prediction: Prediction = network(image)
        return mdat.answer(stage, prediction.stages[stage], prediction.logits).logits

    training = network.training
    network.eval()
    reaches = [reach_px(partial(cells, stage), *size) for stage in mdat.stages]
    network.train(training)
    return reaches


def _cacl(config: Config, embedding_dim: int, num_domains: int, num_classes: int, world: Collectives) -> CACL:
    section = config.cacl
    return CACL(
        embedding_dim,
        num_domains,
        Budget(
            num_classes,
            anomaly_pixels=section.anomaly_pixels,
            inlier_pixels=section.inlier_pixels,
            hard_fraction=section.hard_fraction,
            image_aware=section.image_aware,
        ),
        Selection(
            num_positives=section.num_positives,
            num_negatives=section.num_negatives,
            hard_negative_fraction=section.hard_negative_fraction,
            cross_domain=section.cross_domain,
            negatives=section.negatives,
            positives=section.positives,
            negatives_by=section.negatives_by,
        ),
        projection_dim=section.projection_dim,
        temperature=section.temperature,
        balance=section.balance,
        contrast=section.contrast,
        distribution_momentum=section.distribution_momentum,
        queue_rows=section.queue_rows,
        queue_rows_per_image=section.queue_rows_per_image,
        queue_shard=(world.rank, world.size) if section.queue_layout == "sharded" else None,
        unlabelled_confidence=section.unlabelled_confidence,
        max_rows=section.max_rows,
        gather_dtype=section.gather_dtype,
        seed=config.seed,
    )


def save_model(config: Config, network: nn.Module, folder: Path) -> None:
    """Write the bare segmenter: `model.safetensors`, and `model.json` with all that is needed to rebuild and use it."""
    from mgcda_dist.models.exported import save_segmenter

    save_segmenter(network, _metadata(config), folder)


def model_text(config: Config) -> str:
    """The content of `model.json`, as `save_model` writes it."""
    return _metadata(config).as_text()


def _metadata(config: Config) -> ModelMetadata:
    from mgcda_dist.models.exported import ModelMetadata

    return ModelMetadata(
        name=config.name,
        architecture=_architecture(config),
        class_names=config.data.class_names,
        score=config.model.score,
        height_px=config.evaluation.height_px,
        longest_side_px=config.evaluation.longest_side_px,
        config=config.model_dump(mode="json"),
    )


def load_model(folder: Path) -> tuple[Config, AnySegmenter]:
    """The configuration and the segmenter that `save_model` wrote, strictly loaded, in evaluation mode."""
    from mgcda_dist.models.exported import load_segmenter, read_metadata

    metadata = read_metadata(folder)
    try:
        config = Config.model_validate(metadata.config)
    except ValueError as error:
        raise CheckpointError(
            str(folder), f"not an exported model: {error}", "give a run folder, a checkpoint, or its folder `model/`"
        ) from None
    return config, load_segmenter(folder)[1]
