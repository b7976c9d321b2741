"""The model of docs/scale.md: the bandwidth between nodes, and tables that are the program's."""

from __future__ import annotations

import pytest

from benchmarks import scale
from tests.conftest import REPOSITORY


def test_the_cards_of_a_node_share_a_message() -> None:
    """A ring crosses a node once, and there are as many rings as cards: nccl-tests show it as bus bandwidth."""
    assert 1 / scale.INFINIBAND.link(16)[1] == pytest.approx(8 * 400e9 / 8)
    assert 1 / scale.ETHERNET.link(16)[1] == pytest.approx(100e9 / 8)
    assert scale.INFINIBAND.link(16)[1] >= scale.INFINIBAND.link(8)[1], "NVLink is on the way, too"
    wide = scale.Network("16 cards", 1e-6, 5e-6, 450e9, 50e9, 16)
    assert wide.link(16)[1] == wide.link(8)[1]


@pytest.mark.slow
def test_the_tables_of_the_page_are_the_programs() -> None:
    page = (REPOSITORY / "docs/scale.md").read_text(encoding="utf-8")
    assert scale.tables() in page
