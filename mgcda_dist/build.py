"""Composition root: the only file that knows both the configuration and the classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mgcda_dist.build_data import label_table, open_shards, road_ids
from mgcda_dist.cacl import CACL, Budget, Selection
from mgcda_dist.collectives import Collectives
from mgcda_dist.config.data import DataConfig, PasteConfig
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import CheckpointError, ConfigError
from mgcda_dist.label_values import ANOMALY, VOID
from mgcda_dist.mdat import MDAT, LabelSmoothing
from mgcda_dist.mgcda import MGCDA

if TYPE_CHECKING:
    from mgcda_dist.data.frames import EvaluationFrames
    from mgcda_dist.data.loader import StreamLoader
    from mgcda_dist.data.paste import PasteSource
    from mgcda_dist.models.adapters import AdaptedSegmenter, LogitKind
    from mgcda_dist.models.segmenter import Segmenter

__all__ = [
    "check_model",
    "doubts",
    "evaluation_frames",
    "load_model",
    "manifests",
    "mgcda",
    "model_text",
    "optimizer",
    "save_model",
    "segmenter",
    "training_stream",
]


def segmenter(config: Config, weights: str | None = None) -> Segmenter | AdaptedSegmenter:
    """The bare network of a configuration; `weights` overrides where its backbone starts from."""
    from mgcda_dist.models.exported import bare_segmenter

    return bare_segmenter(**_architecture(config), weights=weights or config.model.weights, seed=config.seed)


def _architecture(config: Config) -> dict[str, Any]:
    model = config.model
    common: dict[str, Any] = {
        "norm": model.norm,
        "num_classes": len(config.data.class_names),
        "abstains": config.loss.outlier == "abstention",
    }
    if model.network is None:
        return {"backbone": model.backbone, "decoder_channels": model.decoder_channels, **common}
    from mgcda_dist.models.networks import settled_arguments

    network = {
        "name": model.network,
        "arguments": settled_arguments(model.network, model.arguments),
        "taps": model.taps.model_dump(mode="json", exclude_none=True) if model.taps else None,
        "head_norm": model.head_norm,
    }
    return {"network": network, **common}


def check_model(config: Config) -> list[str]:
    """Raise `ConfigError` for a network or weights that do not exist, or losses and scores that do not suit it.

    A timm backbone is looked up by name; a whole network is made once and thrown away, which finds wrong layers too.

    Returns:
        What is doubtful, in words.
    """
    from mgcda_dist.models.backbone import check_backbone

    if config.model.backbone is not None:
        check_backbone(config.model.backbone, config.model.weights)
        _check_pairs(config, "pixel")
        return []
    network = segmenter(config)
    _check_stages(config, network)
    _check_pairs(config, network.logit_kind)
    _check_crop(config, network)
    return doubts(config, network)


def doubts(config: Config, network: nn.Module) -> list[str]:
    """What lets a network train badly, and is no error, in words."""
    from mgcda_dist.models.norm import without_statistics

    unset, num_frozen = without_statistics(network)
    if not unset:
        return []
    remedy = (
        ", or model.head_norm=group if it is the head's" if len(unset) < num_frozen and config.model.network else ""
    )
    return [
        f"{len(unset)} of {num_frozen} frozen batch norms of {config.model.shown} have no statistics (mean 0, variance "
        f"1) and normalise nothing, first {unset[0]}; give model.weights, or model.norm=group{remedy}"
    ]


def _check_crop(config: Config, network: Segmenter | AdaptedSegmenter) -> None:
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


def _check_pairs(config: Config, logits: LogitKind) -> None:
    from mgcda_dist.models.pairs import check_loss, check_score

    check_loss(config.loss.outlier, logits, config.loss.inlier_energy)
    check_score(config.model.score, logits, config.loss.outlier)


def _check_stages(config: Config, network: Segmenter | AdaptedSegmenter) -> None:
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
    """What of a prediction the losses read: parameters that nothing of it depends on would get no gradient."""
    names = {"logits"} | ({"embedding"} if config.cacl.enabled else set())
    names |= {stage.name for stage in config.mdat.stages} if config.mdat.enabled else set()
    return sorted(names)


def mgcda(config: Config, collectives: Collectives | None = None) -> MGCDA:
    """The training module: segmenter, losses, MDAT, CACL; equal on every rank."""
    from mgcda_dist.models.laws import freeze_unused
    from mgcda_dist.models.scores import anomaly_score
    from mgcda_dist.models.seeded import seeded
    from mgcda_dist.models.segmentation_loss import segmentation_loss

    network = segmenter(config)
    _check_pairs(config, network.logit_kind)
    _check_stages(config, network)
    freeze_unused(network, _trained_outputs(config), network.example_size)
    channels = network.stage_channels
    num_domains, num_classes = len(config.data.domains), len(config.data.class_names)
    mdat = cacl = None
    if config.mdat.enabled:
        with seeded(config.seed, "mdat"):
            mdat = _mdat(config, channels, num_domains)
    if config.cacl.enabled:
        with seeded(config.seed, "cacl"):
            cacl = _cacl(config, channels["embedding"], num_domains, num_classes, collectives or Collectives())
    loss = config.loss
    if config.model.compile:
        network.compile()  # in place: the names of its tensors stay, and so does what a checkpoint holds
    return MGCDA(
        network,
        segmentation_loss(
            loss.outlier,
            outlier_weight=loss.outlier_weight,
            inlier_energy=loss.inlier_energy,
            outlier_energy=loss.outlier_energy,
            inlier_rba=loss.inlier_rba,
            outlier_rba=loss.outlier_rba,
            of_masks=network.logit_kind == "mask",
            class_weights=[loss.class_weights.get(name, 1.0) for name in config.data.class_names]
            if loss.class_weights
            else None,
        ),
        partial(anomaly_score, kind=config.model.score),
        mdat=mdat,
        cacl=cacl,
        segmentation_weight=1.0 if loss.enabled else 0.0,
        mdat_weight=config.mdat.weight,
        cacl_weight=config.cacl.weight,
        mdat_warmup=config.mdat.warmup,
        cacl_warmup=config.cacl.warmup,
        collectives=collectives,
    )


def _mdat(config: Config, channels: dict[str, int], num_domains: int) -> MDAT:
    section = config.mdat
    return MDAT(
        {stage.name: channels[stage.name] for stage in section.stages},
        num_domains,
        stage_weights=[stage.weight for stage in section.stages],
        smoothing=LabelSmoothing(section.smoothing.mode, section.smoothing.epsilon),
        lambda_max=section.lambda_max,
        channels=section.channels,
        momentum=section.smoothing.momentum,
        mask_anomalies=section.mask_anomalies,
    )


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
        ),
        projection_dim=section.projection_dim,
        temperature=section.temperature,
        queue_rows=section.queue_rows,
        queue_shard=(world.rank, world.size) if section.queue_layout == "sharded" else None,
        unlabelled_confidence=section.unlabelled_confidence,
        seed=config.seed,
    )


def optimizer(config: Config, model: MGCDA) -> torch.optim.Optimizer:
    """AdamW or SGD with one group per learning rate: backbone, heads (decoder, projection), discriminators.

    Each group carries its `name` and `base_lr`; the loop scales the latter by the schedule. Norms and biases are
    not decayed.
    """
    rates = {
        "backbone": config.optim.lr_backbone,
        "heads": config.optim.lr_heads,
        "discriminators": config.optim.lr_discriminators,
    }
    backbone: str = model.segmenter.backbone if isinstance(model.segmenter.backbone, str) else "backbone"
    pretrained = f"segmenter.{backbone}." if backbone else "nothing."
    grouped: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = "discriminators" if name.startswith("mdat.") else "backbone" if name.startswith(pretrained) else "heads"
        grouped.setdefault((group, parameter.ndim > 1), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "name": group if decayed else f"{group}_no_decay",
            "lr": rates[group],
            "base_lr": rates[group],
            "weight_decay": config.optim.weight_decay if decayed else 0.0,
        }
        for (group, decayed), parameters in grouped.items()
    ]
    if config.optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.optim.lr_heads, momentum=config.optim.momentum)
    return torch.optim.AdamW(groups, lr=config.optim.lr_heads)


def training_stream(config: Config, rank: int, world_size: int, *, start_step: int = 0) -> StreamLoader:
    """This rank's loader over the micro-batches from `start_step` to the last step."""
    from mgcda_dist.data.augment import AugmentParams, Transform
    from mgcda_dist.data.loader import DomainSource, TrainingStream, make_loader
    from mgcda_dist.data.plan import DomainPlan, Plan
    from mgcda_dist.data.reader import ShardReader

    data = config.data
    manifests = [open_shards(domain.shards, "frames") for domain in data.domains]
    plan = Plan(
        [DomainPlan(d.name, m.shard_sizes, d.per_step) for d, m in zip(data.domains, manifests, strict=True)],
        config.seed,
        data.window_shards,
    )
    # Nobody asks for the table of a domain whose labels are not read; its ids may be any.
    tables = {
        d.name: label_table(m, data) if d.labelled else np.full(256, VOID, np.uint8)
        for d, m in zip(data.domains, manifests, strict=True)
    }
    sources = [
        DomainSource(d.name, ShardReader(m), tables[d.name], d.labelled, _paste(d.paste, data))
        for d, m in zip(data.domains, manifests, strict=True)
    ]
    stream = TrainingStream(
        plan,
        sources,
        Transform(data.crop_px, AugmentParams(**data.augment.model_dump())),
        rank=rank,
        world_size=world_size,
        accumulation=config.engine.accumulation,
        start_step=start_step,
        num_steps=max(config.optim.steps - start_step, 0),
        on_bad_sample=data.on_bad_sample,
    )
    return make_loader(stream, data.loader_workers, data.prefetch_steps, data.pin_memory, data.loader_timeout_s)


