"""External networks by name: `torchvision:…`, `smp:…`, `transformers:…`, or `python:MODULE:FUNCTION`.

The layers of each library's networks are listed in its `external_*.py`; this module makes the networks equal on every
rank, loads their weights and wraps them. Stages are named by their stride in the published backbone, `stride4` …
`stride32`: a network that dilates its last stages instead of striding keeps the names.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mgcda_dist.choices import NormMode
from mgcda_dist.errors import ConfigError
from mgcda_dist.models.adapters import AdaptedSegmenter, adapt
from mgcda_dist.models.external import ExternalNetwork
from mgcda_dist.models.norm import convert_norm
from mgcda_dist.models.seeding import seeded
from mgcda_dist.models.taps import Taps
from mgcda_dist.models.weights import from_hub, read_state

__all__ = ["named_segmenter", "portable_arguments"]

_WHERE = "model.network"
_LIBRARIES = "torchvision:NAME, smp:NAME, timm:NAME, transformers:NAME or python:MODULE:FUNCTION"


def named_segmenter(
    name: str,
    *,
    num_classes: int,
    arguments: Mapping[str, Any] | None = None,
    taps: Mapping[str, Any] | None = None,
    norm: NormMode = "frozen",
    head_norm: NormMode | None = None,
    weights: str = "none",
    seed: int = 0,
    columns: Sequence[str] = (),
) -> AdaptedSegmenter:
    """The network `name` as a segmenter.

    Args:
        name: library and network.
        num_classes: C, without abstention.
        arguments: of the network's constructor, besides the number of classes.
        taps: fields of `Taps`, and `mean`, `std`, `multiple_px`; required for a `python:` network, and replaces the
            defaults of the others.
        norm: treatment of batch normalisation.
        head_norm: treatment outside of the backbone; None: as `norm`.
        weights: `none`; `hub` (the library downloads those of its backbone), of timm `hub@REVISION`, too; `file:PATH`
            with the state dict of the network or of its backbone; `package:NAME` for a timm backbone.
        seed: of the initial parameters.
        columns: names of further logits that the network gets behind those of the classes.

    Raises:
        ConfigError: an unknown or missing library, network, argument, layer or file, or a network that violates a law.
    """
    num_logits = num_classes + len(columns)
    with seeded(seed, "network", name):
        external = _external_network(name, dict(arguments or {}), num_logits, weights)
    if taps:
        external = _tapped(external, dict(taps))
    if external.taps is None:
        raise ConfigError("model.taps", f"the layers of {name} are unknown", "give model.taps")
    _load(external, external.taps, weights)
    network = _with_norm(external.network, external.taps.backbone, norm, head_norm or norm)
    segmenter = adapt(
        network,
        external.taps,
        norm if head_norm in (None, norm) else "local",
        mean=external.mean,
        std=external.std,
        multiple_px=external.multiple_px,
        logit_kind=external.logit_kind,
        columns=columns,
    )
    if segmenter.num_logits != num_logits:
        raise ConfigError(
            "model.taps.logits",
            f"{segmenter.num_logits} channels, but {num_logits} are needed"
            + (f": {num_classes} classes and {', '.join(columns)}" if columns else ", one for each class"),
            "tap the classifier's output; a `python:` function must use its argument num_classes",
        )
    return segmenter


def portable_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` without references to files of this machine, for the metadata of an exported model."""
    if name.partition(":")[0] == "transformers":
        from mgcda_dist.models.external_transformers import portable_arguments

        return portable_arguments(arguments)
    return dict(arguments)


