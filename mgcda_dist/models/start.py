"""Begin with the network of another run: every tensor by name, the rows of the classifier by class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mgcda_dist.choices import RunFile
from mgcda_dist.errors import CheckpointError, ConfigError
from mgcda_dist.models.exported import digest_of, model_folder, read_metadata
from mgcda_dist.models.freezing import nearest_path, own_name
from mgcda_dist.models.heads import AnySegmenter

__all__ = ["check_digest", "copy_part", "start_from"]

_WHERE = "model.weights"
_HEADS = "heads."


@torch.no_grad()
def start_from(network: AnySegmenter, path: Path, class_names: tuple[str, ...]) -> list[str]:
    """Take the weights of an exported model into a network that may have more heads and more class columns.

    Heads that the model lacks keep their initial parameters. A column that it lacks begins with zero weights and bias,
    as in UNO (see `plugins.mask_methods`); columns and heads that the network lacks are left behind.

    Args:
        network: changed in place.
        path: a run folder, one of its checkpoints, or an exported model.
        class_names: inlier classes of the network.

    Returns:
        Names of the tensors that did not come whole from there.

    Raises:
        CheckpointError: no readable model there.
        ConfigError: a model of other classes or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = model_folder(path)
    metadata = read_metadata(folder)
    if tuple(metadata.class_names) != class_names:
        problem = f"{path} has the classes {', '.join(metadata.class_names)}, and this run {', '.join(class_names)}"
        raise ConfigError(_WHERE, problem, "start from a model of the same class space")
    try:
        given = {own_name(name): x for name, x in load_file(folder / RunFile.WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(folder), f"not an exported model: {error}", "export it again") from None
    rows = _Rows(len(class_names), metadata.architecture.get("columns", ()), network)
    wanted = {own_name(name): x for name, x in network.state_dict().items()}
    anew, misfits = list[str](), list[str]()
    for name, target in wanted.items():
        found = given.get(name)
        if found is not None and found.shape == target.shape:
            target.copy_(found)  # which the network shares
        elif found is not None and rows.are_of(found, target):
            rows.take(found, target)
            anew.append(name)
        elif found is None and name.startswith(_HEADS):
            anew.append(name)
        else:
            shape = "missing" if found is None else f"{tuple(found.shape)} instead of {tuple(target.shape)}"
            misfits.append(f"{name} ({shape})")
    misfits += [f"{name} (too many)" for name in given if name not in wanted and not name.startswith(_HEADS)]
    if misfits:
        problem = f"{path} is of another network: {len(misfits)} tensors differ, first {', '.join(misfits[:3])}"
        raise ConfigError(_WHERE, problem, "start from a run with the same model section, or from file:PATH")
    return anew


@torch.no_grad()
def copy_part(network: AnySegmenter, source: str, target: str, where: str) -> None:
    """Overwrite a part of a network with another part of it that has tensors of the same names and shapes.

    Args:
        network: changed in place; names are those of its exported tensors, without the `segmenter.` of one with heads.
        source, target: paths of modules, or of single tensors.
        where: config path, for errors.

    Raises:
        ConfigError: a path that names nothing, or parts that differ.
    """
    tensors = {own_name(name): x for name, x in network.state_dict().items()}
    given, taken = (_part(tensors, path, f"{where}.{key}") for key, path in (("source", source), ("target", target)))
    differing = sorted(
        f"{target}{name}" for name in given.keys() | taken.keys() if _shape(given, name) != _shape(taken, name)
    )
    if differing:
        remedy = "copy parts with the same layers; the first layer of a head has the channels of its stage"
        problem = f"{source} and {target} differ in {len(differing)} tensors, first {', '.join(differing[:3])}"
        raise ConfigError(where, problem, remedy)
    for name, x in taken.items():
        x.copy_(given[name])  # which the network shares


def _part(tensors: dict[str, Tensor], path: str, where: str) -> dict[str, Tensor]:
    """The tensors at and below a path, by what their names have behind it."""
    found = {name.removeprefix(path): x for name, x in tensors.items() if name == path or name.startswith(f"{path}.")}
    if not found:
        raise ConfigError(where, f"{path!r} names no tensor of the network", nearest_path(path, tensors))
    return found


def _shape(part: dict[str, Tensor], name: str) -> torch.Size | None:
    return part[name].shape if name in part else None


def check_digest(path: Path, sha256: str) -> None:
    """Raise `ConfigError` where the weights of a file or model are not those that the configuration asks for."""
    import hashlib

    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        found = digest_of(model_folder(path))
    if found != sha256.lower():
        problem = f"the weights in {path} have {found}, not {sha256}"
        raise ConfigError("model.weights_sha256", problem, "bring the file back, or take over its digest")


class _Rows:
    """Rows of a classifier: of the classes, then of named columns, and of mask networks one for no object at the end.

    Args:
        columns: of the given tensors.
        network: that takes them.
    """

    def __init__(self, num_classes: int, columns: list[str], network: AnySegmenter) -> None:
        behind = 1 if network.logit_kind == "mask" else 0
        if len(columns) == len(network.columns) and set(columns) != set(network.columns):
            problem = f"the model has a column {', '.join(columns)}, and this run {', '.join(network.columns)}"
            raise ConfigError(_WHERE, problem, "start from a model without such columns, or with the same")
        self._num_given = num_classes + len(columns) + behind
        self._num_wanted = num_classes + len(network.columns) + behind
        at = {name: num_classes + i for i, name in enumerate(columns)}
        sources: list[int | None] = [*range(num_classes), *(at.get(name) for name in network.columns)]
        self._sources = sources + [self._num_given - 1] * behind

    def are_of(self, found: Tensor, target: Tensor) -> bool:
        """True for a classifier's weight or bias, where its rows are not the same."""
        sizes = (*found.shape[:1], *target.shape[:1])
        return sizes == (self._num_given, self._num_wanted) and found.shape[1:] == target.shape[1:]

    def take(self, found: Tensor, target: Tensor) -> None:
        """Fill the rows; those of new columns with zeros."""
        for row, source in enumerate(self._sources):
            target[row] = 0 if source is None else found[source]