def evaluation_frames(
    entry: EvaluationSetConfig, data: DataConfig | None, height_px: int | None = None, seed: int = 0
) -> EvaluationFrames:
    """The frames of one evaluation set.

    Args:
        entry: the set.
        data: has the class space; None: nobody asks for classes, only for anomaly, void, and the rest. No pasting then.
        height_px: height of the network's input; None: as is.
        seed: of pasted objects.
    """
    from mgcda_dist.data.frames import EvaluationFrames
    from mgcda_dist.data.labels import CATEGORIES, lookup_table

    manifest = open_shards(entry.shards, "frames")
    table = lookup_table(manifest.label_format, "cityscapes19") if data is None else label_table(manifest, data)
    anomalies = [raw for raw in manifest.label_histogram if table[raw] == ANOMALY]
    names = CATEGORIES.get(manifest.label_format, {})
    return EvaluationFrames(
        manifest,
        table,
        None if data is None else _paste(entry.paste, data),
        height_px,
        entry.max_frames,
        seed,
        {raw: names.get(raw, f"id {raw}") for raw in anomalies} if len(anomalies) > 1 else None,
    )


def manifests(config: Config) -> dict[str, dict[str, Any]]:
    """What the run reads, for the record: per domain and set, the manifest's identity.

    Raises:
        ShardError: a damaged manifest, or objects where frames are read, or the reverse.
    """
    folders = {f"train/{d.name}": d.shards for d in config.data.domains}
    folders |= {f"paste/{d.name}": d.paste.objects for d in config.data.domains if d.paste}
    folders |= {f"eval/{entry.name}": entry.shards for entry in config.evaluation.sets}
    folders |= {f"eval_paste/{entry.name}": entry.paste.objects for entry in config.evaluation.sets if entry.paste}
    if config.checkpoint.best is not None:
        entry = config.checkpoint.best.set
        folders[f"eval_validation/{entry.name}"] = entry.shards
        folders |= {f"eval_validation_paste/{entry.name}": entry.paste.objects} if entry.paste else {}
    found = {name: open_shards(folder, "objects" if "paste/" in name else "frames") for name, folder in folders.items()}
    return {
        name: {
            "folder": m.place,
            "dataset": m.dataset,
            "split": m.split,
            "samples": m.num_samples,
            "shards": m.num_shards,
            "digest": m.digest,
        }
        for name, m in found.items()
    }


