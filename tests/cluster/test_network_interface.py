"""The interfaces of gloo and NCCL: the node's own, unless the node or the configuration says others."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mgcda_dist.cluster import network_interface
from mgcda_dist.cluster.network_interface import choose_interface, interface_of


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")


def test_the_one_with_the_nodes_address_is_taken() -> None:
    assert interface_of("127.0.0.2") == "lo", "all of 127.0.0.0/8 is loopback"
    assert interface_of("192.0.2.1") is None
    choose_interface(None, "127.0.0.1")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("lo", "=lo")


def test_the_environment_goes_before_it_and_the_configuration_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    choose_interface(None, "127.0.0.1")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("eth7", "=lo")
    choose_interface("ib0", "127.0.0.1")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("ib0", "=ib0")
    choose_interface("eth0,eth1", "127.0.0.1")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("eth0,eth1", "=eth0,eth1")


NICS = {  # name: (is a card, up, Mb/s, addresses)
    "lo": (False, True, 0, ["127.0.0.1", "::1"]),
    "eth0": (True, True, 100_000, ["10.0.0.1", "00:11:22:33:44:55"]),
    "eth1": (True, True, 100_000, ["10.1.0.1"]),
    "eth2": (True, True, 200_000, ["fe80::1%eth2", "2001:db8::1"]),
    "eth3": (True, False, 100_000, ["10.3.0.1"]),  # no cable
    "eth4": (True, True, 1_000, ["10.4.0.1"]),  # for the administrators
    "eth5": (True, True, 100_000, ["fe80::5%eth5", "169.254.1.1"]),  # nobody gave it an address
    "ib0": (True, True, 100_000, []),  # a port of a bond
    "docker0": (False, True, 100_000, ["172.17.0.1"]),
    "bond0": (False, True, 200_000, ["10.9.0.1"]),
}


@pytest.fixture
def nics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (is_card, *_) in NICS.items():
        (tmp_path / name / ("device" if is_card else "queues")).mkdir(parents=True)
    states = {name: SimpleNamespace(isup=up, speed=speed) for name, (_, up, speed, _) in NICS.items()}
    addresses = {name: [SimpleNamespace(address=x) for x in found] for name, (*_, found) in NICS.items()}
    monkeypatch.setattr(network_interface, "_DEVICES", tmp_path)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)


@pytest.mark.parametrize(
    ("address", "gloo", "nccl"),
    [
        ("10.0.0.1", "eth0", "=eth0,eth1,eth2"),  # all cards that are as fast
        ("2001:db8::1", "eth2", "=eth2"),
        ("10.4.0.1", "eth4", "=eth4,eth0,eth1,eth2"),
        ("10.9.0.1", "bond0", "=bond0"),
        ("127.0.0.1", "lo", "=lo"),
    ],
)
@pytest.mark.usefixtures("nics")
def test_nccl_gets_every_card_that_is_as_fast(address: str, gloo: str, nccl: str) -> None:
    choose_interface(None, address)
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == (gloo, nccl)
