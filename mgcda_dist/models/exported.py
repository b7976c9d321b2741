"""Exported models: a trained segmenter as `model.safetensors` and `model.json`, independent of the training code."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

import torch
from pydantic import AfterValidator, Field, FiniteFloat
from torch import nn
from typing_extensions import TypedDict

from mgcda_dist.choices import DECODER_CHANNELS, SCORES, NormMode, RunFile
from mgcda_dist.errors import CheckpointError, MgcdaError, near_or_all
from mgcda_dist.files import PendingFile, write_atomically
from mgcda_dist.models.scores import ClassStatistics
from mgcda_dist.models.segmenter import Segmenter
from mgcda_dist.references import PATTERN, PREFIX, check_trusted
from mgcda_dist.trust import Name, below, offline, read_json, regular, validated

if TYPE_CHECKING:
    from mgcda_dist.models.adapters import AdaptedSegmenter
    from mgcda_dist.models.heads import AnySegmenter, HeadSpec

__all__ = [
    "ModelMetadata",
    "bare_segmenter",
    "digest_of",
    "holds_model",
    "load_segmenter",
    "model_folder",
    "read_metadata",
    "save_metadata",
    "save_segmenter",
]

_FORMAT = "mgcda-segmenter/1"
_REMEDY = "give a run folder, a checkpoint, or its folder `model/`"


def _known_score(name: str) -> str:
    if name not in SCORES and re.fullmatch(PATTERN, name) is None:
        raise ValueError(f"no such score; {near_or_all(name, SCORES)}")
    return name


_Side = Annotated[int, Field(ge=1, le=1 << 15)]


@dataclass(frozen=True)
class ModelMetadata:
    """Content of `model.json`; its keys are the attributes' names, and `format`.

    Attributes:
        name: of the run.
        architecture: keyword arguments of `bare_segmenter`, as JSON: which ones depends on the kind of network.
        class_names: inlier classes in the order of the logits.
        score: anomaly score that the run was evaluated with.
        height_px: height of the network's input that the run was evaluated with; None: the frame's own.
        config: the run's whole configuration, as JSON: its schema may be that of another version.
        class_statistics: written by `mgcda calibrate`: `mean` and `var` of the maximum logit, and their origin.
        operating_points: written by `mgcda export`: see `inference.operating`.
        longest_side_px: longer side of the network's input that the run was evaluated with; None: as `height_px` says.
        measured_heads: written by `mgcda calibrate`: of heads that were measured after training, the frames.
        graph_px: height and width of the only images that the graphs beside it take; None: any, or there are none.
    """

    name: Name
    architecture: dict[str, Any]
    class_names: Annotated[Sequence[Name], Field(min_length=1, max_length=250)]
    score: Annotated[str, Field(max_length=200), AfterValidator(_known_score)]
    height_px: Annotated[int, Field(ge=0, le=1 << 15)] | None
    config: dict[str, Any]
    class_statistics: dict[str, Any] | None = None
    operating_points: Annotated[Sequence[dict[str, Any]], Field(max_length=1000)] = ()
    longest_side_px: Annotated[int, Field(ge=1, le=1 << 15)] | None = None
    graph_px: tuple[_Side, _Side] | None = None
    measured_heads: dict[str, Any] | None = None

    @property
    def statistics(self) -> ClassStatistics | None:
        """Class statistics of the maximum logit; None: not measured."""
        found = self.class_statistics
        return None if found is None else ClassStatistics(tuple(found["mean"]), tuple(found["var"]))

    def code(self) -> list[str]:
        """References to code of a user's own that makes the network and scores its pixels."""
        network, heads = self.architecture.get("network") or {}, self.architecture.get("heads") or {}
        named = [network.get("name", ""), *(head.get("use", "") for head in heads.values()), self.score]
        return [text for text in named if text.startswith(PREFIX)]

    def as_text(self) -> str:
        """The content of `model.json`; what was not measured is left out."""
        content = asdict(self)
        for key in ("class_statistics", "operating_points", "longest_side_px", "graph_px", "measured_heads"):
            if not content[key]:
                del content[key]
        return json.dumps({"format": _FORMAT} | content, indent=1) + "\n"


class _Network(TypedDict):
    name: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_.+-]+(:[A-Za-z0-9_.+-]+)+$")]
    arguments: NotRequired[dict[str, Any] | None]
    taps: NotRequired[dict[str, Any] | None]
    head_norm: NotRequired[NormMode | None]


class _Head(TypedDict):
    use: Annotated[str, Field(max_length=200, pattern=rf"^([a-z_]+|{PATTERN})$")]
    stage: Name
    arguments: NotRequired[dict[str, Any]]
    detached: NotRequired[bool]


