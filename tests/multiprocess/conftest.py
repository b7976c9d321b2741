"""One set of four processes for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.multiprocess.worlds import Results, everything
from tests.support.distributed import run_distributed


@pytest.fixture(scope="session")
def worlds() -> list[Results]:
    """What each of four ranks found."""
    return run_distributed(everything, 4, timeout_s=240.0)
