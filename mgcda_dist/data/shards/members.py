"""Members of tar files: their names and places, and the comparison of a sample table with them.

Sample tables have no checksum of their own; the tar file has one, so its headers are the reference. Tars that were put
one behind the other are read to the last one, and links to members count as these.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import BinaryIO, NamedTuple

import numpy as np

from mgcda_dist.data.ledger import Ledger
from mgcda_dist.data.shards.keys import safe_key
from mgcda_dist.errors import ShardError
from mgcda_dist.trust import MEMBER_BYTES

__all__ = [
    "REPACK",
    "Member",
    "category_of",
    "members_of",
    "misplaced_rows",
    "plain_key",
    "sample_member",
    "unreadable",
]

REPACK = "pack it again with `tar --dereference --hard-dereference`, and not sparse"


class Member(NamedTuple):
    """A member of a tar file: name, place of its bytes, and why it has none (empty: it has)."""

    name: str
    offset: int
    size: int
    problem: str = ""


def members_of(path: Path) -> tuple[list[Member], str]:
    """The members of a tar file but its folders, in order, and a problem of the file, or ""."""
    infos, problem = list[tarfile.TarInfo](), ""
    try:
        infos.extend(info for info in _headers(path) if not info.isdir())
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        problem = f"not a whole tar file ({error})"
    by_name = {normpath(info.name): info for info in infos}
    return [_member(info, by_name) for info in infos], problem


def _headers(path: Path) -> Iterator[tarfile.TarInfo]:
    start: int | None = 0
    with path.open("rb") as file:
        while start is not None:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
                yield from tar
                end = tar.offset
            start = _behind(file, start, end)


def _behind(file: BinaryIO, start: int, end: int) -> int | None:
    """The place of the tar behind the one that begins at `start` and has its end mark at `end`; None: there is none.

    Raises:
        tarfile.ReadError: no end mark, since the file is cut off or a header is damaged; or other data behind it.
    """
    file.seek(end)
    mark = file.read(tarfile.BLOCKSIZE)
    if any(mark) and start == end:
        raise tarfile.ReadError(f"the data behind its end mark, at byte {start}, is no tar")
    if any(mark) or len(mark) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no end mark at byte {end}")
    while block := file.read(2**20):
        if data := block.lstrip(b"\0"):
            place = file.tell() - len(data)
            return place - place % tarfile.BLOCKSIZE
    return None


def _member(info: tarfile.TarInfo, by_name: dict[str, tarfile.TarInfo]) -> Member:
    target, passed = info, set[str]()
    while target.islnk() or target.issym():
        place = target.linkname if target.islnk() else join(dirname(target.name), target.linkname)
        passed.add(target.name)
        following = by_name.get(normpath(place))
        if following is None or following.name in passed:
            return Member(info.name, 0, 0, f"a link to {info.linkname!r}, which is not in the archive")
        target = following
    return Member(info.name, target.offset_data, target.size, unreadable(target))


def unreadable(info: tarfile.TarInfo) -> str:
    """The reason why a member is not read from the bytes behind its header; empty: it is."""
    if info.islnk() or info.issym():
        return f"a link to {info.linkname!r}"
    if info.size > MEMBER_BYTES:
        return f"{info.size} bytes, over the bound of {MEMBER_BYTES}"
    return "a sparse member" if info.issparse() else "" if info.isreg() else "no regular file"


def sample_member(name: str, where: str, ledger: Ledger, *, safe: bool) -> tuple[str, str] | None:
    """Key and extension, in small letters, of a member of a sample; None for others, which are counted.

    Raises:
        ShardError: as `plain_key`.
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    if any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
        ledger.add("hidden", name)
        return None
    if not dot:
        ledger.add("without a suffix", name)
        return None
    return plain_key(f"{folder}{slash}{stem}", where, safe=safe), extension.lower()


def misplaced_rows(index: np.ndarray, members: list[Member], data: mmap) -> np.ndarray:
    """The rows of a sample table at whose places the tar file has no such member.

    Args:
        index: the sample table.
        members: from `members_of`.
        data: the tar file, to compare the category with that in the sample's JSON.
    """
    names: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for member in members:
        names[member.offset, member.size].append(member.name.removeprefix("./"))
    return index[[not _in_place(row, names, data) for row in index]]


def _in_place(row: np.void, names: dict[tuple[int, int], list[str]], data: mmap) -> bool:
    columns = row.dtype.names or ()
    places = {
        part: (int(row[f"{part}_offset"]), int(row[f"{part}_bytes"]))
        for part in ("image", "label", "meta")
        if f"{part}_offset" in columns and f"{part}_bytes" in columns
    }
    places = {part: place for part, place in places.items() if place != (0, 0)}
    extension, key = row["image_ext"].decode(errors="replace"), row["key"].decode()
    also = {"jpg": ".jpeg", "tif": ".tiff"}.get(extension, f".{extension}")
    endings = {"image": (f".{extension}", also), "meta": (".json",)}
    if "image" not in places or len(set(places.values())) < len(places):
        return False
    for part, place in places.items():
        ending = endings.get(part, "")
        if not any(_is_of(name, key) and name.lower().endswith(ending) for name in names.get(place, ())):
            return False
    if "category" not in columns or "meta" not in places:
        return True
    start, size = places["meta"]
    return category_of(bytes(data[start : start + size])).encode() == row["category"]


def _is_of(name: str, key: str) -> bool:
    """True if a member belongs to the sample `key`: as it stands (also in tables of older versions), or made safe."""
    folder, slash, file = name.rpartition("/")
    return name.startswith(f"{key}.") or safe_key(folder + slash + file.partition(".")[0]) == key


def category_of(meta: bytes) -> str:
    """The category of an object in its sample's JSON; empty if it has none."""
    try:
        content = json.loads(meta) if meta else {}
    except (ValueError, RecursionError):  # no JSON, or nested without end
        return ""
    category = str(content.get("category", "")) if isinstance(content, dict) else ""
    return category.encode(errors="backslashreplace").decode()  # JSON may hold halves of characters


def plain_key(name: str, where: str, *, safe: bool = True) -> str:
    """The key of a sample whose members have this name, up to the first dot of the file name.

    Args:
        name: with or without a leading `./`.
        where: the tar file, for the error.
        safe: as `safe_key` makes it; False: as it stands, which older versions did.

    Raises:
        ShardError: an absolute path, or one with `..`.
    """
    if name.startswith("/") or ".." in name.split("/"):
        problem = f"the member {name!r} leads out of the archive"
        raise ShardError(where, problem, "pack it again with plain names, or do not trust it")
    name = name.removeprefix("./")
    return safe_key(name) if safe else name
