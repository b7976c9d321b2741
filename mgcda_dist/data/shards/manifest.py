"""The manifest of a shard folder: the meaning, the number and the places of its samples.

A folder holds `shard-000000.tar` … (plain WebDataset tar files), per shard a sample table, `shards.npy` with one row
per shard, and `manifest.json`, which is written last: a folder without it is not finished.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from mgcda_dist.choices import MANIFEST, PIPE, Exif, ShardKind
from mgcda_dist.data.shards.remote import Expected, RemoteFolder, ShardCache, is_url
from mgcda_dist.data.shards.roles import Extensions
from mgcda_dist.data.shards.streamed import STREAMED, StreamSource, is_packed, split_place
from mgcda_dist.data.shards.tables import SHARD_TABLE, index_path, load_table
from mgcda_dist.errors import MgcdaError, ShardError
from mgcda_dist.files import write_atomically, write_json_atomically
from mgcda_dist.trust import Name, below, read_json, regular, validated

__all__ = ["CHANGED", "FORMAT_VERSION", "MANIFEST", "MIXED_UP", "Manifest", "manifest_digest"]

FORMAT_VERSION = 1
MIXED_UP = "files of different folders may be mixed up: `mgcda shards verify` says which; copy the folder again"
CHANGED = (
    f"copy the folder again; if {MANIFEST} was changed after it was written, write the shards again instead, for "
    "example with another `label_format`"
)
_CHANGED = f"{CHANGED}; `mgcda shards verify` says what fits"
_WRITE = "write shards with `mgcda shards write`, or index foreign shards with `mgcda shards index`"


_Count = Annotated[int, Field(ge=0, lt=1 << 62)]


class _Streamed(TypedDict, total=False):
    image: list[Name]
    label: list[Name]
    safe_keys: bool


class _Content(TypedDict):
    """The keys of `manifest.json`, beside the version."""

    kind: ShardKind
    dataset: Name
    split: Name
    label_format: Name
    num_samples: _Count
    num_shards: _Count
    num_bytes: _Count
    digest: Name
    label_histogram: dict[int, _Count]
    options: dict[str, Any]
    provenance: dict[str, Any]
    tool_version: Name


@dataclass(frozen=True)
class Manifest:
    """A readable set of shards. It is small when pickled: the tables are opened again where they are needed.

    Attributes:
        kind: `frames` (scenes with labels) or `objects` (cutouts with alpha, to paste).
        dataset, split: names, e.g. `camvid`, `train`.
        label_format: meaning of the raw ids of the labels, see `mgcda_dist.data.labels`.
        num_samples, num_shards, num_bytes: totals.
        digest: SHA-256 (hex) over the shard table and the fields above: equal digests, equal data.
        label_histogram: pixels per raw id over all labels.
        options: of resizing and encoding, or of streaming (`streamed`); as JSON, since writers differ.
        provenance: origin of the data, as JSON of the writer's choice; recorded, and shown.
        tool_version: version of the package that wrote it.
        remote: where the folder is a mirror of; None: it is the folder itself.
        command: gives the shards one by one, see `mgcda_dist.data.shards.streamed`; never read from a file.
    """

    folder: Path
    kind: ShardKind
    dataset: str
    split: str
    label_format: str
    num_samples: int
    num_shards: int
    num_bytes: int
    digest: str
    label_histogram: dict[int, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    tool_version: str = ""
    remote: RemoteFolder | None = None
    command: str = ""

    @classmethod
    def open(cls, place: Path | str, cache: ShardCache | None = None, *, check: bool = True) -> Manifest:
        """The manifest of a folder; a million shards open in well under a second.

        Args:
            place: a path, or a URL that fsspec reads; either may be followed by ` pipe:COMMAND`.
            cache: where the files of a URL go; None: `ShardCache.default()`.
            check: refuse a shard table of another digest; False: for `verify_shards`, which says what differs.

        Raises:
            ConfigError: a command that does not name the shard.
            ShardError: no manifest, a damaged one, one of a newer version, or a shard table that does not fit it.
        """
        folder, command = split_place(place)
        remote = None
        if is_url(folder):
            remote = RemoteFolder(folder.rstrip("/"), cache or ShardCache.default())
            folder = _mirrored(remote)
        folder = Path(folder).absolute()
        raw = _read_json(folder / MANIFEST)
        version = raw.pop("format_version", None)
        if version != FORMAT_VERSION:
            problem = f"format version {version!r}; this version of mgcda reads {FORMAT_VERSION}"
            raise ShardError(str(folder / MANIFEST), problem, "update mgcda, or write the shards again")
        missing = _Content.__required_keys__ - raw.keys()
        if missing:
            raise ShardError(str(folder / MANIFEST), f"the keys {', '.join(sorted(missing))} are missing", _WRITE)
        content = validated(_Content, raw, str(folder / MANIFEST), _WRITE, ShardError)
        manifest = cls(folder=folder, remote=remote, command=command, **content)
        if len(manifest.table) != manifest.num_shards:
            problem = f"{len(manifest.table)} rows, but {MANIFEST} counts {manifest.num_shards} shards"
            raise ShardError(str(folder / SHARD_TABLE), problem, _WRITE)
        if not check:
            return manifest
        try:
            manifest._refuse_other_table()
        except ShardError:
            if remote is None:
                raise
            remote.fetch(SHARD_TABLE, fresh=True)  # it may have come while the folder was written
            manifest.__dict__.pop("table")  # the one that is mapped
            manifest._refuse_other_table()
        return manifest

    def _refuse_other_table(self) -> None:
        """Refuse a table that is another folder's, or a manifest that was changed; the digest covers both."""
        counts = {name: int(self.table[name].sum(dtype=np.int64)) for name in ("num_samples", "num_bytes")}
        for name, count in counts.items():
            if count != (said := getattr(self, name)):
                problem = f"{name} is {said}, but {SHARD_TABLE} has {count}"
                raise ShardError(str(self.folder / MANIFEST), problem, _CHANGED)
        if manifest_digest(self.table, *self.identity) != self.digest:
            problem = f"its digest is not that of {SHARD_TABLE} beside it and of its own names"
            raise ShardError(str(self.folder / MANIFEST), problem, _CHANGED)

    def save(self) -> None:
        """Write `manifest.json`, at once or not at all."""
        content = asdict(self)
        del content["folder"], content["remote"], content["command"]
        content = {"format_version": FORMAT_VERSION} | content
        write_json_atomically(self.folder / MANIFEST, content, indent=2)

    @cached_property
    def table(self) -> np.ndarray:
        """Memory-mapped structured array, one row per shard: name, num_samples, num_bytes, sha256 (32 bytes)."""
        columns = ("name", "num_samples", "num_bytes", "sha256")
        return load_table(below(self.folder, SHARD_TABLE), columns, mapped=True)

    @property
    def shard_sizes(self) -> np.ndarray:
        """Samples per shard, uint32, a view of the memory-mapped table."""
        return self.table["num_samples"]

    @property
    def exif(self) -> Exif | None:
        """Use of the orientation marks of images; None: not chosen, and labelled images must not have one."""
        choice = self.options.get("exif")
        return choice if choice in get_args(Exif) else None

    @property
    def identity(self) -> list[str]:
        """Strings that the digest covers beside the shard table; folders from before `exif` keep theirs."""
        return [self.kind, self.dataset, self.split, self.label_format, *([self.exif] if self.exif else [])]

    @property
    def place(self) -> str:
        """The folder, or the URL it mirrors, for messages and records."""
        return self.remote.shown if self.remote else str(self.folder)

    @property
    def mirrored(self) -> bool:
        """Do the shards come through the mirror of this machine?"""
        return bool(self.remote or self.command or STREAMED in self.options)

    def shard_path(self, shard: int) -> Path:
        """Path of a shard's tar file; one that is not here, or can only be streamed, is brought to the mirror first.

        Raises:
            ShardError, TransientError: it cannot be fetched.
        """
        row, name = self.table[shard], self._name(shard)
        expected = Expected(row["sha256"].tobytes(), int(row["num_bytes"]))
        if self.command or is_packed(name):
            cache = self.remote.cache if self.remote else ShardCache.default()
            given, where = self.options.get(STREAMED, {}), f"{self.folder / MANIFEST}: options.{STREAMED}"
            stored = Extensions.stored(validated(_Streamed, given, where, _WRITE, ShardError))
            labels = self.label_format if self.kind == "frames" else "unlabelled"
            source = StreamSource(self.folder, self.command, stored, cache, self.remote, labels)
            return source.fetch(name, expected)
        if self.remote:
            return self.remote.fetch(name, expected)
        if STREAMED in self.options and not (self.folder / name).exists():
            problem, remedy = "its shards come from a command", f"name it behind the folder: `FOLDER{PIPE}COMMAND`"
            raise ShardError(self.place, f"{problem}, which a manifest never holds", remedy)
        path = below(self.folder, name)
        return regular(path) if path.exists() else path

    def shard_index(self, shard: int) -> np.ndarray:
        """Sample table of a shard: key, image_offset, image_bytes, image_ext, label_…, meta_offset, meta_bytes.

        Raises:
            ShardError: the table is missing, damaged, or has another number of rows than the manifest says.
        """
        path = below(self.folder, index_path(self.folder / self._name(shard)).name)
        if not self.remote:
            return self._load_index(path, int(self.shard_sizes[shard]))
        self.remote.fetch(path.name)
        try:
            return self._load_index(path, int(self.shard_sizes[shard]))
        except ShardError:  # no checksum says whether all of it has arrived
            self.remote.fetch(path.name, fresh=True)
            return self._load_index(path, int(self.shard_sizes[shard]))

    @staticmethod
    def _load_index(path: Path, expected: int) -> np.ndarray:
        columns = ("key", "image_offset", "image_bytes", "image_ext", "label_offset", "label_bytes")
        index = load_table(path, columns, mapped=False)
        if len(index) != expected:
            raise ShardError(str(path), f"{len(index)} samples, but the manifest counts {expected}", _WRITE)
        try:
            b"\n".join(index["key"].tolist()).decode()
        except UnicodeDecodeError as error:
            raise ShardError(str(path), f"a damaged key ({error})", _WRITE) from error
        return index

    def _name(self, shard: int) -> str:
        where, raw = str(self.folder / SHARD_TABLE), self.table[shard]["name"]
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            raise ShardError(where, f"the shard name {raw!r} is no file name", _WRITE) from error
        if Path(name).name != name:
            # From an untrusted table: it would lead out of the folder, and a mirror would write there.
            raise ShardError(where, f"the shard name {name!r} is a path", "do not trust this set")
        return name

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would carry the whole table into every loader worker.
        return {name: value for name, value in self.__dict__.items() if name != "table"}


