"""Remote shard folders (`s3://`, `gs://`, `https://`, …): fetched into a bounded local mirror, checked, retried.

A remote folder is a local one whose files are fetched on demand. All processes of a machine share one mirror:
a file is fetched under a lock, beside its place, and renamed when it is whole. The file used longest ago is
dropped first; on Linux a dropped file stays readable for processes that have it open. Buckets are never listed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mgcda_dist.errors import MgcdaError, ShardError, TransientError, install_extra
from mgcda_dist.files import PendingFile, remove_leftovers
from mgcda_dist.trust import open_lock

__all__ = ["UNCHECKED", "Damaged", "Expected", "Prefetch", "RemoteFolder", "ShardCache", "fetch", "is_url"]

_TRIES = 6
_FIRST_PAUSE_S = 0.5


def is_url(folder: Path | str) -> bool:
    """Is the shard folder remote?"""
    return "://" in str(folder)


@dataclass(frozen=True)
class ShardCache:
    """The local mirror of remote shards.

    Attributes:
        folder: of the mirror, on a local disk.
        max_bytes: bound on the tar files in it. It should hold a window of shards of every domain.
    """

    folder: Path
    max_bytes: int

    @classmethod
    def default(cls) -> ShardCache:
        """`MGCDA_CACHE` (~/.cache/mgcda) with `MGCDA_CACHE_GB` (50)."""
        folder = os.environ.get("MGCDA_CACHE") or "~/.cache/mgcda"
        return cls(Path(folder).expanduser(), int(float(os.environ.get("MGCDA_CACHE_GB", "50")) * 1e9))

    def make_room(self, keep: Path) -> None:
        """Drop the tar files used longest ago until the bound holds, but not `keep`."""
        with _locked(self.folder / ".lock"):
            files = [(stat.st_mtime, stat.st_size, path) for path, stat in _tars(self.folder)]
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self.max_bytes:
                    break
                if path != keep:
                    path.unlink(missing_ok=True)
                    total -= size


class Expected(NamedTuple):
    """Properties that a fetched file must have: SHA-256 (32 bytes) and size; None: not checked."""

    sha256: bytes | None = None
    num_bytes: int | None = None


UNCHECKED = Expected()


@dataclass(frozen=True)
class RemoteFolder:
    """A shard folder behind a URL.

    Attributes:
        url: without a slash at its end; credentials in it, or in its query, never reach a message.
    """

    url: str
    cache: ShardCache

    @property
    def shown(self) -> str:
        """The URL without credentials and query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def mirror(self) -> Path:
        """The local folder that stands for it."""
        scheme, _, rest = self.shown.partition("://")
        return self.cache.folder / scheme / rest.strip("/")

    def fetch(self, name: str, expected: Expected = UNCHECKED, *, fresh: bool = False) -> Path:
        """The local copy of a file of the folder; arguments and errors as in `fetch`."""
        where, get = f"{self.shown}/{name}", partial(self.download, name)
        return fetch(self.mirror / name, get, where, self.cache, expected, fresh=fresh)

    def download(self, name: str, path: Path) -> None:
        """Copy a file of the folder to a path; raises what the protocol raises, without credentials."""
        try:
            _get(f"{self.url}/{name}", path)
        except (FileNotFoundError, MgcdaError):
            raise
        except Exception as error:  # every protocol has errors of its own
            text = str(error).replace(self.url, self.shown).replace(urlsplit(self.url).query or "\0", "…")
            raise OSError(f"{type(error).__name__}: {text}") from None

    def drop(self) -> None:
        """Drop the mirror, e.g. when the remote manifest has changed."""
        shutil.rmtree(self.mirror, ignore_errors=True)


