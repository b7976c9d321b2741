"""Checks of streams without labels: objects among pixels that nothing calls normal, and frames that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator

from mgcda_dist.choices import outlier_entry
from mgcda_dist.config.data import StreamConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.references import PREFIX

__all__ = ["unlabelled"]


def unlabelled(config: Config) -> Iterator[str]:
    """Warnings about streams without labels."""
    bare = [stream for stream in config.data.streams if not stream.labelled]
    known = {stream.domain_name for stream in config.data.streams if stream.labelled}
    pasted = [stream.name for stream in bare if _pastes(stream) and stream.domain_name not in known]
    if pasted and _has_outlier_term(config) and not _knows_normal(config):
        teacher = "teacher.enabled and teacher.outlier_weight" if _has_normal_side(config) else "teacher.enabled"
        yield (
            f"{', '.join(pasted)}: objects are pasted onto frames without labels, and nothing says what is normal "
            "there, so the outlier loss can take the look of these frames for that of an anomaly; "
            f"set {teacher}, or, with CACL, teacher.contrast or cacl.unlabelled_confidence; or paste nothing there"
        )
    unread = [stream for stream in bare if not _is_read(config, stream)]
    if unread:
        images = sum(stream.per_step for stream in unread)
        yield (
            f"{', '.join(stream.name for stream in unread)}: no term of the loss reads these frames, {images} of "
            f"{config.data.global_batch} images a step: they have no labels, and what needs none is off; set "
            "mdat.enabled, teacher.enabled, cacl.unlabelled_confidence, or data.augment.class_mix; or leave them out"
        )


def _pastes(stream: StreamConfig) -> bool:
    return stream.paste is not None and stream.paste.probability > 0


def _has_outlier_term(config: Config) -> bool:
    loss = config.loss
    return loss.enabled and loss.outlier != "none" and (loss.outlier_weight > 0 or loss.outlier.startswith(PREFIX))


def _has_normal_side(config: Config) -> bool:
    """True where the outlier loss lowers the scores of inliers itself, which cross-entropy does not do for it."""
    return outlier_entry(config.loss.outlier).any_inlier


def _knows_normal(config: Config) -> bool:
    """True where a term has a normal side in frames without labels."""
    teacher, cacl = config.teacher, config.cacl
    if teacher.enabled and teacher.weight > 0 and (teacher.outlier_weight > 0 or not _has_normal_side(config)):
        return True
    contrast = teacher.enabled and teacher.contrast
    return cacl.enabled and cacl.weight > 0 and (contrast or cacl.unlabelled_confidence is not None)


def _is_read(config: Config, stream: StreamConfig) -> bool:
    """True where a term of the loss, or another stream, makes something of a stream without labels."""
    augment, cacl = config.data.augment, config.cacl
    lends_style = augment.style > 0 and len(config.data.domains) > 1
    own_loss = config.loss.outlier.startswith(PREFIX)  # nobody knows what it reads
    return (
        config.mdat.enabled
        or config.teacher.is_asked
        or (cacl.enabled and cacl.unlabelled_confidence is not None)
        or (_pastes(stream) and (cacl.enabled or _has_outlier_term(config)))
        or augment.class_mix > 0
        or lends_style
        or own_loss
    )
