"""Two Ray nodes with token authentication: in network namespaces when run as root, else on 127.0.0.1 and 127.0.0.2.

As root each node has an address, a host name, and an eth0 of its own on a bridge, and may see other folders than the
other one. Every process that is started here ends here; no other Ray on the machine is touched.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tests.support.network import free_port, free_ports

__all__ = ["Nodes", "short_folder"]

_BIN = Path(sys.executable).parent


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for `Nodes`: in pytest's own, when files run side by side, Ray's sockets get paths that are too long."""
    with TemporaryDirectory(prefix="mg", ignore_cleanup_errors=True) as name:
        yield Path(os.path.realpath(name))


class Nodes:
    """A head (node 0) and a second node, of which Ray may use one processor each.

    Args:
        folder: for logs and Ray's sessions; a short path, since sockets lie there.
        seen: on node 1, folder → folder that lies in its place there. Needs namespaces.
        head_env, env: further environment of node 0, and of node 1.
        ray: whether to start Ray on them; else they are empty, for a scheduler to do so.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seen: Mapping[Path, Path] | None = None,
        head_env: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        ray: bool = True,
    ) -> None:
        self.folder, self.token = folder, secrets.token_hex(32)
        self.isolated = os.geteuid() == 0
        self._starts_ray = ray
        if ray and self.isolated:
            # A node that joins clears what it takes for old files of its own; in one folder for both it would be the
            # working directory of a job that runs on the other.
            own = {folder / "ray": folder / "ray-of-node-1"}
            for path in (*own, *own.values()):
                path.mkdir(parents=True, exist_ok=True)
            seen = own | dict(seen or {})
        self._seen, self._env = dict(seen or {}), (dict(head_env or {}), dict(env or {}))
        self._started: list[subprocess.Popen[str]] = []
        self._ray: dict[int, subprocess.Popen[str]] = {}
        key = f"{os.getpid():x}"
        self._spaces, self._bridge = [f"mgn{key}-{i}" for i in range(2)], f"mgb{key}"
        if self.isolated:
            subnet = f"10.{77 + (os.getpid() >> 8) % 100}.{os.getpid() & 255}"
            self.addresses, self.ports = (f"{subnet}.1", f"{subnet}.2"), {"gcs": 6379, "dashboard": 8265}
            self._gateway = f"{subnet}.254"
        else:
            self.addresses = ("127.0.0.1", "127.0.0.2")
            self.ports = dict(zip(("gcs", "dashboard"), free_ports(2), strict=True))

    @property
    def dashboard(self) -> str:
        """Address that jobs are submitted to."""
        return f"http://{self.addresses[0]}:{self.ports['dashboard']}"

    @property
    def address(self) -> str:
        """Address that Ray's own clients use."""
        return f"{self.addresses[0]}:{self.ports['gcs']}"

    def environment(self, **changes: str) -> dict[str, str]:
        """What a client of the cluster needs, without anything of the test process that would help it along."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH", "GLOO_", "NCCL_"))}
        path = f"{_BIN}:{kept.get('PATH', '')}"
        ours = {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}
        return kept | ours | {"COLUMNS": "160", "PYTHONDONTWRITEBYTECODE": "1"} | changes

    def on(self, node: int, command: list[str]) -> list[str]:
        """The command, wrapped so that it runs on a node, in its network, with its folders."""
        if not self.isolated:
            return command
        mounts = self._seen.items() if node == 1 else ()
        steps = [shlex.join(["mount", "--bind", str(there), str(here)]) for here, there in mounts]
        # A host name of its own, which nothing resolves: as in a container, gloo gets nowhere with it.
        steps += [f"hostname mgcda-node{node}", shlex.join(["exec", *command])]
        return ["ip", "netns", "exec", self._spaces[node], "unshare", "--uts", "sh", "-ec", "\n".join(steps)]

    def start(self, command: list[str], node: int = 0, **options: Any) -> subprocess.Popen[str]:
        """A process on a node; it ends with the nodes at the latest."""
        options = {"env": self.environment(), "text": True, "start_new_session": True} | options
        process = subprocess.Popen(self.on(node, command), **options)
        self._started.append(process)
        return process

    def run(self, command: list[str], node: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a process on a node to its end."""
        options = {"env": self.environment(), "text": True, "timeout": 240} | options
        return subprocess.run(self.on(node, command), check=False, capture_output=True, **options)

    def lose(self, node: int = 1) -> None:
        """Kill everything on a node at once, as when its machine is gone."""
        owned = [psutil.Process(pid) for pid in _pids_in(self._spaces[node])] if self.isolated else []
        owned += _family(self._ray[node].pid)
        for process in owned:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._ray[node].wait()

    def join(self) -> None:
        """Start node 1 again after it was lost or drained."""
        self._start_node(1, [f"--address={self.address}"])
        self._wait(2)

    def node_id(self, node: int = 1) -> str:
        """Ray's id of a living node."""
        # The dashboard does not always answer in time on a busy machine.
        deadline, address = time.monotonic() + 60, self.addresses[node]
        while True:
            alive = [n for n in self._summary() if n["raylet"].get("state") == "ALIVE" and n["ip"] == address]
            if len(alive) == 1:
                return alive[0]["raylet"]["nodeId"]
            assert time.monotonic() < deadline, f"Ray knows {len(alive)} living nodes at {address}"
            time.sleep(0.5)

    def __enter__(self) -> Nodes:
        try:
            if self.isolated:
                self._make_network()
            if not self._starts_ray:
                return self
            head = ["--head", f"--port={self.ports['gcs']}", f"--dashboard-port={self.ports['dashboard']}"]
            head += [f"--dashboard-host={self.addresses[0]}", f"--temp-dir={self.folder / 'ray'}"]
            self._start_node(0, head)
            self._wait(1)
            self._start_node(1, [f"--address={self.address}"])
            self._wait(2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        owned = [child for process in self._started for child in _family(process.pid)]
        if self.isolated:
            owned += [psutil.Process(pid) for space in self._spaces for pid in _pids_in(space)]
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in owned:
                try:
                    process.send_signal(sign)
                except psutil.NoSuchProcess:
                    continue
            owned = psutil.wait_procs(owned, timeout=1.5)[1]
        for process in self._started:
            process.wait()
        if self.isolated:
            for space in self._spaces:
                subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)
            subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)

    def _start_node(self, node: int, arguments: list[str]) -> None:
        command = [str(_BIN / "ray"), "start", "--block", f"--node-ip-address={self.addresses[node]}", *arguments]
        command += ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        # The memory of the machine is everybody's: what others take is no reason to kill workers here.
        changes = {"RAY_JOB_STOP_WAIT_TIME_S": "60", "RAY_memory_monitor_refresh_ms": "0"} | self._env[node]
        env = self.environment(**changes)
        with (self.folder / f"node{node}.log").open("ab") as log:
            self._ray[node] = self.start(command, node, stdout=log, stderr=log, env=env, cwd=self.folder)

    def _make_network(self) -> None:
        steps = [f"link add {self._bridge} type bridge", f"link set {self._bridge} up"]
        steps += [f"addr add {self._gateway}/24 dev {self._bridge}"]
        for i, (space, address) in enumerate(zip(self._spaces, self.addresses, strict=True)):
            outer = f"{self._bridge}-{i}"
            steps += [f"netns add {space}", f"link add {outer} type veth peer name eth0 netns {space}"]
            steps += [f"link set {outer} master {self._bridge} up", f"-n {space} addr add {address}/24 dev eth0"]
            steps += [f"-n {space} link set eth0 up", f"-n {space} link set lo up"]
        for step in steps:
            subprocess.run(["ip", *step.split()], check=True, capture_output=True, timeout=30)

    def _wait(self, num_nodes: int) -> None:
        deadline = time.monotonic() + 90
        while self._num_alive() < num_nodes:
            logs = "".join(path.read_text() for path in sorted(self.folder.glob("node*.log")))
            assert all(process.poll() is None for process in self._ray.values()), logs
            assert time.monotonic() < deadline, f"fewer than {num_nodes} nodes within 90 s\n{logs}"
            time.sleep(0.2)

    def _num_alive(self) -> int:
        return sum(node["raylet"].get("state") == "ALIVE" for node in self._summary())

    def _summary(self) -> list[dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.dashboard}/nodes?view=summary", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)["data"]["summary"]
        except (urllib.error.URLError, OSError, KeyError):
            return []


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _pids_in(space: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, timeout=30, check=False)
    return [int(pid) for pid in found.stdout.split() if psutil.pid_exists(int(pid))]
