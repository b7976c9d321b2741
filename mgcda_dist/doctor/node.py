"""Self-examination of one node. Standard library only: pickled by value, it also runs where the package is missing."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import platform
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

__all__ = ["Node", "NodeReport", "ShardsReport", "StorageReport"]

_MAX_SHARDS_CHECKED = 1000


class NodeReport(TypedDict):
    """Description of a node and its software."""

    host: str
    address: str
    python: str
    packages: dict[str, str | None]  # name → version; None: not installed
    code: str | None  # digest of this package's sources; None: not installed
    gpus: list[str]
    torch_sees_gpus: int | None  # None: there is no driver
    shm_free_bytes: int
    tmp_free_bytes: int
    authentication: str
    closed: list[str]  # files with a token that other users could read until now, each with its mode
    open_session: str | None  # folder of Ray's sessions that other users may enter, with its mode
    infiniband: list[str]  # devices for RDMA that the kernel has
    missing_verbs: str  # why NCCL cannot use them; empty: it can
    open_files: int  # files and sockets that one process may have open


class ShardsReport(TypedDict, total=False):
    """Digest and number of samples of a folder of shards, or the problem with it."""

    digest: str
    num_samples: int
    problem: str


class StorageReport(TypedDict, total=False):
    """Free space of the run's storage, or the problem with it."""

    free_bytes: int
    problem: str


