"""The files of cluster/: valid manifests, pinned images, no privileges, tokens, and the configuration's own values."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from mgcda_dist.config.load import load_config
from tests.conftest import REPOSITORY

CLUSTER = REPOSITORY / "cluster"
KUBERNETES = "1.37"
KUBERAY = yaml.safe_load((Path(__file__).parent / "kuberay.schema.yaml").read_text(encoding="utf-8"))
DOCUMENTS: dict[str, dict[str, Any]] = {
    f"{path.stem}-{document['kind']}-{document['metadata']['name']}": document
    for path in sorted((CLUSTER / "kuberay").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
}
IMAGE = re.compile(r"^[\w.\-/]+:[\w.\-]*\d[\w.\-]*(@sha256:[0-9a-f]{64})?$")
PINS = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")


def _of_kind(kind: str) -> dict[str, Any]:
    return next(document for document in DOCUMENTS.values() if document["kind"] == kind)


def _pods(node: Any) -> Iterator[dict[str, Any]]:
    """All pod specifications below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("containers"), list):
            yield node
        for value in node.values():
            yield from _pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from _pods(value)


@pytest.mark.parametrize("pod", list(_pods(list(DOCUMENTS.values()))))
def test_pods_are_pinned_and_unprivileged(pod: dict[str, Any]) -> None:
    """Kubernetes' level `restricted`, which the namespace enforces."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | {"data"}  # data: a volume claim template
    for container in pod["containers"]:
        assert IMAGE.match(container["image"]), container["image"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        for variable in container.get("env", []):
            secret = re.search(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY", variable["name"])
            assert not secret or "valueFrom" in variable, f"{variable['name']} is written out"


def test_ray_asks_for_a_token_and_matches_the_pinned_version() -> None:
    for cluster in (_of_kind("RayCluster")["spec"], _of_kind("RayJob")["spec"]["rayClusterSpec"]):
        assert cluster["authOptions"] == {"mode": "token"}
        assert f"\nray=={cluster['rayVersion']}\n" in PINS
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    assert "--env=RAY_AUTH_MODE=token" in _ray_up()["docker"]["run_options"]
    assert "export RAY_AUTH_MODE=token" in (CLUSTER / "slurm" / "train.sbatch").read_text(encoding="utf-8")


def test_the_job_trains_a_valid_configuration_that_fits_its_workers() -> None:
    job = _of_kind("RayJob")["spec"]
    command, action, config_file, *overrides = job["entrypoint"].split()
    assert (command, action) == ("mgcda", "train")
    config = load_config(REPOSITORY / "configs" / Path(config_file).name, overrides).config
    cpus = gpus = places = 0
    for group in job["rayClusterSpec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        cpus, gpus = int(limits["cpu"]), int(limits["nvidia.com/gpu"])
        fitting = min(cpus // config.scaling.num_cpus, gpus // config.scaling.num_gpus)
        places += int(group["replicas"] * fitting)
    assert places >= config.scaling.num_workers
    assert str(config.runs).startswith("/mnt/shared"), "the run must survive its cluster"
    mounts = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert "/mnt/shared" in {mount["mountPath"] for mount in mounts}


def test_ray_up_accepts_its_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    config = _ray_up()
    jsonschema.Draft7Validator(schema).validate(config)
    assert config["head_node_type"] in config["available_node_types"]
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert IMAGE.match(config["docker"]["image"])
    for kind in config["available_node_types"].values():
        # Left out, or `latest_dlami`: Ray's default, Ubuntu 18.04 with a driver that CUDA 13 does not run on.
        assert kind["node_config"]["ImageId"].startswith("ami-")


def _ray_up() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "ray" / "cluster.yaml").read_text(encoding="utf-8"))


def test_the_runtime_environment_excludes_large_folders() -> None:
    environment = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text(encoding="utf-8"))
    assert {"/.venv/", "/shards/", "/runs/", "/.git/", ".env"} <= set(environment["excludes"])
    assert not [name for name in environment["env_vars"] if re.search(r"TOKEN|PASSWORD|SECRET|KEY", name)]


def test_the_mlflow_server_is_pinned_and_takes_its_secrets_from_the_environment() -> None:
    compose = yaml.safe_load((CLUSTER / "mlflow" / "docker-compose.yaml").read_text(encoding="utf-8"))
    for service in compose["services"].values():
        assert IMAGE.match(service["image"])
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|ACCESS_KEY", name):
                assert value.startswith("${"), f"{name} is written out"
        for port in service.get("ports", []):
            assert port.startswith("${MLFLOW_BIND:-127.0.0.1}:")
    version = compose["services"]["mlflow"]["image"].partition(":")[2]
    assert f"\nmlflow=={version}\n" in PINS


def test_the_batch_script_is_valid_shell() -> None:
    script = CLUSTER / "slurm" / "train.sbatch"
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    text = script.read_text(encoding="utf-8")
    assert "--exclusive" in text, "`ray stop` at the end of symmetric-run would end another job's Ray on a shared node"


def test_the_image_copies_what_exists() -> None:
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    kept = {
        line.removeprefix("!")
        for line in (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (REPOSITORY / source).exists(), f"cluster/Dockerfile copies {source}, which is not there"
            assert source in kept, f"Dockerfile.dockerignore keeps {source} from the builder"
    assert re.search(r"^FROM \S+:\d\S+$", text, re.MULTILINE)
    assert re.search(r"^USER 1000", text, re.MULTILINE)
    assert {"libibverbs1", "ibverbs-providers"} <= {*text.split()}, "without them NCCL goes around InfiniBand"


def _validate(document: dict[str, Any]) -> None:
    """Raise the errors of a strict `kubectl apply`: an unknown or missing field, or another type."""
    if document["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.Draft202012Validator(KUBERAY).validate(document)
    spec = document["spec"]
    cluster = spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]
    templates = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    if "submitterPodTemplate" in spec:
        templates.append(spec["submitterPodTemplate"])
    autoscaler = {
        name: value
        for name, value in cluster.get("autoscalerOptions", {}).items()
        if name in ("env", "envFrom", "resources", "securityContext", "volumeMounts")
    }
    templates.append({"spec": {"containers": [{"name": "autoscaler", **autoscaler}]}})
    for template in templates:
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": template}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_manifests_have_only_fields_that_exist(name: str) -> None:
    _validate(DOCUMENTS[name])


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ((), {"backOffLimit": 3}),
        ((), {"backoffLimit": "3"}),
        ((), {"shutdownAfterJobFinishes": False}),  # with a time to live: the operator refuses it
        (("rayClusterSpec",), {"authOptions": {"mode": "password"}}),
        (("rayClusterSpec", "headGroupSpec"), {"rayStartParams": {"num-cpus": 0}}),  # a number is no string
        (("rayClusterSpec", "workerGroupSpecs", 0), {"minReplica": 1}),
        (("rayClusterSpec", "workerGroupSpecs", 0, "template", "spec"), {"terminationGracePeriod": 120}),
        (("submitterPodTemplate", "spec"), {"restartPolicies": "Never"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_mistake_in_a_manifest_is_found(path: tuple[str | int, ...], change: dict[str, Any]) -> None:
    job = copy.deepcopy(DOCUMENTS["rayjob-RayJob-mgcda-paper"])
    node: Any = job["spec"]
    for key in path:
        node = node[key]
    node.update(change)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        _validate(job)
