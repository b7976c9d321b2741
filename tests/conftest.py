"""Fixtures that all tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the small real data sets, in their official layouts; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MGCDA_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "camvid").is_dir():
        pytest.skip(f"no real data in {folder}: set MGCDA_DATA to a folder with camvid/, idd20k_lite/, … to run this")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with dear tests first: they are handed out in this order, and two processes end together."""
    ranks: dict[Path, int] = {}
    for item in items:
        dear = 0 if item.get_closest_marker("cluster") else 1 if item.get_closest_marker("slow") else 2
        ranks[item.path] = min(dear, ranks.get(item.path, 2))
    items.sort(key=lambda item: ranks[item.path])


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch computes on one thread: on tensors of some hundred numbers threads do nothing but wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of generated shards, laid out as the demo's."""
    from mgcda_dist.demo_scenes.demo import write_demo_shards

    folder = tmp_path_factory.mktemp("shards") / "demo"
    write_demo_shards(folder, frames_per_domain=8, image_px=(64, 128), workers=1)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, `tiny`, with an untrained model; tests may put files beside it, and change none in it."""
    from tests.support.exported import write_run

    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system of a size, `4m`; the test is skipped where it may not be mounted (that needs root)."""
    with ExitStack() as mounted:

        def make(size: str) -> Path:
            folder = tmp_path / "disk"
            folder.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no small file system here: {error}")
            mounted.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
            return folder

        yield make
