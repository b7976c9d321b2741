"""docs/data-path.md: the example prints what the page shows, and the names of the draws are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.support.pages import commands_of, run

PAGE = REPOSITORY / "docs" / "data-path.md"


def test_the_example_prints_what_the_page_shows() -> None:
    (command,) = commands_of(PAGE)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert run(command, REPOSITORY) == shown


def test_every_purpose_of_a_draw_is_listed() -> None:
    table = set(re.findall(r'"([a-z -]+)"', PAGE.read_text(encoding="utf-8").split("## Randomness")[1]))
    code = "".join(
        (Path(REPOSITORY) / f"mgcda_dist/data/{name}.py").read_text() for name in ("plan", "stream", "frames")
    )
    assert set(re.findall(r'(?:numpy|self\.)_generator\([^)]*?"([a-z -]+)"', code)) == table