class _Architecture(TypedDict):
    """Arguments of `bare_segmenter` that a file may give; its initial weights and seed are none of them."""

    norm: NormMode
    num_classes: Annotated[int, Field(ge=1, le=250)]
    backbone: NotRequired[Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_.-]+$")] | None]
    decoder_channels: NotRequired[Annotated[int, Field(ge=1, le=4096)]]
    network: NotRequired[_Network | None]
    columns: NotRequired[Annotated[list[Name], Field(max_length=16)]]
    heads: NotRequired[Annotated[dict[Name, _Head], Field(max_length=16)]]


class _Statistics(TypedDict):
    mean: list[FiniteFloat]
    var: list[FiniteFloat]


def bare_segmenter(
    backbone: str | None = None,
    *,
    norm: NormMode,
    num_classes: int,
    decoder_channels: int = DECODER_CHANNELS,
    network: Mapping[str, Any] | None = None,
    columns: Sequence[str] = (),
    heads: Mapping[str, HeadSpec] | None = None,
    weights: str = "none",
    seed: int = 0,
) -> AnySegmenter:
    """The segmenter without MDAT and CACL: timm's `backbone` with the light decoder, or an external network.

    Args:
        backbone: timm model name; None: `network` is given.
        network: `name`, `arguments`, `taps` and `head_norm` of `named_segmenter`.
        norm, num_classes, columns, seed: as of `named_segmenter`.
        heads: that are part of it, by name.
        weights: initial weights, see `weights.py`.

    Raises:
        ConfigError: as of `named_segmenter` and `make_heads`; a head that violates a law.
    """
    common: dict[str, Any] = {"num_classes": num_classes, "norm": norm, "columns": columns}
    bare = _without_heads(backbone, network, decoder_channels, common, weights, seed)
    if not heads:
        return bare
    from mgcda_dist.models.heads import HeadedSegmenter, make_heads
    from mgcda_dist.models.invariants import check_invariants

    headed = HeadedSegmenter(bare, make_heads(heads, bare.stage_channels, seed, "model.heads"))
    if not next(headed.parameters()).is_meta:
        check_invariants(headed, norm, headed.example_size, "model.heads")
    return headed


def _without_heads(
    backbone: str | None,
    network: Mapping[str, Any] | None,
    decoder_channels: int,
    common: dict[str, Any],
    weights: str,
    seed: int,
) -> Segmenter | AdaptedSegmenter:
    if network is not None:
        from mgcda_dist.models.networks import named_segmenter

        return named_segmenter(**network, **common, weights=weights, seed=seed)
    from mgcda_dist.models.backbone import timm_backbone
    from mgcda_dist.models.decoder import Decoder

    assert backbone is not None
    features, columns = timm_backbone(backbone, weights, common["norm"], seed=seed), common["columns"]
    decoder = Decoder(features.channels, common["num_classes"] + len(columns), decoder_channels, seed=seed)
    return Segmenter(features, decoder, features.mean, features.std, columns=columns)