def _paste(section: PasteConfig | None, data: DataConfig) -> PasteSource | None:
    if section is None:
        return None
    from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
    from mgcda_dist.data.reader import ShardReader
    from mgcda_dist.data.shards.categories import choose_objects

    manifest = open_shards(section.objects, "objects")
    library = ObjectLibrary(ShardReader(manifest), numbers=choose_objects(manifest, section.include, section.exclude))
    params = section.model_dump(exclude={"include", "exclude"})
    return PasteSource(library, PasteParams(**params, road=road_ids(data)))


def save_model(config: Config, network: nn.Module, folder: Path) -> None:
    """Write the bare segmenter: `model.safetensors`, and `model.json` with all that is needed to rebuild and use it."""
    from mgcda_dist.models.exported import save_segmenter

    save_segmenter(network, _model_facts(config), folder)


def model_text(config: Config) -> str:
    """The content of `model.json`, as `save_model` writes it."""
    from mgcda_dist.models.exported import facts_text

    return facts_text(_model_facts(config))


def _model_facts(config: Config) -> dict[str, Any]:
    return {
        "name": config.name,
        "architecture": _architecture(config),
        "class_names": list(config.data.class_names),
        "score": config.model.score,
        "height_px": config.evaluation.height_px,
        "config": config.model_dump(mode="json"),
    }


def load_model(folder: Path) -> tuple[Config, Segmenter | AdaptedSegmenter]:
    """The configuration and the segmenter that `save_model` wrote, strictly loaded, in evaluation mode."""
    from mgcda_dist.models.exported import load_segmenter, read_facts

    facts = read_facts(folder)
    try:
        config = Config.model_validate(facts["config"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            str(folder), f"not an exported model: {error}", "give a run folder, a checkpoint, or its `model` folder"
        ) from None
    return config, load_segmenter(folder)[1]
