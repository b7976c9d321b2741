"""The subject of an examination: a configuration, read from a file or made around a plug-in's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from mgcda_dist import build
from mgcda_dist.choices import OUTLIER_LOSSES, SCORE
from mgcda_dist.config.load import load_config
from mgcda_dist.config.parse import shipped, shipped_files
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError, near_or_all
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.models.external_loss import external_loss
from mgcda_dist.models.segmentation_loss import columns_of, reads_of
from mgcda_dist.references import GROUP, PLUGIN, PREFIX, expanded, resolve

__all__ = ["Subject", "model_of", "subject_of"]

_OUTPUTS, _QUERIES = 2, 20
_SCORE_OF = {
    "entropy": "entropy",
    "rba_hinge": "rba",
    "plugin:meta_ood": "entropy",
    "plugin:set_loss": "plugin:eam_score",
}
"""Losses whose score is another than the default."""


@dataclass(frozen=True)
class Subject:
    """Network, loss, score and heads of a configuration; MDAT, CACL and teacher, which have tests, are off.

    Attributes:
        name: as it was given.
        config: of which the data are not read.
        notes: what was chosen here.
        around: the same with MDAT, CACL or a teacher; None: there is none of them.
    """

    name: str
    config: Config
    notes: tuple[str, ...] = ()
    around: Config | None = None

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.config.data.class_names)


def subject_of(
    name: str,
    overrides: Sequence[str] = (),
    *,
    score: str | None = None,
    heads: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Subject:
    """The subject that a name or a file stands for.

    Args:
        name: a YAML file; or a loss, `plugin:NAME`, `python:MODULE:NAME` or one of the package.
        overrides: `key=value` changes of the configuration.
        score: of the plug-in; None: the plug-in `NAME_score` if there is one, else that of the package.
        heads: of the network of two convolutions, as in `model.heads`; None: one of two outputs per name that the loss
            reads.
        arguments: of the loss.

    Raises:
        ConfigError: nothing of that name, or what does not fit.
    """
    if _is_file(name):
        given = [key for key, value in (("score", score), ("heads", heads), ("arguments", arguments)) if value]
        if given:
            remedy = "change the keys model.score, model.heads and loss.arguments instead"
            raise ConfigError(given[0], f"{name} is a configuration, which says that itself", remedy)
        whole = load_config(Path(name), list(overrides)).config
        on = whole.mdat.enabled or whole.cacl.enabled or whole.teacher.enabled
        return Subject(name, _alone(whole), around=_plain(whole) if on else None)
    loss, notes = _loss_name(name), list[str]()
    own, is_own = dict(arguments or {}), loss.startswith(PREFIX)
    if own and not is_own:
        raise ConfigError("arguments", f"{name} is a loss of the package", f"write {_limits(name)}")
    made = external_loss(loss, own) if is_own else None
    network, of_network, given = _network_for(made)
    score = score or _score_for(name, notes)
    if heads is None:
        wanted = [] if made is None else [each for each in reads_of(made) if each not in {*columns_of(made), *given}]
        heads = [{"name": each, "arguments": {"outputs": _OUTPUTS}} for each in wanted]
        notes += [f"head {each}: {_OUTPUTS} outputs, linear; chosen here" for each in wanted]
    content: dict[str, Any] = {
        "name": "laws",
        "data": {
            "class_space": "road8",
            "crop_px": [64, 96],
            "streams": [
                {"name": "generated", "shards": "/nowhere", "per_step": 2},
                {"name": "unlabelled", "shards": "/nowhere", "per_step": 2, "labelled": False},
            ],
        },
        "model": {"network": network, "arguments": of_network, "score": score, "heads": list(heads)},
        "loss": {"outlier": loss} | ({"arguments": own} if own else {}),
        "mdat": {"stages": [{"name": "stride4"}, {"name": "embedding"}], "channels": 8},
        "cacl": {"projection_dim": 8, "anomaly_pixels": 8, "inlier_pixels": 4, "queue_rows": 16, "warmup": 0.0},
        "teacher": {"enabled": True},
        "optim": {"steps": 100},
    }
    whole = load_config(content, list(overrides)).config
    return Subject(name, _alone(whole), tuple(notes), around=_plain(whole))


def model_of(subject: Subject, dtype: torch.dtype = torch.float64, collectives: Collectives | None = None) -> MGCDA:
    """The training module, the same at every call and on every rank; loss and score are made anew and not tried."""
    return build.mgcda(subject.config, collectives, tried=False).to(dtype)


def _is_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml") or shipped(Path(name)).is_file()


def _loss_name(name: str) -> str:
    """The reference of a plug-in, or the name of a loss of the package."""
    if name in OUTLIER_LOSSES:
        return name
    short = name.startswith(PLUGIN)
    found = str(expanded(name, "PLUGIN")) if short else name
    if not found.startswith(PREFIX):
        plugins = [PLUGIN + each for each in sorted(entry_points(group=GROUP).names) if not each.endswith("_score")]
        nearest = {each.removeprefix(PLUGIN): each for each in plugins}
        if name in nearest:
            raise ConfigError("PLUGIN", f"{name!r} is the name of a plug-in", f"write {nearest[name]}")
        known = [*plugins, *OUTLIER_LOSSES, *(shipped_files() if "/" in name else [])]
        raise ConfigError("PLUGIN", f"there is no loss, plug-in or file {name!r}", near_or_all(name, known))
    if found.count(":") != 2:
        raise ConfigError("PLUGIN", f"{name!r} is no reference", "python:MODULE:NAME")
    thing = resolve("PLUGIN", found)
    if not hasattr(thing, "terms") and (hasattr(thing, "of") or hasattr(thing, "maps")):
        raise ConfigError(
            "PLUGIN", f"{name} is a score, which has no law of its own", "name its loss, and it as `score`"
        )
    return found


def _network_for(loss: object) -> tuple[str, dict[str, int], tuple[str, ...]]:
    """The network for a loss, its arguments, and its extras: one of masks where the loss is for those alone."""
    kinds = getattr(loss, "logits", "pixel")
    of_masks = "pixel" not in ((kinds,) if isinstance(kinds, str) else tuple(kinds))
    module = f"{PREFIX}mgcda_dist.laws.network:"
    if not of_masks:
        return f"{module}TwoConvolutions", {}, ()
    arguments = {"num_queries": int(getattr(loss, "num_queries", _QUERIES))}
    return f"{module}TwoConvolutionsOfMasks", arguments, ("mask/classes", "mask/masks")


def _score_for(name: str, notes: list[str]) -> str:
    own = f"{name.removeprefix(PLUGIN)}_score"
    if name.startswith(PLUGIN) and own in entry_points(group=GROUP).names:
        notes.append(f"score: {PLUGIN}{own}, by its name")
        return PLUGIN + own
    score = _SCORE_OF.get(name, SCORE)
    notes.append(f"score: {score}, chosen here")
    return score


def _limits(name: str) -> str:
    limits = OUTLIER_LOSSES[name].limits if name in OUTLIER_LOSSES else {}
    return " ".join(f"loss.{each}=…" for each in limits) or "no arguments: it has no limits"


def _alone(config: Config) -> Config:
    """The configuration without MGCDA, teacher and compilation."""
    if not config.loss.enabled:
        raise ConfigError("loss.enabled", "is false: there is no loss to examine", "set it to true")
    return _plain(config, off=("mdat", "cacl", "teacher"))


def _plain(config: Config, off: Sequence[str] = ()) -> Config:
    """The configuration without compilation, and without the parts that are named."""
    data = config.model_dump()
    for section in off:
        data[section]["enabled"] = False
    data["model"] |= {"compile": False, "export": "student", "weights": "none"}
    return Config.model_validate(data)
