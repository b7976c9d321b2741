"""Resume at another world size: the rest of the run is that of the undisturbed one, for ZeRO 0 to 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_dist.errors import CheckpointError
from mgcda_dist.training.engine import to_universal
from tests.support.distributed import run_distributed
from tests.training.elastic import CASES, HALF, begin, convert, go_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHANGES = [(2, 1), (1, 2), (4, 3)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    return run_distributed(begin, 1, str(tmp_path_factory.mktemp("whole")), True, timeout_s=280)[0]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {size: tmp_path_factory.mktemp(f"begun-{size}") for size in {before for before, _ in CHANGES}}
    for size, folder in folders.items():
        run_distributed(begin, size, str(folder), False, timeout_s=280)
        convert(str(folder))
    return folders


@pytest.mark.parametrize(("before", "after"), [*CHANGES, pytest.param(2, 4, marks=pytest.mark.extended)])
def test_the_rest_is_that_of_the_undisturbed_run(
    undisturbed: list[list[float]], begun: dict[int, Path], before: int, after: int
) -> None:
    everyone = run_distributed(go_on, after, str(begun[before]), timeout_s=280)
    assert all(losses == everyone[0] for losses in everyone)
    for case, losses, expected in zip(CASES, everyone[0], undisturbed, strict=True):
        # bf16: see test_engine.py
        assert losses == pytest.approx(expected[HALF:], rel=2e-2 if case[0] == "bf16" else 1e-4), case


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    with pytest.raises(CheckpointError, match="cannot be converted for another number of workers"):
        to_universal(tmp_path, tmp_path / "out")
