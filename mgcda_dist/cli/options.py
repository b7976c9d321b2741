"""Options: values (sizes, lists of numbers, lists of names), and their names in messages of the library."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from mgcda_dist.errors import ConfigError, MgcdaError, near_or_all
from mgcda_dist.text import printable

__all__ = [
    "echo",
    "names_of",
    "numbers_of",
    "program",
    "refuse_password",
    "size_of",
    "window_of",
    "with_options",
]


def numbers_of(text: str, option: str) -> list[float]:
    """A list of numbers, written `0.75,1,1.25`.

    Raises:
        ConfigError: not numbers.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(option, f"{text!r} is no list of numbers", "write for example 0.75,1,1.25") from None


def size_of(text: str, option: str, example: str) -> tuple[int, int]:
    """Height and width, written `512x1024`.

    Raises:
        ConfigError: not two positive integers.
    """
    found = re.fullmatch(r"(\d+)[x×](\d+)", text.strip().lower())
    if found is None or not min(int(x) for x in found.groups()):
        raise ConfigError(option, f"{text!r} is no size", f"height x width in pixels, for example {option} {example}")
    return int(found[1]), int(found[2])


def window_of(text: str, example: str) -> tuple[int, ...]:
    """Height and width of a sliding window, written `512x1024`; empty for `none`.

    Raises:
        ConfigError: neither.
    """
    return () if text.strip().lower() == "none" else size_of(text, "--window", example)


def names_of(text: str, option: str, known: Sequence[str]) -> list[str]:
    """Names from `known`, written `a,b`: without duplicates, in the order given.

    Raises:
        ConfigError: an unknown name, or none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(option, f"unknown name {name!r}", near_or_all(name, known))
    if not names:
        raise ConfigError(option, "is empty", f"one or more of {', '.join(known)}")
    return list(dict.fromkeys(names))


def echo(text: str, *, err: bool = False) -> None:
    """Print lines of any length, neither wrapped nor coloured; names of others in them become printable."""
    typer.echo(printable(text, lines=True), err=err)


def refuse_password(uri: str | None) -> None:
    """Refuse an address of MLflow with a password or token, because addresses are stored in the run's records.

    Raises:
        MgcdaError: the address holds one.
    """
    from mgcda_dist.addresses import has_secret

    if uri is not None and has_secret(uri):
        raise MgcdaError(
            "--mlflow-uri",
            "the address holds a password or a token, which would be stored with the run",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )


def program(name: str) -> str:
    """A program of this environment as one types it: its name, or its path where the environment is not activated."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.is_file() else str(beside)


def with_options(message: str, program: Any, words: Sequence[str]) -> str:
    """A message of the library, which names arguments as `argument`, with the options of the command line instead.

    Args:
        message: also with an argument as its first word, before a colon.
        program: the click command; its parameters bear the names of the library's arguments.
        words: the command line. Only options of the command that it runs count: `skip` may also be a value of a key.
    """
    running = program
    for word in words:
        running = getattr(running, "commands", {}).get(word, running)
    own = {each.name: each.opts[0] for each in running.params if each.opts[0].startswith("--")}
    first, colon, rest = message.partition(": ")
    message = own.get(first, first) + colon + rest
    return re.sub(r"`(\w+)`", lambda found: own.get(found[1], found[0]), message)
