"""Network interface of gloo and NCCL; by default gloo looks up the host name, and NCCL takes the first interface."""

from __future__ import annotations

import os
from ipaddress import ip_address

import psutil

__all__ = ["choose_interface", "interface_of"]


def choose_interface(wanted: str | None, node_address: str) -> None:
    """Set the interface for this process, before it joins a process group.

    Args:
        wanted: from the configuration; None: that of the node's environment, else the one with `node_address`.
        node_address: Ray's address of this node, under which the other nodes reach it.
    """
    found = wanted or interface_of(node_address)
    if found is None:
        return
    for variable, value in (("GLOO_SOCKET_IFNAME", found), ("NCCL_SOCKET_IFNAME", f"={found}")):  # =: not a prefix
        if wanted or not os.environ.get(variable):
            os.environ[variable] = value


def interface_of(address: str) -> str | None:
    """The interface that has this address; any loopback address belongs to the loopback interface."""
    wanted = ip_address(address)
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            try:
                own = ip_address(entry.address.partition("%")[0])
            except ValueError:
                continue  # a link-layer address
            if own == wanted or (own.is_loopback and wanted.is_loopback and own.version == wanted.version):
                return name
    return None
