"""The cluster of two nodes that tests of several files run on, each file on one of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.nodes import Nodes, short_folder
from tests.conftest import REPOSITORY
from tests.support.configs import tiny_content, write_config
from tests.support.network import free_port

SECRETS = {
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-mlflow",
    "AWS_ACCESS_KEY_ID": "PLANTEDACCESSKEY",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key-of-s3",
}


@dataclass
class Place:
    """A running cluster, a clean checkout, and an MLflow server that both nodes reach."""

    nodes: Nodes
    checkout: Path
    folder: Path
    mlflow: str

    def submit(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Submit a job under a name, and wait for its end."""
        return self.nodes.run(self.submission("--submission-id", name, command=command), cwd=self.checkout)

    def submission(self, *options: str, command: tuple[str, ...]) -> list[str]:
        """The command that submits a job as the README says."""
        submit = ["ray", "job", "submit", "--address", self.nodes.dashboard, *options]
        return [*submit, "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml", "--", *command]


@pytest.fixture(scope="module")
def place(tiny_shards: Path) -> Iterator[Place]:
    with short_folder() as folder:
        checkout = _clean_checkout(folder / "checkout")
        content = tiny_content(tiny_shards, name="two", runs=f"{folder}/runs", tracking={"system_metrics": True})
        write_config(checkout / "configs" / "two.yaml", content)
        # In this folder node 1 sees another one, which is empty: storage that is not shared.
        shutil.copytree(tiny_shards / "render_b", folder / "private" / "render_b")
        (folder / "empty").mkdir()
        other = folder / "other" / "timm-0.9.0.dist-info" / "METADATA"
        other.parent.mkdir(parents=True)
        other.write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0.9.0\n")
        # A node sees the secrets of its environment, as a pod does.
        common = SECRETS | {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1"}
        seen, env = {folder / "private": folder / "empty"}, common | {"PYTHONPATH": str(other.parents[1])}
        with Nodes(folder, seen=seen, head_env=common, env=env) as nodes:
            port = 5000 if nodes.isolated else free_port()
            uri = f"http://{nodes.addresses[0]}:{port}"
            command = [sys.executable, "-m", "mlflow", "server", "--host", nodes.addresses[0], "--port", str(port)]
            command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
            command += ["--artifacts-destination", f"file://{folder}/store"]
            with (folder / "mlflow.log").open("ab") as log:
                nodes.start(command, stdout=log, stderr=log)
            yield Place(nodes, checkout, folder, uri)


def _clean_checkout(folder: Path) -> Path:
    """The files that git knows, and beside them what must not travel."""
    listing = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    for name in (".venv/lib/heavy.so", "shards/demo/0.tar", "runs/two/checkpoints/x.pt", ".env", ".git/objects/pack"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(3_000_000))
    return folder