def _mirrored(remote: RemoteFolder) -> Path:
    """Fetch the manifest and the shard table; drop the mirror of other shards at that URL."""
    held = remote.mirror / MANIFEST
    before = held.read_bytes() if held.is_file() else None
    remote.fetch(MANIFEST, fresh=True)
    if before is not None and held.read_bytes() != before:
        now = held.read_bytes()
        remote.drop()
        write_atomically(held, now)
    remote.fetch(SHARD_TABLE)
    return remote.mirror


def manifest_digest(table: np.ndarray, *identity: str) -> str:
    """SHA-256 (hex) of a shard table and the strings that identify the data set."""
    digest = hashlib.sha256(json.dumps(identity).encode())
    digest.update(np.ascontiguousarray(table).view(np.uint8).data)  # no copy: a mapped table may be large
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = read_json(below(path.parent, path.name))
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ShardError(str(path.parent), "no such folder", _WRITE) from None
        raise ShardError(str(path.parent), f"no {path.name} here", _WRITE) from None
    except OSError as error:
        raise ShardError(str(path), f"not readable ({error})", _WRITE) from error
    except MgcdaError as error:
        raise ShardError(error.where, f"not readable ({error.problem})", error.remedy or _WRITE) from error
    if not isinstance(raw, dict):
        raise ShardError(str(path), "not a manifest: expected a JSON object", _WRITE)
    return raw