def save_segmenter(network: nn.Module, metadata: ModelMetadata, folder: Path, *, half: bool = False) -> None:
    """Write the network and its metadata; each file is written atomically.

    Args:
        half: round weights of two dimensions and more to float16, for a file of half the size. Vectors stay: variances
            of norm layers can lie outside of float16, and are few.

    Raises:
        CheckpointError: a weight that float16 cannot hold.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    written_already: set[int] = set()
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if half and tensor.dtype == torch.float32 and tensor.dim() > 1:
            tensor = _halved(tensor, name, folder)
        # The format has no shared memory: tied weights are written once per name.
        tensors[name] = tensor.clone() if tensor.data_ptr() in written_already else tensor
        written_already.add(tensor.data_ptr())
    with PendingFile(folder / RunFile.METADATA) as text, PendingFile(folder / RunFile.WEIGHTS) as weights:
        text.write_text(metadata.as_text(), encoding="utf-8")
        weights.write_bytes(save(tensors))  # which raises the error of the file system; `save_file` one of its own


def _halved(tensor: torch.Tensor, name: str, folder: Path) -> torch.Tensor:
    rounded = tensor.half()
    if not torch.isfinite(rounded).all():
        raise CheckpointError(str(folder), f"float16 cannot hold {name}", "write the weights as they are")
    return rounded


def save_metadata(metadata: ModelMetadata, folder: Path) -> None:
    """Replace `model.json` atomically."""
    write_atomically(folder / RunFile.METADATA, metadata.as_text())


def read_metadata(folder: Path) -> ModelMetadata:
    """The content of `model.json`.

    Raises:
        CheckpointError: missing, damaged, incomplete, or of other types and sizes than the schema says.
    """
    path = folder / RunFile.METADATA
    try:
        content = read_json(below(folder, RunFile.METADATA))
    except (OSError, MgcdaError) as error:
        raise CheckpointError(str(folder), f"not an exported model: {error}", _REMEDY) from None
    named = {"name": folder.name} | content if isinstance(content, dict) else content
    metadata = validated(ModelMetadata, named, str(path), _REMEDY, CheckpointError)
    if (abstains := metadata.architecture.pop("abstains", None)) is not None:  # files before columns had names
        metadata.architecture["columns"] = ["abstention"] if abstains else []
    if metadata.class_statistics is not None:
        validated(_Statistics, metadata.class_statistics, f"{path}: class_statistics", _REMEDY, CheckpointError)
    return metadata


def load_segmenter(folder: Path) -> tuple[ModelMetadata, AnySegmenter]:
    """The metadata and the strictly loaded network, on the CPU, in evaluation mode.

    Weights in float16 become float32. No other file is opened and no request made, whatever `model.json` asks for: all
    weights are in the folder.

    Raises:
        CheckpointError: missing or damaged files, tensors that do not fit, or a network that asks for more.
        ConfigError: a network whose code is missing, or not trusted: see `references`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    metadata, where = read_metadata(folder), str(folder / RunFile.METADATA)
    try:
        tensors = load_file(regular(below(folder, RunFile.WEIGHTS)))
    except (OSError, MgcdaError, SafetensorError) as error:
        raise CheckpointError(str(folder), f"not an exported model: {error}", _REMEDY) from None
    given = validated(_Architecture, metadata.architecture, f"{where}: architecture", _REMEDY, CheckpointError)
    network = given.get("network")
    if (network is None) == (given.get("backbone") is None):
        raise CheckpointError(where, "architecture: either a backbone or a network", _REMEDY)
    own_code = network is not None and network["name"].startswith(PREFIX)
    for name, head in given.get("heads", {}).items():
        if head["use"].startswith(PREFIX):
            check_trusted(f"model.heads.{name}", head["use"])
            own_code = True
    if network is not None:
        _check_network(network, where)
    try:
        # Code that the user trusts may do what it likes.
        with torch.random.fork_rng(devices=[]), nullcontext() if own_code else offline(where):
            segmenter = bare_segmenter(**given)
    except MgcdaError:
        raise
    except Exception as error:  # networks raise every kind when their arguments do not fit
        problem = f"the network cannot be made: {type(error).__name__}: {error}"
        raise CheckpointError(where, problem, _REMEDY) from error
    try:
        segmenter.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        problem = f"the tensors do not fit model.json: {error}"
        raise CheckpointError(str(folder), problem, "export it again, or use another checkpoint") from None
    return metadata, segmenter.eval()


def _check_network(network: Mapping[str, Any], where: str) -> None:
    """Refuse code that is not trusted, and arguments of a library's network that name files or hub repositories."""
    if network["name"].startswith(PREFIX):
        return check_trusted("model.network", network["name"])
    from mgcda_dist.models.external import names_elsewhere

    named = names_elsewhere(network.get("arguments") or {})
    if named is not None:
        problem = f"architecture.network.arguments names {named}, a file or the repository of a hub"
        raise CheckpointError(where, problem, "do not trust this model")
    return None


def digest_of(folder: Path) -> str:
    """SHA-256 of the weights."""
    path = folder / RunFile.WEIGHTS
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read: {error.strerror}", "export the model again") from None


def model_folder(path: Path, remedy: str = "") -> Path:
    """The folder of the model in `path`: `path` itself, `model/`, or that of the newest checkpoint.

    Raises:
        CheckpointError: no model there; `remedy` replaces the general remedy.
    """
    folder = _found(path)
    if folder is None:
        raise CheckpointError(
            str(path),
            "holds no trained model" if path.exists() else "does not exist",
            remedy or "give a run folder (runs/NAME), one of its checkpoints, or an exported model",
        )
    for name in (RunFile.METADATA, RunFile.WEIGHTS):
        below(path, (folder / name).relative_to(path).as_posix())
    return folder


def holds_model(path: Path) -> bool:
    """True for what `model_folder` takes, and for a run that has no model yet, which it refuses."""
    return _found(path) is not None or (path / RunFile.CONFIG).is_file()


def _found(path: Path) -> Path | None:
    candidates = [path, path / "model", *sorted(path.glob("checkpoints/step-*/model"), reverse=True)]
    return next((candidate for candidate in candidates if (candidate / RunFile.METADATA).is_file()), None)