class Node:
    """An examination of the machine that it runs on; every result is plain data.

    Args:
        address: IP address of the node, as Ray has it.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def report(self, packages: list[str]) -> NodeReport:
        """Host, interpreter, versions of `packages`, digest of this package's sources, GPUs, disk and memory."""
        shared = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
        return {
            "host": platform.node(),
            "address": self.address,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in packages},
            "code": _code_digest(),
            "gpus": _gpus(),
            "torch_sees_gpus": _torch_sees_gpus(),
            "shm_free_bytes": shared.free if shared else 0,
            "tmp_free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
            "authentication": os.environ.get("RAY_AUTH_MODE", ""),
            "closed": _close_tokens(),
            "open_session": _open_session(),
            "infiniband": (devices := _infiniband()),
            "missing_verbs": _missing_verbs() if devices else "",
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }

    def now(self) -> float:
        """Seconds since the epoch, by this node's clock."""
        return time.time()

    def shards(self, folders: dict[str, str]) -> dict[str, ShardsReport]:
        """The shards of several folders, by the folders' keys."""
        return {key: _shards(folder) for key, folder in folders.items()}

    def datasets(self, config: dict[str, Any], keys: list[str]) -> dict[str, ShardsReport]:
        """The Datasets of a configuration, by the keys that name them: `data.streams.0.dataset`."""
        return {key: _dataset(config, key) for key in keys}

    def write_probe(self, storage: str, prefix: str) -> StorageReport:
        """Write a small file, named after this node, to the run's storage."""
        try:
            Path(storage).mkdir(parents=True, exist_ok=True)
            self._probe(storage, prefix).write_text(self.address, encoding="utf-8")
            return {"free_bytes": shutil.disk_usage(storage).free}
        except OSError as error:
            return {"problem": f"cannot write to {storage}: {error.strerror}"}

    def visible_probes(self, storage: str, prefix: str) -> list[str]:
        """Addresses of the nodes whose probe files this node sees in the run's storage."""
        try:
            names = os.listdir(storage)  # listing refreshes NFS's view
        except OSError:
            return []
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def remove_probe(self, storage: str, prefix: str) -> None:
        """Remove the file that `write_probe` wrote."""
        self._probe(storage, prefix).unlink(missing_ok=True)

    def _probe(self, storage: str, prefix: str) -> Path:
        return Path(storage) / f"{prefix}{self.address}"

    def mlflow(self, uri: str) -> str:
        """The reason why this node cannot use the tracking server at `uri`; empty: it can."""
        request = urllib.request.Request(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        if user:
            request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        elif token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                json.load(answer)
        except urllib.error.HTTPError as error:
            return f"answers {error.code} {error.reason}"
        except (OSError, ValueError) as error:
            return str(getattr(error, "reason", error))
        return ""


def _close_tokens() -> list[str]:
    """Make files with Ray's token, where they are this user's, readable by this user alone; those that were not so."""
    closed = []
    for path in dict.fromkeys(
        (Path.home() / ".ray/auth_token", Path(os.environ.get("RAY_AUTH_TOKEN_PATH", os.devnull)))
    ):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077 and path.is_file():
                path.chmod(0o600)
                closed.append(f"{path} ({mode:04o})")
        except OSError:
            continue  # not there, or another user's, as a mounted secret is
    return closed


def _open_session() -> str | None:
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"
    try:
        found = folder.stat()
    except OSError:
        return None
    mine = found.st_uid == os.geteuid() and found.st_mode & 0o077
    return f"{folder} ({stat.S_IMODE(found.st_mode):04o})" if mine else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _code_digest() -> str | None:
    """SHA-256 over this package's sources and their names; None: the package is not installed."""
    spec = find_spec("mgcda_dist")
    if spec is None or not spec.origin:
        return None
    root, digest = Path(spec.origin).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _gpus() -> list[str]:
    """`name, driver version, memory` of each GPU, from nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


_RDMA = Path("/sys/class/infiniband")
_CHARACTER_DEVICES = Path("/dev/infiniband")
_VERBS = "libibverbs.so.1"


def _infiniband() -> list[str]:
    return sorted(path.name for path in _RDMA.iterdir()) if _RDMA.is_dir() else []


def _missing_verbs() -> str:
    """The reason that NCCL, which loads the library while it runs, goes around InfiniBand without a word."""
    try:
        library = ctypes.CDLL(_VERBS)
    except OSError:
        return f"{_VERBS} cannot be loaded"
    if not _CHARACTER_DEVICES.is_dir():
        return f"there is no {_CHARACTER_DEVICES}: the container was not given the devices"
    found = ctypes.c_int(0)
    library.ibv_get_device_list.restype = ctypes.c_void_p
    listed = library.ibv_get_device_list(ctypes.byref(found))
    if listed:
        library.ibv_free_device_list.argtypes = [ctypes.c_void_p]
        library.ibv_free_device_list(listed)
    return "" if found.value else f"{_VERBS} finds no device: its providers, such as libmlx5, are missing"


def _torch_sees_gpus() -> int | None:
    """Number of GPUs that torch can use in a process from which Ray hides none; None: there is no driver."""
    if not os.path.exists("/proc/driver/nvidia/version"):
        return None
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    visible = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=visible, capture_output=True, text=True, timeout=120, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(done.stdout.split()[-1])


def _shards(folder: str) -> ShardsReport:
    import numpy as np

    from mgcda_dist.choices import PIPE

    if "://" in folder or PIPE in folder:
        return _mirrored_shards(folder)

    root = Path(folder)
    try:
        manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        if "streamed" in manifest["options"]:
            return _mirrored_shards(folder)
        table = np.load(root / "shards.npy", mmap_mode="r", allow_pickle=False)
        # All shards of a small set, an even sample of a large one.
        for row in table[:: max(1, len(table) // _MAX_SHARDS_CHECKED)]:
            path = root / row["name"].decode()
            size = path.stat().st_size
            if size != int(row["num_bytes"]):
                return {"problem": f"{path} has {size} bytes, and should have {int(row['num_bytes'])}"}
        with open(root / table[-1]["name"].decode(), "rb") as tar:
            tar.read(512)
    except FileNotFoundError as error:
        return {"problem": f"there is no {error.filename}"}
    except (OSError, ValueError, KeyError, IndexError) as error:
        return {"problem": f"{folder} cannot be read: {error}"}
    return {"digest": manifest["digest"], "num_samples": manifest["num_samples"]}


def _dataset(config: dict[str, Any], key: str) -> ShardsReport:
    try:
        from mgcda_dist.checks import check_dataset
        from mgcda_dist.config.schema import Config

        run = Config.model_validate(config)
        _, section, number, _ = key.split(".")
        entries = run.data.streams if section == "streams" else run.evaluation.sets
        digest, num_samples = check_dataset(run, entries[int(number)], samples=True)
    except Exception as error:  # the code is the user's
        return {"problem": str(error).splitlines()[0]}
    return {"digest": digest, "num_samples": num_samples}


def _mirrored_shards(place: str) -> ShardsReport:
    try:
        from mgcda_dist.data.shards.manifest import Manifest

        manifest = Manifest.open(place)
    except Exception as error:  # clients of object stores raise every kind
        return {"problem": str(error).splitlines()[0]}
    return {"digest": manifest.digest, "num_samples": manifest.num_samples}
