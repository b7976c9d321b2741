"""Text of others: what a terminal, a page or a file would act on is shown, letters of all scripts stay."""

from __future__ import annotations

import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\r\tc", r"a\x0ab\x0d\x09c"),
        ("\x00\x07\x7f\x9b", r"\x00\x07\x7f\x9b"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("a\u2028b\ufeff", r"a\u2028b\ufeff"),
        ("caf\udce9", r"caf\udce9"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_no_letter_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


@pytest.mark.parametrize("text", ["real_day", "straße (1)", "道路/フレーム", "می‌خواهم", "🚗", "a b", ""])
def test_letters_of_all_scripts_stay(text: str) -> None:
    assert printable(text) == text


def test_messages_keep_their_lines_and_nothing_else() -> None:
    error = MgcdaError("a\x1b]0;title\x07", "one\ntwo", "three")
    assert str(error) == "a\\x1b]0;title\\x07: one\ntwo\n  → three"
