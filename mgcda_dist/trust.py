"""The trust border: names, paths, sizes and documents of others are checked here before anything uses them.

Every command reads the files that others hand over (record.jsonl, model.json, manifest.json, results.json, pictures,
tar files) through these functions. SECURITY.md says what follows from them.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, PydanticUserError, StringConstraints, TypeAdapter, ValidationError

from mgcda_dist.errors import MgcdaError
from mgcda_dist.text import printable

__all__ = [
    "DOCUMENT_BYTES",
    "MEMBER_BYTES",
    "Name",
    "RelativePath",
    "below",
    "enclosed",
    "offline",
    "open_lock",
    "read_bytes",
    "read_json",
    "read_object",
    "regular",
    "unpacked",
    "validated",
]

DOCUMENT_BYTES = 64 << 20
"""Bound on a JSON document; results.json of a hundred sets has less than a megabyte."""
MEMBER_BYTES = 1 << 29
"""Bound on an encoded image or label, and on an array in an archive: 67 million pixels, the most that is decoded, of
eight bytes each."""

_DO_NOT_TRUST = "do not trust these files"
_LENGTH = 1024
_Schema = TypeVar("_Schema")

# ------------------------------------------------------------------------------------------------------ names and paths


def _name(text: str) -> str:
    if printable(text) != text:
        raise ValueError("holds control characters")
    return text


def _relative_path(text: str) -> str:
    path = PurePosixPath(_name(text))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("leads out of its folder")
    return text


Name = Annotated[str, StringConstraints(max_length=_LENGTH), AfterValidator(_name)]
"""A name of others: one line of printable characters."""
RelativePath = Annotated[str, StringConstraints(max_length=_LENGTH), AfterValidator(_relative_path)]
"""A path of others below the folder of the file that names it; as text: `below` also follows links."""


def below(folder: Path, name: str) -> Path:
    """The place of a name that a file of others gives, in the folder of that file.

    Raises:
        MgcdaError: it is no relative path of printable characters, or leads out of the folder, itself or by a link.
    """
    path = folder / validated(RelativePath, name, str(folder), _DO_NOT_TRUST)
    _refuse_outside(path, folder)
    return path


def enclosed(path: Path, folder: Path) -> Path:
    """A path whose content lies in `folder` without exception: no link that leaves it, only files and folders.

    Raises:
        MgcdaError: with the first link, pipe or device.
    """
    _refuse_outside(path, folder)
    for current, folders, files in os.walk(path):
        for name in sorted(folders + files):
            child = Path(current, name)
            mode = child.lstat().st_mode
            if stat.S_ISLNK(mode):
                _refuse_outside(child, folder)
            elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise MgcdaError(str(child), "is neither a file nor a folder", "remove it")
    return path


def _refuse_outside(path: Path, folder: Path) -> None:
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(os.path.realpath(folder)):
        problem = f"is a link that leads out of {folder}, to {target}"
        raise MgcdaError(str(path), problem, "if it is your own, copy the folder with its links followed (cp -rL)")


def open_lock(path: Path) -> IO[str]:
    """A lock file, made if missing, for reading and writing; its folder is made.

    Raises:
        MgcdaError: a link, which would lock, and write to, another file; or no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if not path.is_symlink():
            raise
        raise MgcdaError(str(path), "is a link, and locks are none", "remove it") from error
    file = os.fdopen(handle, "r+", encoding="utf-8", errors="replace")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise MgcdaError(str(path), "is no file", "remove it")
    return file


# ---------------------------------------------------------------------------------------------------------- documents


