"""Text in figures: any script for which a font is installed, code points where none has the sign, never mathematics."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

__all__ = ["drawable", "families"]

_DEFAULT = "DejaVu Sans"  # comes with matplotlib


def drawable(text: str) -> str:
    """The text with `U+XXXX` for signs of no installed font, and no `$…$` that matplotlib would take for a formula."""
    shown = "".join(char if _family(char) else f"U+{ord(char):04X}" for char in text)
    return shown.replace("$", r"\$")


def families(texts: Iterable[str]) -> list[str]:
    """The font families that these texts need, matplotlib's own first."""
    needed = {family for text in texts for family in map(_family, text) if family}
    return [_DEFAULT, *sorted(needed - {_DEFAULT})]


@lru_cache(maxsize=4096)
def _family(char: str) -> str | None:
    """A font family that has the sign; None: none has."""
    from matplotlib.font_manager import fontManager, get_font

    fonts = [font for font in fontManager.ttflist if not font.name.startswith("Last Resort")]  # which draws its block
    fonts.sort(key=lambda font: (font.name != _DEFAULT, font.name))
    return next((font.name for font in fonts if get_font(font.fname).get_char_index(ord(char))), None)
