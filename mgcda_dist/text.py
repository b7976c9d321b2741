"""Text of others made printable: no character of a foreign name moves a cursor, starts a line or turns the reading."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

_JOINERS = "\u200c\u200d"  # Persian and Indic scripts are written with them
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with control, format and surrogate characters as `\x1b`, `\u202e`; letters of all scripts stay.

    Args:
        lines: keep line feeds and tabs, of a message of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        character
        if character in kept or character in _JOINERS or unicodedata.category(character) not in _ESCAPED
        else character.encode("ascii", "backslashreplace").decode()
        if not character.isascii()
        else f"\\x{ord(character):02x}"
        for character in text
    )
