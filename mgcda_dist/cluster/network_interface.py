"""Network interfaces of gloo and NCCL: left alone, gloo looks up the host name, and NCCL meets on the first of all.

gloo gets the one that has the node's Ray address. NCCL spreads what it sends over several, and gets that one and every
other card of the machine that is as fast. With InfiniBand it only meets over them.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import psutil

__all__ = ["beside", "choose_interface", "interface_of"]

_DEVICES = Path("/sys/class/net")


def choose_interface(wanted: str | None, node_address: str) -> None:
    """Set the interfaces for this process, before it joins a process group.

    Args:
        wanted: from the configuration, several separated by commas; None: those of the node's environment, else found.
        node_address: Ray's address of this node, under which the other nodes reach it.
    """
    own = interface_of(node_address)
    chosen = {
        "GLOO_SOCKET_IFNAME": wanted or own,
        "NCCL_SOCKET_IFNAME": wanted or (own and ",".join([own, *beside(own)])),
    }
    for variable, names in chosen.items():
        if names and (wanted or not os.environ.get(variable)):
            os.environ[variable] = f"={names}" if variable.startswith("NCCL") else names  # =: whole names, no prefixes


def beside(name: str) -> list[str]:
    """The other cards that are up, have an address that a router would pass on, and are as fast as this one.

    None beside an interface without a card of its own: the loopback, a bridge, the interface of a container, a bond,
    which spreads its traffic by itself.
    """
    states, addresses = psutil.net_if_stats(), psutil.net_if_addrs()
    if not _is_card(name) or name not in states:
        return []
    return sorted(
        other
        for other, state in states.items()
        if other != name and _is_card(other) and state.isup and state.speed >= states[name].speed
        if any(_is_routable(entry.address) for entry in addresses.get(other, []))
    )


def _is_card(name: str) -> bool:
    # A port of a bond has a card and no address.
    return (_DEVICES / name / "device").exists()


def _is_routable(address: str) -> bool:
    try:
        own = ip_address(address.partition("%")[0])
    except ValueError:
        return False  # a link-layer address
    return not (own.is_link_local or own.is_loopback)


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
