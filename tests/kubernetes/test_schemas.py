"""Every document of deploy/kubernetes is what Kubernetes takes, by its own schemas; kinds that are
not Kubernetes' own have what they must have. No cluster is asked."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT
from kubernetes_files import CHOICES, COMPONENTS, FOLDER, OVERLAYS, TARGETS, compose
from kustomize import Document, build, documents, identity, one

OLDEST, NEWEST = "1.31", kubernetes_validate.latest_version()
"""OLDEST is the first that knows of volumes that are images."""

CASES = [
    *((target, ()) for target in TARGETS),
    *((overlay, components) for overlay in OVERLAYS for components in CHOICES if components),
]

REQUIRED: dict[str, dict[str, tuple[str, ...]]] = {
    "monitoring.coreos.com/v1/PodMonitor": {
        "spec": ("selector", "podMetricsEndpoints"),
        "spec.podMetricsEndpoints.0": ("port", "path"),
    },
    "monitoring.coreos.com/v1/PrometheusRule": {
        "spec": ("groups",),
        "spec.groups.0": ("name", "rules"),
    },
    "keda.sh/v1alpha1/ScaledObject": {
        "spec": ("scaleTargetRef", "triggers", "minReplicaCount", "maxReplicaCount"),
        "spec.scaleTargetRef": ("name",),
    },
    "serving.kserve.io/v1alpha1/ServingRuntime": {
        "spec": ("containers", "supportedModelFormats", "protocolVersions"),
    },
    "serving.kserve.io/v1beta1/InferenceService": {
        "spec": ("predictor",),
        "spec.predictor.model": ("modelFormat", "protocolVersion", "runtime", "storageUri"),
    },
}
"""Of kinds whose schemas no package carries, by hand: what their documentation calls required, and
what these files are for."""


def at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document[int(key) if key.isdigit() else key]
    return document


def check(document: Document, version: str) -> None:
    """Raise where ``document`` is not what its kind is to be."""
    kind = f"{document['apiVersion']}/{document['kind']}"
    if kind in REQUIRED:
        assert document["metadata"]["name"]
        for path, keys in REQUIRED[kind].items():
            assert set(keys) <= at(document, path).keys(), (kind, path)
    else:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize(("target", "components"), CASES)
def test_documents_are_what_kubernetes_takes(
    tmp_path: Path, target: str, components: tuple[str, ...], version: str
) -> None:
    found = build(compose(tmp_path, target, components))
    assert len({identity(document) for document in found}) == len(found)
    for document in found:
        check(document, version)


def test_every_component_is_in_some_case() -> None:
    used = {name for _, components in CASES for name in components}
    assert used == {path.name for path in COMPONENTS.iterdir()}
    assert {path.parent for path in FOLDER.rglob("kustomization.yaml")} == {
        FOLDER / "base",
        *(FOLDER / target for target in TARGETS),
        *(COMPONENTS / name for name in used),
    }


@pytest.mark.parametrize(("target", "components"), CASES)
def test_kustomize_makes_the_same_of_them(
    tmp_path: Path, target: str, components: tuple[str, ...]
) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here: only this project's own reading of kustomizations is tested")
    folder = compose(tmp_path, target, components)
    done = subprocess.run(
        [kubectl, "kustomize", "--load-restrictor=LoadRestrictionsRootOnly", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = {identity(item): item for item in yaml.safe_load_all(done.stdout)}
    assert {identity(item): item for item in build(folder)} == theirs


def test_the_documented_kustomization_names_what_is_there() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(apiVersion: kustomize.*?)```", text, re.DOTALL)
    said = yaml.safe_load(block)
    prefix = "anydepth-deploy/deploy/kubernetes/"
    (target,) = (name.removeprefix(prefix) for name in said["resources"])
    components = tuple(name.removeprefix(f"{prefix}components/") for name in said["components"])
    assert (target, components) in CASES
    (image,) = said["images"]
    server = one(build(FOLDER / target), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert server["image"] == f"{image['name']}:{image['newTag']}"


@pytest.mark.parametrize(
    "change",
    [
        {"replica": 2},
        {"replicas": "two"},
        {"template": {"spec": {"containers": [{"image": "no name"}]}}},
    ],
)
def test_what_is_wrong_is_refused(change: Document) -> None:
    deployment = one(build(FOLDER / "base"), "Deployment")
    deployment["spec"] |= change
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment, NEWEST)


def test_pods_of_kserve_are_pods() -> None:
    """What is in a ServingRuntime has the schema of a pod."""
    spec = one(build(FOLDER / "kserve"), "ServingRuntime")["spec"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}, OLDEST)


def test_kedas_behaviour_is_that_of_the_other_autoscaler() -> None:
    (scaled,) = documents(COMPONENTS / "keda" / "scaledobject.yaml")
    (scaler,) = documents(COMPONENTS / "hpa" / "horizontalpodautoscaler.yaml")
    advanced = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    assert advanced["behavior"] == scaler["spec"]["behavior"]
    for theirs, ours in (("minReplicaCount", "minReplicas"), ("maxReplicaCount", "maxReplicas")):
        assert scaled["spec"][theirs] == scaler["spec"][ours]
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] == "prometheus"
        assert trigger["metricType"] in ("AverageValue", "Value")
        assert trigger["metadata"].keys() == {"serverAddress", "threshold", "query"}
