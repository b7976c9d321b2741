"""Connecting to a cluster that is not there ends at once, with what to do."""

from __future__ import annotations

import socket
import time

import pytest

from mgcda_dist.doctor.findings import Finding
from mgcda_dist.doctor.probes import connected
from mgcda_dist.errors import ConfigError
from mgcda_dist.training.ray_cluster import connect


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_an_address_without_a_cluster_is_refused_before_ray_tries_for_minutes() -> None:
    address, before = f"127.0.0.1:{_free_port()}", time.monotonic()
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS: nobody answers at {address}: Connection refused"):
        connect(address)
    with pytest.raises(ConfigError, match=r"nobody answers at nowhere\.invalid:6379"):
        connect("nowhere.invalid:6379")
    assert time.monotonic() - before < 60


def test_the_address_for_jobs_is_called_that() -> None:
    with pytest.raises(ConfigError, match="takes jobs, and no programs"):
        connect("http://127.0.0.1:8265")


def test_the_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{_free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with connected(1.0) as found:
        assert isinstance(found, Finding) and (found.level, found.subject) == ("problem", "ray")
        assert address in found.text and "ray job submit" in found.remedy
