"""The interface of gloo and NCCL: the node's own, unless the node or the configuration says another."""

from __future__ import annotations

import os

import pytest

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
