"""Pods of deploy/kubernetes: they run and ask what this package and triton_server have."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from conftest import ROOT
from kubernetes_files import FOLDER, OVERLAYS
from kustomize import Document, build, one

from anydepth_deploy.serve import health
from anydepth_deploy.serve.limits import MAX_BATCH, in_flight, request_memory, waiting

UNITS = {"Mi": 2**20, "Gi": 2**30}
SIDE = 640
FULL_HD = 1920 * 1080


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


def deployments() -> list[Document]:
    return [one(build(FOLDER / overlay), "Deployment")["spec"] for overlay in OVERLAYS]


def pods() -> list[tuple[Document, Document]]:
    """The specification of each pod that serves, and its server."""
    found = [deployment["template"]["spec"] for deployment in deployments()]
    found.append(one(build(FOLDER / "kserve"), "ServingRuntime")["spec"])
    return [(pod, pod["containers"][0]) for pod in found]


def option(words: list[str], name: str) -> str:
    (value,) = (word.partition("=")[2] for word in words if word.startswith(f"--{name}="))
    return value


def port(server: Document, name: str | int) -> int:
    if isinstance(name, int):
        return name
    (found,) = (item["containerPort"] for item in server["ports"] if item["name"] == name)
    return int(found)


def http_port(server: Document) -> int:
    return int(
        next((w.partition("=")[2] for w in server["args"] if w.startswith("--http-port=")), 8000)
    )


@pytest.mark.parametrize("place", range(len(OVERLAYS) + 1))
def test_probes_send_pictures_to_the_server(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The health check takes their words, has time to answer, and asks the port that is served."""
    _, server = pods()[place]
    asked: list[tuple[str, float]] = []

    def check(url: str, *, model: str | None, timeout: float) -> list[str]:
        assert model is None  # all that `anydepth-deploy triton` wrote, whatever they are called
        asked.append((url, timeout))
        raise health.UnhealthyError("slow")

    monkeypatch.setattr(health, "check_health", check)
    for name, slow in (("readinessProbe", 1), ("livenessProbe", 0)):
        probe = server[name]
        python, option, module, *words = probe["exec"]["command"]
        assert (python, option, module) == ("python3", "-m", health.__name__)
        # A slow server gets no requests, and is not started again.
        assert health.main(words) == slow
        url, timeout = asked.pop()
        assert url == f"http://localhost:{http_port(server)}"
        assert health.AGAIN < timeout < probe["timeoutSeconds"]
    start = server["startupProbe"]["httpGet"]
    assert port(server, start["port"]) == http_port(server)
    assert f'"{start["path"]}"' in (ROOT / "anydepth_deploy/serve/health.py").read_text("utf-8")


def test_what_runs_is_what_compose_runs() -> None:
    compose: Any = yaml.safe_load((ROOT / "triton_server/compose.yaml").read_text("utf-8"))
    for overlay, deployment, service in zip(
        OVERLAYS, deployments(), ("triton", "triton-gpu"), strict=True
    ):
        server = deployment["template"]["spec"]["containers"][0]
        said = compose["services"][service]
        own = [word for word in server["args"] if not word.startswith("--exit-timeout-secs=")]
        assert own == said["command"], overlay
        assert server["image"] == said["image"]
        ports = [int(item.rsplit(":", 1)[1]) for item in said["ports"]]
        assert [item["containerPort"] for item in server["ports"]] == ports
        gpus = server["resources"]["limits"].get("nvidia.com/gpu", 0)
        assert gpus == (service == "triton-gpu")


def test_ports_are_those_that_are_served() -> None:
    found = build(FOLDER / "base")
    pod = one(found, "Deployment")["spec"]["template"]
    ports = {item["name"]: item["containerPort"] for item in pod["spec"]["containers"][0]["ports"]}
    service = one(found, "Service")["spec"]
    assert {item["name"]: item["port"] for item in service["ports"]} == ports
    assert all(item["targetPort"] in ports for item in service["ports"])
    open_ports = [
        item["port"]
        for rule in one(found, "NetworkPolicy")["spec"]["ingress"]
        for item in rule["ports"]
    ]
    assert open_ports == list(ports.values())
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])


