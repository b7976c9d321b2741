"""The MLflow server of cluster/: PostgreSQL, an S3 store, and the commands and settings that stand in its files.

The images are not built here: what they would start is started, with the environment that Docker Compose and Kubernetes
would give, against a PostgreSQL of its own (Debian's) and moto's S3 server. Only names and ports of hosts are replaced.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.support.commands import mgcda
from tests.support.configs import tiny_content, write_config
from tests.support.network import free_port, free_ports, wait_until_it_answers, wait_until_it_listens

INITDB = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)
pytestmark = [
    pytest.mark.extended,
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(INITDB is None, reason="PostgreSQL is not installed (apt-get install postgresql)"),
]

SECRETS = {
    "POSTGRES_PASSWORD": "planted-password-of-postgres",
    "S3_ACCESS_KEY": "PLANTEDACCESSKEY",
    "S3_SECRET_KEY": "planted-secret-key-of-s3",
}
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Stores:
    """A database and an object store that run, by port; and a folder for logs."""

    postgres: int
    s3: int
    folder: Path

    def here(self, text: str) -> str:
        """A setting with the hosts of Compose and Kubernetes replaced by these."""
        text = re.sub(r"@(mlflow-)?postgres:5432", f"@127.0.0.1:{self.postgres}", text)
        return re.sub(r"http://store:8333|https://s3\.amazonaws\.com", f"http://127.0.0.1:{self.s3}", text)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    folder, ports = tmp_path_factory.mktemp("stores"), free_ports(2)
    # PostgreSQL refuses to run as root, and its own user does not see into root's folders.
    home = Path(tempfile.mkdtemp(prefix="mgcda-pg-", dir="/tmp"))
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(home, account.pw_uid, account.pw_gid)
    processes: list[subprocess.Popen[Any]] = []
    try:
        with (folder / "stores.log").open("ab") as log:
            options: dict[str, Any] = {"stdout": log, "stderr": log, "cwd": home}
            processes.append(_postgres(home, ports[0], options | owner))
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(ports[1])]
            processes.append(subprocess.Popen(command, **options))
        for port in ports:
            wait_until_it_listens(port)
        yield Stores(ports[0], ports[1], folder)
    finally:
        # On SIGTERM PostgreSQL would wait for its clients.
        for process, sign in zip(processes, (signal.SIGINT, signal.SIGTERM), strict=False):
            process.send_signal(sign)
        for process in processes:
            process.wait(30)
        shutil.rmtree(home)


def _postgres(home: Path, port: int, options: dict[str, Any]) -> subprocess.Popen[Any]:
    """As the image of the same name sets it up: user and database `mlflow`, and a password asked of everybody."""
    assert INITDB is not None
    password, data = home / "password", home / "data"
    password.write_text(SECRETS["POSTGRES_PASSWORD"])
    password.chmod(0o644)  # inside a folder that only its owner can enter
    make = [INITDB, "--pgdata", data, "--username=mlflow", f"--pwfile={password}", "--auth=scram-sha-256"]
    subprocess.run(list(map(str, make)), check=True, timeout=120, **options)
    serve = [INITDB.with_name("postgres"), "-D", data, "-p", port, "-k", home, "-c", "listen_addresses=127.0.0.1"]
    process = subprocess.Popen(list(map(str, serve)), **options)
    create = [INITDB.with_name("createdb"), "-h", "127.0.0.1", "-p", port, "-U", "mlflow", "mlflow"]
    environment = os.environ | {"PGPASSWORD": SECRETS["POSTGRES_PASSWORD"]}
    wait_until_it_listens(port)
    done = subprocess.run(list(map(str, create)), check=False, timeout=60, env=environment, **options)
    while done.returncode:  # it listens before it lets clients in
        assert process.poll() is None, Path(options["stdout"].name).read_text()
        time.sleep(0.2)
        done = subprocess.run(list(map(str, create)), check=False, timeout=60, env=environment, **options)
    return process


class Server:
    """The MLflow server, started as one of the files says."""

    def __init__(self, stores: Stores, command: list[str], environment: dict[str, str]) -> None:
        self.port = free_port()
        self.log = stores.folder / "mlflow.log"
        command = [re.sub(r"--host 0\.0\.0\.0 --port 5000", f"--host 127.0.0.1 --port {self.port}", c) for c in command]
        # The server's own environment, and nothing of ours but where programs are.
        given = {name: stores.here(value) for name, value in environment.items()}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(stores.folder)} | given,
                cwd=stores.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        wait_until_it_answers(f"{self.uri}/health", self._process, self.log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # it may wait for an answer of a worker that has left; all is in the stores
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)

    def get(self, path: str, **headers: str) -> Any:
        request = urllib.request.Request(f"{self.uri}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def _as_compose(stores: Stores) -> Server:
    """docker-compose.yaml's service: its command makes the bucket first."""
    compose = yaml.safe_load((REPOSITORY / "cluster/mlflow/docker-compose.yaml").read_text(encoding="utf-8"))

    def filled(text: str) -> str:
        text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: SECRETS[found[1]], text)
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")

    service = compose["services"]["mlflow"]
    environment = {name: filled(value) for name, value in service["environment"].items()}
    return Server(stores, [filled(word) for word in service["command"]], environment)