def read_bytes(path: Path, most: int = DOCUMENT_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        MgcdaError: a folder, pipe or device, which would have no end; or more than `most` bytes.
        OSError: missing, or not to be read.
    """
    handle = os.open(regular(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        _refuse_special(path, status.st_mode)
        if status.st_size > most:
            raise MgcdaError(str(path), f"{status.st_size} bytes are over the bound of {most}", _DO_NOT_TRUST)
        return file.read(status.st_size)


def regular(path: Path) -> Path:
    """The path of a regular file, for libraries that open files themselves: a pipe or a device would have no end.

    Raises:
        MgcdaError: something else.
        OSError: missing.
    """
    _refuse_special(path, path.stat().st_mode)
    return path


def unpacked(path: Path, most: int = MEMBER_BYTES) -> Path:
    """The path of a zip archive (.npz) none of whose members is over a bound when it is unpacked.

    Raises:
        MgcdaError: one that is, no whole archive, or a pipe or device.
        OSError: missing.
    """
    try:
        with zipfile.ZipFile(regular(path)) as archive:
            large = next((member for member in archive.infolist() if member.file_size > most), None)
    except zipfile.BadZipFile as error:
        raise MgcdaError(str(path), f"is no whole archive: {error}") from None
    if large is not None:
        problem = f"{large.filename} unpacks to {large.file_size} bytes, over the bound of {most}"
        raise MgcdaError(str(path), problem, _DO_NOT_TRUST)
    return path


def read_json(path: Path, most: int = DOCUMENT_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        MgcdaError: as `read_bytes`; no UTF-8, no JSON, nested without end, a number that JSON does not have (NaN).
        OSError: missing, or not to be read.
    """
    try:
        return json.loads(read_bytes(path, most), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        if isinstance(error, MgcdaError):
            raise
        raise MgcdaError(str(path), f"is no whole JSON document: {error}") from None


def _finite(number: str) -> float:
    value = float(number)  # of `NaN`, `Infinity` and `1e999` Python makes numbers
    if not math.isfinite(value):
        raise ValueError(f"{number} is no number of JSON")
    return value


def read_object(path: Path, most: int = DOCUMENT_BYTES) -> dict[str, Any]:
    """The object of a JSON file; empty: the file is missing, too large or damaged, or holds no object."""
    try:
        content = read_json(path, most)
    except (OSError, MgcdaError):
        return {}
    return content if isinstance(content, dict) else {}


def validated(
    schema: type[_Schema] | Any,
    content: object,
    where: str,
    remedy: str = "",
    error: type[MgcdaError] = MgcdaError,
) -> Any:
    """The content in the form of a schema: a dataclass, a `TypedDict`, an annotated type.

    Raises:
        MgcdaError: of the class `error`: what does not fit, at which key, with its value.
    """
    try:
        return _adapter(schema).validate_python(content)
    except ValidationError as refused:
        found = refused.errors(include_url=False)
        first, more = found[0], len(found) - 1
        key = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        value = "" if first["type"] == "missing" else _shortened(first["input"])
        what = " = ".join(filter(None, (key, value)))
        problem = f"{what}: {problem[:1].lower()}{problem[1:]}" + (f", and {more} more" if more else "")
        raise error(where, problem, remedy) from None


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(schema, config=ConfigDict(coerce_numbers_to_str=True, revalidate_instances="always"))
    except PydanticUserError:  # a schema with a configuration of its own
        return TypeAdapter(schema)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _refuse_special(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise MgcdaError(str(path), f"is {kind}, not a file", "remove it")


# ----------------------------------------------------------------------------------------------------------- requests

_REQUESTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_offline = threading.local()


@contextmanager
def offline(where: str) -> Iterator[None]:
    """Refuse requests of this thread within the block, whichever library begins them.

    Raises:
        MgcdaError: instead of the first one; `where`: what a file asked to build.
    """
    _watch_requests()
    before, _offline.where = getattr(_offline, "where", None), where
    try:
        yield
    finally:
        _offline.where = before


@cache
def _watch_requests() -> None:
    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in _REQUESTS and (where := getattr(_offline, "where", None)) is not None:
            raise MgcdaError(where, "asks for a connection, and loading makes none", _DO_NOT_TRUST)

    sys.addaudithook(refuse)
