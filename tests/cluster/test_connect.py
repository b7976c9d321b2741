"""Connecting to a cluster that is not there ends at once, with what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from mgcda_dist.cluster.connect import KEEP_FREED_MEMORY, connect
from mgcda_dist.doctor.findings import Finding
from mgcda_dist.doctor.probes import connected
from mgcda_dist.errors import ConfigError
from tests.support.network import free_port


def test_an_address_without_a_cluster_is_refused_before_ray_tries_for_minutes() -> None:
    address, before = f"127.0.0.1:{free_port()}", time.monotonic()
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS: no answer from {address}: Connection refused"):
        connect(address)
    with pytest.raises(ConfigError, match=r"no answer from nowhere\.invalid:6379"):
        connect("nowhere.invalid:6379")
    assert time.monotonic() - before < 60


def test_the_address_for_jobs_is_called_that() -> None:
    with pytest.raises(ConfigError, match="accepts jobs, not programs"):
        connect("http://127.0.0.1:8265")


def test_the_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with connected(1.0) as found:
        assert isinstance(found, Finding) and (found.level, found.subject) == ("problem", "ray")
        assert address in found.text and "ray job submit" in found.remedy


@pytest.mark.slow
def test_processes_of_a_one_node_ray_keep_freed_memory_and_a_users_own_setting_stays() -> None:
    script = """
import json, os
from mgcda_dist.cluster.connect import prepare_environment, start_ray
from mgcda_dist.config.run import ScalingConfig
prepare_environment()
import ray
start_ray(ScalingConfig())
read = ray.remote(lambda: {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")})
print(json.dumps(ray.get(read.remote())))
"""
    own = {"MALLOC_TRIM_THRESHOLD_": "1000000"}
    environment = {k: v for k, v in os.environ.items() if k not in {*KEEP_FREED_MEMORY, "RAY_ADDRESS"}} | own
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == KEEP_FREED_MEMORY | own


_BEGINS = """
import sys
from mgcda_dist.cluster.connect import begin_ray, is_connected, start_ray
from mgcda_dist.cluster.local import is_beginning, private_folder
from mgcda_dist.config.run import ScalingConfig
scaling = ScalingConfig(workers=3, cpus_per_worker=7)
begin_ray(scaling)
assert is_beginning() and not is_connected()
print(private_folder(), flush=True)
"""
_REFUSED = _BEGINS + "sys.exit(2)"
_WAITED_FOR = (
    _BEGINS
    + """
start_ray(scaling)
assert is_connected() and not is_beginning()
import threading, ray
assert "ray" in {thread.name for thread in threading.enumerate()}, "with its thread Ray's processes end"
assert ray.get(ray.remote(lambda: 5).remote()) == 5 and ray.cluster_resources()["CPU"] == 21
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "code"), [(_REFUSED, 2), (_WAITED_FOR, 0)], ids=["refused", "waited for"])
def test_a_ray_that_begins_while_the_command_checks_ends_with_it(script: str, code: int) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")
    folder = done.stdout.strip()
    assert folder and not os.path.exists(folder)
    assert not [process for process in psutil.process_iter(["cmdline"]) if folder in str(process.info["cmdline"])]