def _as_deployment(stores: Stores) -> Server:
    """mlflow.yaml's container: the image's own command, settings from the ConfigMap, passwords from the Secret."""
    documents = yaml.safe_load_all((REPOSITORY / "cluster/kuberay/mlflow.yaml").read_text(encoding="utf-8"))
    by_kind = {document["kind"]: document for document in documents}
    settings = by_kind["ConfigMap"]["data"] | {"bucket": "s3://mlflow"}  # moto has the one that Compose made
    secret = dict(zip(("postgres-password", "s3-access-key", "s3-secret-key"), SECRETS.values(), strict=True))
    environment = {}
    (container,) = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        found = secret[source["secretKeyRef"]["key"]] if "secretKeyRef" in source else None
        found = found or (settings[source["configMapKeyRef"]["key"]] if "configMapKeyRef" in source else None)
        environment[variable["name"]] = found or variable["value"]
    dockerfile = (REPOSITORY / "cluster/mlflow/Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD (\[.*\])$", dockerfile.replace("\\\n", ""), re.MULTILINE)
    return Server(stores, ["sh", "-ec", f"exec {shlex.join(json.loads(command))}"], environment)


@pytest.fixture(scope="module")
def run_id(stores: Stores, tiny_shards: Path) -> str:
    """A short run that tracks to the server as Compose starts it, from a client without any key of the stores."""
    folder = stores.folder
    write_config(folder / "run.yaml", tiny_content(tiny_shards, runs=f"{folder}/runs", optim={"steps": 4}))
    with _as_compose(stores) as server:
        done = mgcda("train", "run.yaml", f"tracking.mlflow_uri={server.uri}", cwd=folder, timeout_s=400)
        assert done.returncode == 0, done.stdout + done.stderr + server.log.read_text()[-3000:]
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.get("/api/2.0/mlflow/experiments/search?max_results=1", Host="elsewhere.example.com")
        caught.value.close()
        assert caught.value.code == 403, "the page on what goes wrong says so"
    return (folder / "runs/run/mlflow_run_id").read_text().strip()


def test_runs_are_in_postgres_and_pictures_in_the_object_store(stores: Stores, run_id: str) -> None:
    import psycopg2

    login = {"host": "127.0.0.1", "port": stores.postgres, "user": "mlflow", "dbname": "mlflow"}
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(**login, password="another")
    connection = psycopg2.connect(**login, password=SECRETS["POSTGRES_PASSWORD"])
    with connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from metrics where run_uuid = %s and key = 'loss/total'", (run_id,))
        assert cursor.fetchone() == (4,)
        cursor.execute("select status from runs where run_uuid = %s", (run_id,))
        assert cursor.fetchone() == ("FINISHED",)
    connection.close()
    with urllib.request.urlopen(f"http://127.0.0.1:{stores.s3}/mlflow?list-type=2", timeout=30) as answer:
        names = {key.rpartition("/")[2] for key in re.findall(r"<Key>([^<]+)</Key>", answer.read().decode())}
    assert {"report.html", "model.safetensors", "config.yaml", "panel_unseen.png"} <= names


def test_a_server_that_kubernetes_starts_reads_what_the_other_one_wrote(stores: Stores, run_id: str) -> None:
    with _as_deployment(stores) as server:
        host = {"Host": "mlflow.mgcda.svc:5000"}  # as pods call it
        run = server.get(f"/api/2.0/mlflow/runs/get?run_id={run_id}", **host)["run"]
        assert run["info"]["run_name"] == "run" and run["info"]["status"] == "FINISHED"
        listing = server.get(f"/api/2.0/mlflow/artifacts/list?run_id={run_id}", **host)
        assert "report" in {file["path"] for file in listing["files"]}
        # What the probes of the Deployment ask, with the header that they set.
        request = urllib.request.Request(f"{server.uri}/health", headers={"Host": "localhost:5000"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200


def test_no_secret_of_the_stores_reaches_the_run_or_a_log(stores: Stores, run_id: str) -> None:
    planted = [secret.encode() for secret in SECRETS.values()]
    files = [path for path in stores.folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [(path, secret) for path in files for secret in planted if secret in path.read_bytes()]