def fetch(
    path: Path,
    get: Callable[[Path], None],
    where: str,
    cache: ShardCache,
    expected: Expected,
    *,
    fresh: bool = False,
    tries: int = _TRIES,
) -> Path:
    """A file of the mirror, fetched if it is not there.

    Args:
        path: in the mirror.
        get: writes the content to a path; called again after an error.
        where: of the original, for messages.
        cache: the mirror, whose bound is kept.
        expected: what is checked after each try.
        fresh: fetch it even if a copy is there.
        tries: before it is given up.

    Raises:
        ShardError: there is no such file, or it is not what the manifest says, however often it is fetched.
        TransientError: `get` failed in other ways in all tries.
    """
    if not fresh and _touched(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}.lock")):
        if fresh or not _touched(path):  # another process may have fetched it meanwhile
            _fetch(path, get, where, expected, tries)
    if path.suffix == ".tar":
        cache.make_room(keep=path)
    return path


def _fetch(path: Path, get: Callable[[Path], None], where: str, expected: Expected, tries: int) -> None:
    error = Exception()
    remove_leftovers(path)  # the lock is held
    for attempt in range(tries):
        if attempt:  # jitter from the clock, so that many processes do not return at once
            time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1) * (0.5 + time.monotonic_ns() % 1000 / 2000))
        try:
            with PendingFile(path) as temporary:
                get(temporary)
                _check(temporary, expected)
            return
        except FileNotFoundError:
            remedy = "check the place, or write or copy the shards there again"
            raise ShardError(where, "there is no such file", remedy) from None
        except MgcdaError:
            raise
        except (Damaged, OSError) as caught:
            error = caught
    if isinstance(error, Damaged):
        often = f"fetched {tries} times, " if tries > 1 else ""
        raise ShardError(where, f"{often}{error}", "write or copy the shards there again")
    problem = f"cannot be fetched, {tries} tries: {error}"
    raise TransientError(where, problem, "check the network, the server and the credentials of this machine")


class Prefetch:
    """Two threads that fetch shards before they are read, in each process that asks. Errors are left to the reader."""

    def __init__(self) -> None:
        self._process, self._jobs = 0, queue.SimpleQueue[tuple[Callable[[int], Path], int]]()

    def ask(self, fetch: Callable[[int], Path], shard: int) -> None:
        """Call `fetch(shard)` soon."""
        if self._process != os.getpid():  # threads do not survive a fork
            self._process, self._jobs = os.getpid(), queue.SimpleQueue()
            for _ in range(2):
                threading.Thread(target=self._work, args=(self._jobs,), daemon=True).start()
        self._jobs.put((fetch, shard))

    @staticmethod
    def _work(jobs: queue.SimpleQueue[tuple[Callable[[int], Path], int]]) -> None:
        while True:
            fetch, shard = jobs.get()
            with suppress(Exception):
                fetch(shard)

    def __reduce__(self) -> tuple[type[Prefetch], tuple[()]]:
        return Prefetch, ()


class Damaged(Exception):
    """A fetched file differs from what the manifest says, or is no tar file."""


def _get(url: str, path: Path) -> None:
    try:
        from fsspec.core import url_to_fs

        options = {}
        if url.startswith("http"):
            import aiohttp

            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)}
        filesystem, place = url_to_fs(url, **options)
    except ImportError as error:
        remedy = f"{install_extra('remote')}; gs:// needs gcsfs"
        raise ShardError(urlsplit(url).scheme + "://", f"cannot be read here: {error}", remedy) from None
    filesystem.get_file(place, str(path))


def _check(path: Path, expected: Expected) -> None:
    if expected.num_bytes is not None and path.stat().st_size != expected.num_bytes:
        raise Damaged(f"{path.stat().st_size} bytes arrive instead of {expected.num_bytes}")
    if expected.sha256 is not None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != expected.sha256:
                raise Damaged("its checksum differs from the manifest's")


def _touched(path: Path) -> bool:
    """Is the file there? If so, it counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _tars(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.rglob("*.tar"):
        try:
            yield path, path.stat()
        except FileNotFoundError:
            continue  # dropped by another process


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # closing would not unlock it while a process forked meanwhile has it open
            fcntl.flock(file, fcntl.LOCK_UN)
