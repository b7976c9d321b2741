"""The account of what was taken and passed over, as the manifest holds it and as the terminal shows it."""

from __future__ import annotations

import json

from mgcda_dist.data.ledger import Ledger, ledger_lines


def test_the_lines_of_a_ledger() -> None:
    ledger, more = Ledger(), Ledger()
    for i in range(7):
        ledger.add("hidden", f".{i}.png")
    more.add("hidden", ".x.png")
    more.add("a suffix that is not read", "a\x1b[2J\udcff.heic")
    ledger.update(more)
    lines = list(ledger_lines(json.loads(json.dumps(ledger.as_json(3), ensure_ascii=False))))
    assert lines[:2] == ["3 taken, 9 passed over, because", r"  a suffix that is not read: 1 (a\x1b[2J\udcff.heic)"]
    assert lines[2] == "  hidden: 8 (.0.png, .1.png, .2.png, .3.png, .4.png, …)"
    assert list(ledger_lines(Ledger().as_json(2))) == ["2 taken, 0 passed over"]
