"""Comparison of a sample table with the headers of its tar file.

Sample tables have no checksum of their own; the tar file has one, so its headers are the reference.
"""

from __future__ import annotations

import json
import tarfile
from mmap import mmap
from pathlib import Path

import numpy as np

from mgcda_dist.data.shards.keys import safe_key
from mgcda_dist.errors import ShardError

__all__ = ["category_of", "members_of", "misplaced_rows", "plain_key"]


def members_of(path: Path) -> tuple[dict[tuple[int, int], str], str]:
    """The members of a tar file: (offset, size) → name; and a problem of the file, or ""."""
    members: dict[tuple[int, int], str] = {}
    try:
        with tarfile.open(path, "r:", encoding="utf-8") as tar:
            for member in tar:
                members[member.offset_data, member.size] = member.name.removeprefix("./")
    except (tarfile.TarError, OSError, EOFError) as error:
        return members, f"not a whole tar file ({error})"
    return members, ""


def misplaced_rows(index: np.ndarray, members: dict[tuple[int, int], str], data: mmap) -> np.ndarray:
    """The rows of a sample table at whose places the tar file has no such member.

    Args:
        index: the sample table.
        members: from `members_of`.
        data: the tar file, to compare the category with that in the sample's JSON.
    """
    return index[[not _in_place(row, members, data) for row in index]]


def _in_place(row: np.void, members: dict[tuple[int, int], str], data: mmap) -> bool:
    columns = row.dtype.names or ()
    places = {
        part: (int(row[f"{part}_offset"]), int(row[f"{part}_bytes"]))
        for part in ("image", "label", "meta")
        if f"{part}_offset" in columns and f"{part}_bytes" in columns
    }
    names = {part: members.get(place, "") for part, place in places.items() if place != (0, 0)}
    extension, key = row["image_ext"].decode(errors="replace"), row["key"].decode()
    endings = {"image": (".jpg", ".jpeg") if extension == "jpg" else (f".{extension}",), "meta": (".json",)}
    if "image" not in names or len(set(names.values())) < len(names):
        return False
    for part, name in names.items():
        if not _is_of(name, key) or not name.lower().endswith(endings.get(part, "")):
            return False
    if "category" not in columns or "meta" not in names:
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
    except ValueError:
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
