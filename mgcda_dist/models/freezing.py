"""Parts of a network that do not learn: no gradient, and evaluation mode whatever the network around them is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from mgcda_dist.errors import ConfigError, near_or_all

__all__ = ["freeze", "matches", "nearest_path", "own_name"]

_HEADED = "segmenter."


def own_name(name: str) -> str:
    """Name of a parameter or module of a segmenter, the same with kept heads around it and without."""
    return name.removeprefix(_HEADED)


def matches(name: str, pattern: str) -> bool:
    """True where a pattern names a parameter or module: its path, one above it, or a pattern with `*` of its path."""
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def freeze(network: nn.Module, patterns: Sequence[str], where: str) -> list[nn.Module]:
    """Freeze the parameters that the patterns name.

    What is computed from frozen parameters and the image alone keeps no activation for the backward pass, since
    autograd records nothing there, and the optimiser holds no state of it.

    Args:
        network: a segmenter; names are those of its exported tensors, without the `segmenter.` of one with heads.
        patterns: see `matches`.
        where: config path of the patterns, for errors.

    Returns:
        The uppermost modules whose parameters are all frozen, which have to stay in evaluation mode: statistics of
        their normalisation would move otherwise.

    Raises:
        ConfigError: a pattern that names nothing, or all that there is.
    """
    parameters = {own_name(name): parameter for name, parameter in network.named_parameters()}
    for pattern in patterns:
        if not any(matches(name, pattern) for name in parameters):
            raise ConfigError(
                where, f"{pattern!r} names no parameter of the network", nearest_path(pattern, parameters)
            )
    frozen = {name for name in parameters if any(matches(name, pattern) for pattern in patterns)}
    if len(frozen) == len(parameters):
        raise ConfigError(where, f"{', '.join(patterns)} freeze the whole network", "leave a part that learns")
    for name in frozen:
        parameters[name].requires_grad_(False)
    found: list[nn.Module] = []
    inside: list[str] = []
    for path, module in network.named_modules():
        own = [own_name(f"{path}.{name}" if path else name) for name, _ in module.named_parameters()]
        if own and frozen.issuperset(own) and not any(path.startswith(f"{above}.") for above in inside):
            found.append(module)
            inside.append(path)
    return found


def nearest_path(pattern: str, names: Iterable[str]) -> str:
    """The nearest path that there is, of any depth."""
    paths = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    shown = {path for path in paths if path.count(".") <= max(pattern.count("."), 0)}
    return near_or_all(pattern, sorted(shown))
