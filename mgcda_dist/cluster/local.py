"""A one-node Ray for this user alone: on loopback, behind a token of its own, in a folder that goes when it ends.

By default Ray listens on all interfaces, leaves `~/.ray/auth_token` for everyone to read, and opens its session's
folder, with logs and sockets, to all users of the machine for good: it sets mode 0777 on whatever folder it is given.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from mgcda_dist.errors import MgcdaError

__all__ = ["LOOPBACK", "QUIET", "begin_local", "end_local", "is_beginning", "private_folder", "start_local"]

QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
LOOPBACK: Final = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""The environment variable, and its value, before Ray is imported, that keep a one-node Ray on loopback. Ray replaces
an address of loopback in `ray.init` by one that others reach, except on the systems in this name, where it is meant to
spare users their firewall's question (ray 2.60: `resolve_ip_for_localhost` and `get_node_ip_address` in
_private/services.py)."""
_PREFIX = "mgcda-"
_MAX_PARENT_BYTES = 25  # the path of a socket may have 107, of which Ray's session takes 63 and the folder's name 17
_AHEAD: list[Future[None]] = []  # the start that `begin_local` has begun, until `start_local` has waited for it


def begin_local(cpus: int) -> None:
    """Begin to start a one-node Ray, in a thread; `start_local` waits for it, and so does the end of the process."""
    private_folder()  # made here: its removal waits for Ray
    begun = Future[None]()

    def start() -> None:
        try:
            _start(cpus)
        except BaseException as error:
            begun.set_exception(error)
            return
        begun.set_result(None)
        threading.Event().wait()  # Ray's processes are killed with the thread that has started them (PR_SET_PDEATHSIG)

    _AHEAD.append(begun)
    threading.Thread(target=start, name="ray", daemon=True).start()


def is_beginning() -> bool:
    """True if a one-node Ray was begun that nobody has waited for."""
    return bool(_AHEAD)


def start_local(cpus: int) -> None:
    """Start a one-node Ray that ends with this process, or wait for the one that was begun.

    Raises:
        MgcdaError: Ray was imported before `LOOPBACK` was set, and would listen on all interfaces.
    """
    if not _AHEAD:
        _start(cpus)
        return
    try:
        _AHEAD[0].result()
    finally:
        _AHEAD.clear()


def end_local() -> None:
    """End Ray, once it has started."""
    import ray

    wait(_AHEAD)
    _AHEAD.clear()
    ray.shutdown()


def _start(cpus: int) -> None:
    import ray

    folder = private_folder()
    os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(folder / "token"))  # RAY_AUTH_TOKEN, of the user's, comes first
    with _any_port_for_the_agent():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=str(folder / "ray"), **QUIET)
    address = ray.util.get_node_ip_address()
    if not ip_address(address).is_loopback:
        ray.shutdown()
        name, value = LOOPBACK
        raise MgcdaError(
            "ray", f"would listen on {address} for a run on this machine alone", f"export {name}={value} before it"
        )


@contextmanager
def _any_port_for_the_agent() -> Iterator[None]:
    """Let Ray's agent of this node listen wherever there is room.

    It wants port 52365, and where another Ray of this machine has that it tries for 4 s, in which everything waits
    (ray 2.60: `_start_site_with_retry` in dashboard/http_server_agent.py). `ray.init` has no parameter for it.
    """
    from ray._private import parameter

    original = parameter.RayParams
    parameter.RayParams = partial(original, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameter.RayParams = original


@cache
def private_folder() -> Path:
    """A folder that this user alone may enter, made at the first call; it goes when the process ends, after its Ray.

    That of a process that was killed goes when the next one is made.
    """
    parent = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    parent = parent if len(os.fsencode(parent)) <= _MAX_PARENT_BYTES else Path("/tmp")
    for found in parent.glob(f"{_PREFIX}*/alive"):
        _remove_abandoned(found)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    with os.fdopen(os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as token:
        token.write(secrets.token_hex(32))
    # Locked before it has its name, so that it is never seen unlocked; the lock goes with the process, however it ends.
    alive = os.open(folder / "making", os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(alive, fcntl.LOCK_EX)
    os.rename(folder / "making", folder / "alive")
    atexit.register(_remove, folder, alive)
    return folder


def _remove(folder: Path, alive: int) -> None:
    """End this process' Ray, which writes there, and remove the folder."""
    end_local()
    shutil.rmtree(folder, ignore_errors=True)
    os.close(alive)


def _remove_abandoned(alive: Path) -> None:
    """Remove a folder of this user's whose process is gone."""
    try:
        if alive.parent.lstat().st_uid != os.geteuid():
            return
        with open(alive, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(alive.parent, ignore_errors=True)
    except OSError:
        return  # in use, or gone meanwhile
