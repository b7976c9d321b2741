"""Shards that can only be read from front to back: gzip tars, and the output of a command (WebDataset's `pipe:`).

The plan reads samples in any order, so each such shard is streamed once per machine, sample by sample, and written to
the mirror of remote shards as a plain tar of its images, labels and JSON. That tar is the same bytes every time, so its
checksum in the manifest says whether the source is still the same, and it is read by offset as any other shard.

A command runs with the rights of the user. It therefore never comes from a manifest, only from the place that the user
gives (`split_place`); a manifest contributes file names, which must be plain and are quoted.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shlex
import tarfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from mgcda_dist.choices import PIPE
from mgcda_dist.data.ledger import Ledger
from mgcda_dist.data.shards.encode import EncodedSample
from mgcda_dist.data.shards.members import REPACK, category_of, sample_member, unreadable
from mgcda_dist.data.shards.remote import UNCHECKED, Damaged, Expected, RemoteFolder, ShardCache, fetch
from mgcda_dist.data.shards.roles import Extensions
from mgcda_dist.data.shards.tar import ShardFile
from mgcda_dist.errors import ConfigError, MgcdaError, ShardError
from mgcda_dist.trust import below, regular

__all__ = ["STREAMED", "StreamSource", "is_packed", "shard_names", "split_place", "unpack"]

STREAMED = "streamed"
"""Key of a manifest's options: the extensions that its shards are unpacked with; absent: they are read in place."""

_NAME = "{}"  # stands for the shard's name in a command
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

# Held while a command starts. A process that is forked then, a loader process for instance, would inherit the end of
# the pipe that the command writes to, and as long as it lived the reader would wait for the end of the output.
_NO_FORK = threading.Lock()
os.register_at_fork(before=_NO_FORK.acquire, after_in_parent=_NO_FORK.release, after_in_child=_NO_FORK.release)


def split_place(place: Path | str) -> tuple[str, str]:
    """`FOLDER pipe:COMMAND` as (folder, command); the command is empty where there is none.

    Raises:
        ConfigError: no folder, or a command that does not name the shard.
    """
    folder, pipe, command = str(place).partition(PIPE)
    if pipe and not (folder.strip() and _NAME in command):
        problem = "the command does not name the shard" if folder.strip() else "no folder for the manifest"
        remedy = f"as in `shards/theirs{PIPE}curl -sf https://host/{_NAME}`: {_NAME} stands for the shard's name"
        raise ConfigError("shards", f"{problem}: {place}", remedy)
    return folder.strip() if pipe else folder, command


def is_packed(name: str) -> bool:
    """Is the shard a compressed tar, by its name?"""
    return name.endswith((".tar.gz", ".tgz"))


