"""Kubernetes manifests against strict schemas: Kubernetes' own, and KubeRay's API reference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.conftest import REPOSITORY

KUBERNETES = "1.37"
KUBERAY = yaml.safe_load((Path(__file__).parent / "kuberay.schema.yaml").read_text(encoding="utf-8"))
DOCUMENTS = {
    f"{path.stem}-{document['kind']}-{document['metadata']['name']}": document
    for path in sorted((REPOSITORY / "cluster/kuberay").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
}


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


def _in(*path: str | int) -> Callable[[dict[str, Any]], Any]:
    def find(node: Any) -> Any:
        for key in path:
            node = node[key]
        return node

    return find


POD = ("rayClusterSpec", "workerGroupSpecs", 0, "template", "spec")


@pytest.mark.parametrize(
    ("find", "change"),
    [
        (_in(), {"backOffLimit": 3}),
        (_in(), {"backoffLimit": "3"}),
        (_in(), {"submissionMode": "KubernetesJobMode"}),
        (_in(), {"shutdownAfterJobFinishes": False}),  # with a time to live: the operator refuses it
        (_in("rayClusterSpec"), {"authOptions": {"mode": "password"}}),
        (_in("rayClusterSpec", "headGroupSpec"), {"rayStartParams": {"num-cpus": 0}}),  # a number is no string
        (_in("rayClusterSpec", "workerGroupSpecs", 0), {"minReplica": 1}),
        (_in(*POD), {"terminationGracePeriod": 120}),
        (_in(*POD, "containers", 0), {"volumeMount": []}),
        (_in(*POD, "containers", 0, "securityContext"), {"allowPrivilegeEscalation": "no"}),
        (_in("submitterPodTemplate", "spec"), {"restartPolicies": "Never"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_mistake_in_a_manifest_is_found(find: Callable[[dict[str, Any]], Any], change: dict[str, Any]) -> None:
    job = copy.deepcopy(DOCUMENTS["rayjob-RayJob-mgcda-paper"])
    find(job["spec"]).update(change)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        _validate(job)
