"""Checks of switches: keys that are set and do nothing, since another key switches off what they are about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mgcda_dist.choices import OUTLIER_LOSSES, CaclDefaults, MdatDefaults, TeacherDefaults, outlier_entry
from mgcda_dist.config.schema import Config

__all__ = ["idle"]


class _Switch(NamedTuple):
    """A switch that may do nothing: if it does nothing here, its key, the reason, and a remedy."""

    is_idle: bool
    key: str
    reason: str
    remedy: str


def idle(config: Config) -> Iterator[str]:
    """Warnings about keys that do nothing: none of them is as it is by default.

    A section that is off may keep its keys, as in a row of a comparison that leaves one term out. Those that choose
    another discriminator are named all the same: who sets them asks for MDAT.
    """
    for switch in (*_of_data(config), *_of_mdat(config), *_of_cacl(config), *_of_teacher(config)):
        if switch.is_idle:
            yield f"{switch.key}: {switch.reason}; {switch.remedy}"


def _of_data(config: Config) -> Iterator[_Switch]:
    augment = config.data.augment
    yield _Switch(
        augment.class_mix > 0 and _all_labelled(config),
        "data.augment.class_mix",
        "all streams are labelled, so no crop takes classes of another",
        "set labelled: false on one, or data.augment.class_mix=0",
    )
    yield _Switch(
        augment.style > 0 and len(config.data.domains) < 2,
        "data.augment.style",
        f"crops take the look of another domain, and all streams show {', '.join(config.data.domains)}",
        "name the domains of data.streams apart, or set data.augment.style=0",
    )


def _of_mdat(config: Config) -> Iterator[_Switch]:
    mdat = config.mdat
    for name in _changed(mdat, MdatDefaults, "condition", "certainty"):
        yield _Switch(not mdat.enabled, f"mdat.{name}", "MDAT is off", f"set mdat.enabled=true, or leave {name} out")
    yield _Switch(
        mdat.enabled and mdat.weight == 0,
        "mdat.weight",
        "it is 0, so neither discriminators nor features learn from MDAT, which costs its time",
        "raise it, or set mdat.enabled=false",
    )
    yield _Switch(
        mdat.enabled and mdat.weight > 0 and mdat.lambda_max == 0,
        "mdat.lambda_max",
        "it is 0, so the discriminators learn and the features are not aligned",
        "raise it, or set mdat.enabled=false",
    )
    for index, stage in enumerate(mdat.stages):
        yield _Switch(
            mdat.enabled and mdat.weight > 0 and stage.weight == 0,
            f"mdat.stages.{index}.weight",
            f"it is 0, so the discriminator of {stage.name} learns nothing and aligns nothing",
            "raise it, or remove the stage",
        )
    yield _Switch(
        mdat.enabled and mdat.mask_width == "receptive_field" and not mdat.mask_anomalies,
        "mdat.mask_width",
        "mdat.mask_anomalies is false, so nothing is masked at any width",
        "set mdat.mask_anomalies=true, or mdat.mask_width=cell",
    )


def _of_cacl(config: Config) -> Iterator[_Switch]:
    cacl = config.cacl
    if not cacl.enabled:
        return
    yield _Switch(
        cacl.weight == 0,
        "cacl.weight",
        "it is 0, so nothing is learned from CACL, which costs its time",
        "raise it, or set cacl.enabled=false",
    )
    yield _Switch(
        not cacl.cross_domain and len(config.data.domains) < 2,
        "cacl.cross_domain",
        f"all streams show {', '.join(config.data.domains)}, so every positive is of one domain either way",
        "leave it out, or name the domains of data.streams apart",
    )
    yield _Switch(
        cacl.unlabelled_confidence is not None and _all_labelled(config),
        "cacl.unlabelled_confidence",
        "all streams are labelled, so no image is one that it is about",
        "set labelled: false on one, or cacl.unlabelled_confidence=null",
    )
    yield _Switch(
        cacl.unlabelled_confidence == 1 and not _all_labelled(config),
        "cacl.unlabelled_confidence",
        "no probability exceeds 1, so no pixel counts as an inlier",
        "lower it, for example to 0.9, or set it to null",
    )
    if cacl.contrast == "distribution":
        names = ("queue_rows", "num_positives", "num_negatives", "hard_negative_fraction")
        for name in _changed(cacl, CaclDefaults, *names):
            reason = "cacl.contrast=distribution has neither a queue nor a choice of rows"
            yield _Switch(True, f"cacl.{name}", reason, "leave it out, or set cacl.contrast=rows")
        return
    yield _Switch(
        cacl.negatives_by == "similarity" and round(cacl.num_negatives * cacl.hard_negative_fraction) == 0,
        "cacl.negatives_by",
        f"similarity chooses the share cacl.hard_negative_fraction={cacl.hard_negative_fraction:g} of "
        f"{cacl.num_negatives} negatives, which is none",
        "raise cacl.hard_negative_fraction, or leave negatives_by out",
    )
    yield _Switch(
        cacl.queue_rows == 0 and cacl.queue_rows_per_image is not None,
        "cacl.queue_rows_per_image",
        "cacl.queue_rows is 0, so there is no memory for them to enter",
        "raise cacl.queue_rows, or set cacl.queue_rows_per_image=null",
    )


def _of_teacher(config: Config) -> Iterator[_Switch]:
    teacher, outlier = config.teacher, config.loss.outlier
    if not teacher.enabled:
        return
    asks = teacher.is_asked and not _all_labelled(config)
    suited = ", ".join(name for name, entry in OUTLIER_LOSSES.items() if entry.any_inlier)
    yield _Switch(
        teacher.outlier_weight > 0 and teacher.weight == 0,
        "teacher.outlier_weight",
        "it is multiplied by teacher.weight, which is 0",
        "raise that, or set teacher.outlier_weight=0",
    )
    yield _Switch(
        teacher.outlier_weight > 0 and not outlier_entry(outlier).any_inlier,
        "teacher.outlier_weight",
        f"loss.outlier={outlier} has no side for inliers of unknown class, so nothing comes of it",
        f"set teacher.outlier_weight=0, or loss.outlier to one of {suited}",
    )
    yield _Switch(
        teacher.is_asked and _all_labelled(config),
        "teacher.enabled",
        "all streams are labelled, so the teacher has no image to label",
        "set labelled: false on one, or teacher.weight=0 and teacher.contrast=false for the average alone",
    )
    yield _Switch(
        teacher.contrast and not config.cacl.enabled,
        "teacher.contrast",
        "CACL is off, so nothing contrasts the pixels that the teacher labels",
        "set cacl.enabled=true, or teacher.contrast=false",
    )
    yield _Switch(
        asks and teacher.confidence == 1,
        "teacher.confidence",
        "hardly a probability is 1, so the teacher gives hardly a label",
        f"lower it, for example to {TeacherDefaults.confidence:g}",
    )
    yield _Switch(
        asks and teacher.score_quantile == 0,
        "teacher.score_quantile",
        "all but the least anomalous pixel of an image are above this quantile of its scores, and get no label",
        f"raise it, for example to {TeacherDefaults.score_quantile:g}",
    )


def _all_labelled(config: Config) -> bool:
    return all(stream.labelled for stream in config.data.streams)


def _changed(section: object, defaults: type, *names: str) -> list[str]:
    """Those of these keys that do not have their default."""
    return [name for name in names if getattr(section, name) != getattr(defaults, name)]
