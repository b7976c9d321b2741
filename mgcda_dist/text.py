"""Text of others made printable: no character of a foreign name moves a cursor, starts a line or turns the reading."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

_JOINERS = "\u200c\u200d"  # Persian and Indic scripts are written with them
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")


class _Escapes(dict[int, str]):
    """Table for `str.translate`, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character) in _ESCAPED and character not in _JOINERS:
            shown = f"\\x{code:02x}" if code < 0x100 else character.encode("ascii", "backslashreplace").decode()
        else:
            shown = character
        return self.setdefault(code, shown)


_OF_A_LINE, _OF_LINES = _Escapes(), _Escapes({ord("\n"): "\n", ord("\t"): "\t"})


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with control, format and surrogate characters as `\x1b`, `\u202e`; letters of all scripts stay.

    Args:
        lines: keep line feeds and tabs, of a message of several lines.
    """
    return text.translate(_OF_LINES if lines else _OF_A_LINE)