def test_all_of_it_is_about_the_same_pods() -> None:
    found = build(FOLDER / "base")
    deployment = one(found, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert one(found, "Service")["spec"]["selector"] == labels
    assert one(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert one(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    (monitor,) = yaml.safe_load_all(
        (FOLDER / "components/monitoring/podmonitor.yaml").read_text("utf-8")
    )
    assert monitor["spec"]["selector"]["matchLabels"] == labels
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    server = deployment["template"]["spec"]["containers"][0]
    assert endpoint["port"] in {item["name"] for item in server["ports"]}


def test_a_server_that_ends_has_time_to_answer() -> None:
    for deployment in deployments():
        pod = deployment["template"]["spec"]
        server = pod["containers"][0]
        word, seconds = server["lifecycle"]["preStop"]["exec"]["command"]
        assert word == "sleep"
        needed = int(seconds) + int(option(server["args"], "exit-timeout-secs"))
        assert pod["terminationGracePeriodSeconds"] >= needed + 10


def test_memory_is_enough_for_requests() -> None:
    """Of inputs of 640 x 640 and pictures of 1920 x 1080, with what options are by default."""
    image = 12 * SIDE * SIDE
    shared = (2 * in_flight(MAX_BATCH) + waiting(MAX_BATCH) + MAX_BATCH) * image
    requests = request_memory((SIDE, SIDE), MAX_BATCH, pixels=FULL_HD, workers=2)
    for pod, server in pods():
        (volume,) = (item for item in pod["volumes"] if item["name"] == "shm")
        assert volume["emptyDir"]["medium"] == "Memory"
        assert size(volume["emptyDir"]["sizeLimit"]) > 2 * shared
        limit = size(server["resources"]["limits"]["memory"])
        assert limit > size(volume["emptyDir"]["sizeLimit"]) + requests
        assert (
            "cpu" not in server["resources"]["limits"]
        )  # throttled, all that is under way is late
        assert "/dev/shm" in {item["mountPath"] for item in server["volumeMounts"]}


def test_nothing_more_than_it_needs() -> None:
    found = [deployment["template"]["spec"] for deployment in deployments()]
    found.append(one(build(FOLDER / "models"), "Pod")["spec"])
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_servers_copy_what_the_loader_fills() -> None:
    loader, claim = (
        one(build(FOLDER / "models"), kind) for kind in ("Pod", "PersistentVolumeClaim")
    )
    name = claim["metadata"]["name"]
    assert loader["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == name
    for deployment in deployments():
        pod = deployment["template"]["spec"]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == name
        (copy,) = pod["initContainers"]
        mounts = {item["mountPath"]: item["name"] for item in copy["volumeMounts"]}
        assert mounts["/source"] == pod["volumes"][0]["name"]
        served = option(pod["containers"][0]["args"], "model-repository")
        assert copy["command"] == ["cp", "-rL", "/source/models/.", f"{served}/"]
        assert mounts[served] in {item["name"] for item in pod["containers"][0]["volumeMounts"]}
    service = one(build(FOLDER / "kserve"), "InferenceService")["spec"]["predictor"]
    assert service["model"]["storageUri"] == f"pvc://{name}/models"
    runtime = one(build(FOLDER / "kserve"), "ServingRuntime")
    assert service["model"]["runtime"] == runtime["metadata"]["name"]


IMAGE = r"nvcr\.io/nvidia/tritonserver:(\d\d\.\d\d)-py3"
OURS = r"anydepth-triton:(\d\d\.\d\d)"


def test_there_is_one_version_of_the_server() -> None:
    """Wherever it is named; the image built on it is called after it."""
    paths = [
        *(ROOT / "triton_server" / name for name in ("Dockerfile", "compose.yaml")),
        *(ROOT / "docs" / name for name in ("triton.md", "kubernetes.md")),
        *FOLDER.rglob("*.yaml"),
    ]
    found = {path: path.read_text("utf-8") for path in paths}
    versions = {
        version for text in found.values() for version in re.findall(f"{IMAGE}|{OURS}", text)
    }
    flat = {part for pair in versions for part in pair if part}
    assert len(flat) == 1, flat
    for name in ("Dockerfile", "compose.yaml"):
        assert re.search(IMAGE, found[ROOT / "triton_server" / name])
    images = {
        container["image"]
        for pod, _ in pods()
        for container in (*pod["containers"], *pod.get("initContainers", ()))
    }
    assert images == {f"anydepth-triton:{flat.pop()}"}