def shard_names(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for, e.g. `train-{000000..003999}.tar`."""
    from webdataset.shardlists import expand_urls

    return expand_urls(pattern)


@dataclass(frozen=True)
class StreamSource:
    """The shards of a folder that can only be streamed.

    Attributes:
        folder: holds the compressed tars.
        command: gives the shards instead; empty: the folder does.
        extensions, label_format: which members are images and labels, see `Extensions.choose`.
        cache: the mirror, which holds them unpacked.
        remote: where the folder is a mirror of; None: it is the folder itself.
    """

    folder: Path
    command: str
    extensions: Extensions
    cache: ShardCache
    remote: RemoteFolder | None = None
    label_format: str = "unlabelled"
    ledger: Ledger = field(default_factory=Ledger)
    """Counts what is passed over, at the last streaming."""

    def path(self, name: str, sha256: bytes) -> Path:
        """Place in the mirror of a shard whose plain tar has this checksum."""
        return self.cache.folder / "streamed" / f"{name}-{sha256.hex()[:16]}.tar"

    def fetch(self, name: str, expected: Expected) -> Path:
        """The plain tar of a shard, streamed unless the mirror has it.

        Raises:
            ShardError, TransientError: as `remote.fetch`.
        """
        assert expected.sha256 is not None
        return self._fetch(name, self.path(name, expected.sha256), expected)

    def fetch_unchecked(self, name: str) -> Path:
        """The plain tar of a shard that no manifest counts yet, under a name that is neither read nor dropped."""
        folder = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return self._fetch(name, self.cache.folder / "streamed" / f"{folder}-{name}.new", UNCHECKED, fresh=True)

    def _fetch(self, name: str, path: Path, expected: Expected, *, fresh: bool = False) -> Path:
        where = f"{self.remote.shown if self.remote else self.folder}/{name}"
        get = partial(self._unpack, name)
        if self.command or self.remote:
            return fetch(path, get, where, self.cache, expected, fresh=fresh)
        return fetch(path, get, where, self.cache, expected, fresh=fresh, tries=1)  # a file is the same every time

    def _unpack(self, name: str, path: Path) -> None:
        self.ledger.clear()
        if self.command:
            with _piped(self.command, name) as stream:
                return unpack(stream, path, name, self.extensions, self.label_format, self.ledger)
        packed = path.with_name(f"{path.name}.packed") if self.remote else regular(below(self.folder, name))
        try:
            if self.remote:
                self.remote.download(name, packed)
            with packed.open("rb") as file:
                return unpack(file, path, name, self.extensions, self.label_format, self.ledger)
        finally:
            if self.remote:
                packed.unlink(missing_ok=True)


@contextmanager
def _piped(command: str, name: str) -> Iterator[BinaryIO]:
    """The output of a command for one shard.

    Raises:
        ShardError: the name is not a plain file name.
        OSError: the command failed.
    """
    from webdataset.gopen import gopen

    if not _PLAIN.fullmatch(name):
        raise ShardError(repr(name), "not a plain file name", "a command gets names of letters, digits, `.`, `_`, `-`")
    with _NO_FORK:
        stream: Any = gopen(f"pipe:{command.replace(_NAME, shlex.quote(name))}")
    try:
        yield stream
    except BaseException:
        stream.proc.kill()
        stream.ignore_errors = True
        stream.close()
        if stream.status > 0:  # and not the kill's: WebDataset's text repeats the command, which may hold a secret
            raise OSError(f"the command ended with exit code {stream.status}") from None
        raise
    stream.ignore_errors = True
    stream.close()
    if stream.status:
        raise OSError(f"the command ended with exit code {stream.status}")


class _Tail:
    """A stream that remembers its last bytes, more than tarfile reads at once."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile) -> None:
        self._stream, self._last, self._num_read = stream, b"", 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._last = (self._last + data)[-2 * tarfile.RECORDSIZE :]
        self._num_read += len(data)
        return data

    def check_end(self, place: int, where: str) -> None:
        """Read the stream to its end: a command that cannot write all of its output would fail.

        Args:
            place: of the end mark.

        Raises:
            Damaged: there is none. A stream that is cut off between two members looks like an archive to tarfile.
            ShardError: data behind it.
        """
        rest = self._last[len(self._last) - (self._num_read - place) :]
        rest += self.read(max(0, tarfile.BLOCKSIZE - len(rest)))
        if len(rest) < tarfile.BLOCKSIZE or any(rest[: tarfile.BLOCKSIZE]):
            raise Damaged("not a whole tar file (it does not end with an empty block)")
        while rest:
            if any(rest):
                problem = "behind the end mark of the tar there is more data, another tar perhaps"
                raise ShardError(where, problem, "pack all members as one tar")
            rest = self.read(2**20)


def unpack(
    stream: BinaryIO,
    path: Path,
    name: str,
    extensions: Extensions,
    label_format: str = "unlabelled",
    ledger: Ledger | None = None,
) -> None:
    """Write the samples of a tar stream to a plain tar file, one at a time.

    Args:
        stream: of a tar, which is read to its end.
        path: of the plain tar, which is created.
        name: of the shard; its ending says whether it is compressed.
        extensions, label_format: which members are images and labels, see `Extensions.choose`.
        ledger: counts the members that are passed over.

    Raises:
        Damaged: not a whole tar.
        ShardError: a sample without an image, two with one key, or a member that is a link or leads out of the archive.
    """
    file, keys = ShardFile(path), set[str]()
    try:
        for sample in _samples(stream, name, extensions, label_format, ledger or Ledger()):
            if sample.key in keys:
                raise ShardError(f"{name}: {sample.key}", "two samples have this key", "keys must be unique in a shard")
            keys.add(sample.key)
            file.add(sample)
        if not keys:
            raise ShardError(name, "no sample in it", "leave it out")
        file.finish(name)
    finally:
        file.close()


def _samples(
    stream: BinaryIO, name: str, extensions: Extensions, label_format: str, ledger: Ledger
) -> Iterator[EncodedSample]:
    tail = _Tail(gzip.GzipFile(fileobj=stream) if is_packed(name) else stream)
    try:
        with tarfile.open(fileobj=cast("BinaryIO", tail), mode="r|", encoding="utf-8") as tar:
            for key, members in _grouped(tar, name, extensions, ledger):
                contents = {extension: content for extension, (_, content) in members.items()}
                chosen = extensions.choose(f"{name}: {key}", contents, label_format, contents.__getitem__)
                image, label = chosen or ("", "")
                for extension, (member, _) in members.items():
                    if not chosen or extension not in (image, label, "json"):
                        ledger.add("not the image, the label or the JSON of a sample", member)
                if chosen:
                    meta = contents.get("json", b"")
                    yield EncodedSample(
                        key, contents[image], extensions.kind(image), contents[label] if label else b"", meta,
                        category=category_of(meta),
                    )  # fmt: skip
            tail.check_end(tar.offset, name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Damaged(f"not a whole tar file ({error.args[0]})") from None
    except MgcdaError:
        raise
    except ValueError as error:  # tarfile's, for numbers and texts in damaged headers
        raise Damaged(f"not a whole tar file ({error})") from None


def _grouped(
    tar: tarfile.TarFile, where: str, extensions: Extensions, ledger: Ledger
) -> Iterator[tuple[str, dict[str, tuple[str, bytes]]]]:
    """Key, and extension → name and bytes of the members that follow one another with this key.

    Only members that a sample may need are read; the bytes of others are empty.
    """
    current, members = "", dict[str, tuple[str, bytes]]()
    for info in tar:
        tar.__dict__["members"] = []  # tarfile would keep all headers
        found = None if info.isdir() else sample_member(info.name, where, ledger, safe=extensions.safe_keys)
        if found is None:
            continue
        key, extension = found
        if key != current and members:
            yield current, members
            members = {}
        current, content = key, b""
        if extension in members:
            problem = f"two members .{extension}, {members[extension][0]} and {info.name}"
            raise ShardError(f"{where}: {key}", problem, "names must be unique in a shard, also if case does not count")
        if extensions.reads(extension):
            if problem := unreadable(info):
                raise ShardError(f"{where}: {info.name}", f"{problem}, which a stream cannot follow", REPACK)
            file = tar.extractfile(info)
            content = file.read() if file else b""
        members[extension] = info.name, content
    if members:
        yield current, members