def _external_network(name: str, arguments: dict[str, Any], num_logits: int, weights: str) -> ExternalNetwork:
    library, _, rest = name.partition(":")
    if from_hub(weights) and weights != "hub" and library != "timm":
        remedy = "model.weights=hub, or file:PATH with weights_sha256"
        raise ConfigError("model.weights", f"{library} has no revisions of weights ({weights})", remedy)
    match library:
        case "torchvision":
            from mgcda_dist.models.external_torchvision import make
        case "smp":
            from mgcda_dist.models.external_smp import make
        case "timm":
            from mgcda_dist.models import external_timm

            make = partial(external_timm.make, weights=weights)
        case "transformers":
            from mgcda_dist.models.external_transformers import make
        case "python":
            from mgcda_dist.models.external_python import make
        case _:
            raise ConfigError(_WHERE, f"unknown library {library!r}", f"give {_LIBRARIES}")
    try:
        return make(rest, arguments, num_logits, from_hub(weights))
    except ConfigError:
        raise
    except Exception as error:  # constructors raise every kind
        at = traceback.extract_tb(error.__traceback__)[-1]
        own = f"raised in {at.filename}:{at.lineno}; the function is called with num_classes and model.arguments"
        raise ConfigError(
            "model.arguments",
            f"{name} cannot be made: {type(error).__name__}: {error}",
            own if library == "python" else "see the library's own page",
        ) from error


def _tapped(external: ExternalNetwork, given: dict[str, Any]) -> ExternalNetwork:
    """`external` with the taps and statistics of the configuration; what it leaves out is unchanged."""
    own = dataclasses.asdict(external.taps) if external.taps else {"stages": {}, "logits": ""}
    given = {key: value for key, value in given.items() if value is not None}
    fields = {field.name for field in dataclasses.fields(Taps)}
    if "backbone" in given:
        own["backbone_parts"] = ()  # of the part that the network's own file names
    taps = Taps(**(own | {key: given[key] for key in fields & set(given)}))
    if external.taps is None and "logits" not in given:
        raise ConfigError("model.taps.logits", "is missing", "name the layer that outputs the logits")
    return dataclasses.replace(external, taps=taps, **{key: given[key] for key in set(given) - fields})


def _with_norm(network: nn.Module, backbone: str, norm: NormMode, head_norm: NormMode) -> nn.Module:
    if norm == head_norm or not backbone:
        return convert_norm(network, norm)
    excluded = {id(module) for module in network.get_submodule(backbone).modules()}
    parent, _, leaf = backbone.rpartition(".")
    setattr(network.get_submodule(parent), leaf, convert_norm(network.get_submodule(backbone), norm))
    excluded |= {id(module) for module in network.get_submodule(backbone).modules()}
    return convert_norm(network, head_norm, excluded)


def _load(external: ExternalNetwork, taps: Taps, weights: str) -> None:
    kind, _, value = weights.partition(":")
    if external.load is not None and external.load(weights):
        return
    if kind == "none" or from_hub(weights):
        return
    if kind == "package":
        raise ConfigError(
            "model.weights", f"{value} holds a timm backbone's weights", "smp:NAME with encoder_name: tu-NAME"
        )
    _fill(external.network, taps, read_state(Path(value)), value)


def _fill(network: nn.Module, taps: Taps, state: dict[str, Tensor], source: str) -> None:
    """Load the whole network strictly, except a classifier of other classes; or the backbone alone, strictly."""
    classifier = taps.logits.partition("[")[0] if isinstance(taps.logits, str) else ""
    mismatched = _mismatched(network, state)
    optional = [key for key in mismatched if classifier and key.startswith(f"{classifier}.")]
    if len(mismatched) == len(optional):
        network.load_state_dict({k: x for k, x in state.items() if k not in optional}, strict=False)
        return
    backbone = network.get_submodule(taps.backbone) if taps.backbone else None
    of_backbone = _mismatched(backbone, state) if backbone is not None else ["-"]
    if backbone is not None and not of_backbone:
        backbone.load_state_dict({k: x for k, x in state.items() if k in backbone.state_dict()}, strict=True)
        return
    found = f"{len(mismatched)} of its tensors are missing or have another shape, first {', '.join(mismatched[:3])}"
    if backbone is not None:
        found += f"; as its backbone {len(of_backbone)}, first {', '.join(of_backbone[:3])}"
    raise ConfigError(
        "model.weights", f"{source} does not fit {type(network).__name__}: {found}", "give weights of this network"
    )


def _mismatched(network: nn.Module, state: dict[str, Tensor]) -> list[str]:
    return [
        key
        for key, x in network.state_dict().items()
        if (key not in state or state[key].shape != x.shape) and not key.endswith("num_batches_tracked")
    ]
