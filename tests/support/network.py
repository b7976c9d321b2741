"""Free ports on loopback, and waiting for a server of the test's own to answer."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["free_port", "free_ports", "wait_until_it_answers", "wait_until_it_listens"]


def free_port() -> int:
    """A port on which nothing listens."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ports on which nothing listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_until_it_answers(url: str, process: subprocess.Popen[Any], log: Path, timeout_s: float = 240) -> None:
    """Wait until a server answers; fail with its log if its process ends before."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # refused, reset, no answer in time, an error of the server
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def wait_until_it_listens(port: int, timeout_s: float = 120) -> None:
    """Wait until something accepts connections on a port of loopback."""
    deadline = time.monotonic() + timeout_s
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, f"nothing listens on port {port}"
        time.sleep(0.05)
