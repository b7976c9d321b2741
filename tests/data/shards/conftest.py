"""The mirror of the tests that read shards from elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mgcda_dist.data.shards import remote
from mgcda_dist.data.shards.remote import Prefetch, ShardCache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardCache]:
    """An empty mirror with short pauses between tries; at its end no prefetching thread works on any more."""
    monkeypatch.setenv("MGCDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_FIRST_PAUSE_S", 0.02)
    jobs: list[threading.Event] = []
    ask = Prefetch.ask

    def recorded(self: Prefetch, fetch: Callable[[int], Path], shard: int) -> None:
        jobs.append(threading.Event())

        def work(shard: int, done: threading.Event = jobs[-1]) -> Path:
            try:
                return fetch(shard)
            finally:
                done.set()

        ask(self, work, shard)

    monkeypatch.setattr(Prefetch, "ask", recorded)
    yield ShardCache.default()
    for job in jobs:
        job.wait()
