"""Sample keys from file names in any script: distinct, readable, and with a way back to the name.

A key holds what WebDataset, tar and file systems take unchanged: of ASCII letters, digits, `_` and `-`, of all other
scripts what is printable. The rest (dots, at which WebDataset splits, spaces, control characters, bytes that are no
UTF-8) is percent-encoded as in a URL, so that different names never become one key: `a.b c` is `a%2Eb%20c`.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["is_key", "original_name", "safe_key"]

_LONGEST_BYTES = 240  # with `.label.png` under the 255 bytes that file systems take
_GOES_ON = "%/"  # within a part that is longer; no encoded name has a bare `%`
_ASCII = re.compile(r"[A-Za-z0-9_-]+")


def safe_key(name: str) -> str:
    """The sample key of a file name without its suffix; folders stay folders."""
    return "/".join(_part(part) for part in name.split("/"))


def original_name(key: str) -> str:
    """The name that `safe_key` made this key of."""
    return unquote(key.replace(_GOES_ON, ""), errors="surrogateescape")


def is_key(text: str) -> bool:
    """True for what `safe_key` makes of a name without empty parts."""
    return all(text.split("/")) and safe_key(original_name(text)) == text


def _part(name: str) -> str:
    if _ASCII.fullmatch(name) and len(name) <= _LONGEST_BYTES:
        return name
    pieces, num_bytes = [""], 0
    for char in map(_encoded, name):
        num_bytes += len(char.encode())
        if num_bytes >= _LONGEST_BYTES:
            pieces.append("")
            num_bytes = len(char.encode())
        pieces[-1] += char
    return _GOES_ON.join(pieces)


def _encoded(char: str) -> str:
    if _ASCII.fullmatch(char) or (not char.isascii() and char.isprintable()):
        return char
    # Python reads bytes of a file name that are no UTF-8 as lone surrogates; JSON may hold others.
    undecodable = "\udc80" <= char <= "\udcff"
    return "".join(
        f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape" if undecodable else "surrogatepass")
    )
