"""The errors users meet: each says where, which value, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from mgcda_dist.text import printable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "LeavingError",
    "MgcdaError",
    "NodesLostError",
    "SampleError",
    "ShardError",
    "StoppedError",
    "TransientError",
    "counted",
    "in_one_line",
    "install_extra",
    "near_or_all",
]


class MgcdaError(ValueError):
    """Base of all errors raised at the project's borders.

    Args:
        where: file (and line), shard and key, or config path the error belongs to.
        problem: what is wrong, with the offending value.
        remedy: what the user can do; empty when the problem already says it.
    """

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        self.where, self.problem, self.remedy = where, problem, remedy
        message = f"{where}: {problem}" + (f"\n  → {remedy}" if remedy else "")
        super().__init__(printable(message, lines=True))  # names of others are in it

    def __reduce__(self) -> tuple[type[MgcdaError], tuple[str, str, str]]:
        # The default pickles the joined message only; errors must survive loader and Ray workers.
        return type(self), (self.where, self.problem, self.remedy)


class ConfigError(MgcdaError):
    """A configuration that cannot run: unknown key, wrong type, impossible combination."""


class ShardError(MgcdaError):
    """A shard, manifest, image or label file that cannot be read or trusted."""


class SampleError(ShardError):
    """One sample that is damaged, while its shard can be read: another may stand in for it."""


class TransientError(MgcdaError):
    """A fault that may pass: a restart from the last checkpoint is worth trying."""


class LeavingError(TransientError):
    """No fault: the workers were asked to leave, and start again elsewhere; a checkpoint is there if there was room."""


class NodesLostError(MgcdaError):
    """Nodes that the run needs are gone and none has come in their place; the checkpoint is there."""


class StoppedError(MgcdaError):
    """The run was asked to stop while no worker was there to hear it; the last checkpoint counts."""


class CheckpointError(MgcdaError):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 node`, `2 nodes`, `2 micro-batches`."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('ch') else 's'}"


def in_one_line(error: BaseException) -> str:
    """The first line of an error's message, behind its kind if it is none of ours."""
    text = next(iter(str(error).strip().splitlines()), "no message")
    return text if isinstance(error, MgcdaError) else f"{type(error).__name__}: {text}"


def install_extra(extra: str) -> str:
    """Remedy for a missing optional package: from the repository, since the project's name on an index is not ours."""
    return (
        f"in the repository: pip install -c constraints.txt '.[{extra}]'; "
        f"with the wheel: pip install 'mgcda_dist-VERSION-py3-none-any.whl[{extra}]'"
    )


def near_or_all(name: str, known: Iterable[str], *, own: str = "") -> str:
    """Remedy for an unknown name: the nearest of the known ones, else all of them.

    Args:
        own: the form of names that users may give beside the known ones; empty: none.
    """
    near = get_close_matches(name, names := list(known), n=1)
    other = f", or {own}" if own else ""
    return f"did you mean {near[0]}{other}?" if near else f"one of {', '.join(names)}{other}"
