"""What the autoscaler and the alerts ask for is there, means what they think, and fits together."""

from __future__ import annotations

import json
import re

from conftest import ROOT
from kubernetes_files import COMPONENTS, FOLDER
from kustomize import build, documents, one
from scaling_rules import queries, rules, triggers

from anydepth_deploy.serve.names import Names

TRITON = {"nv_inference_queue_duration_us"}
"""Of Triton's own metrics, those that are used here (docs/user_guide/metrics.md of Triton)."""


def test_every_metric_is_one_that_servers_have() -> None:
    text = (ROOT / "anydepth_deploy/serve/models/metrics.py").read_text("utf-8")
    ours = set(re.findall(r'name="(anydepth_\w+)"', text))
    for query in queries():
        named = set(re.findall(r"\b(?:anydepth|nv)_[a-z_]+", query))
        assert named
        assert named <= ours | TRITON, query
        assert all(query.count(a) == query.count(b) for a, b in ("()", "{}", "[]"))
        for label, value in re.findall(r'(when|reason|images)="(\w+)"', query):
            assert value == "1" if label == "images" else f'"{value}"' in text


def test_queues_are_those_of_the_models_that_wait() -> None:
    """Of preprocessing and of the networks; an ensemble's and a router's hold these as well."""
    names = Names("best")
    waiting = (names.preprocess, names.gated, names.static(2, 1), names.static(7, None))
    others = (names.ensemble, names.router, names.postprocess)
    for query in (
        rules()["anydepth_queue_seconds"],
        triggers()["queue-seconds"]["metadata"]["query"],
    ):
        (pattern,) = re.findall(r'model=~"([^"]+)"', query)
        assert all(re.fullmatch(pattern, name) for name in waiting)
        assert not any(re.fullmatch(pattern, name) for name in others)


def seconds(text: str) -> float:
    """A quantity of Kubernetes."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def targets() -> dict[str, float]:
    (scaler,) = documents(COMPONENTS / "hpa" / "horizontalpodautoscaler.yaml")
    pods = [metric["pods"] for metric in scaler["spec"]["metrics"]]
    return {item["metric"]["name"]: seconds(item["target"]["averageValue"]) for item in pods}


def test_both_autoscalers_ask_for_the_same() -> None:
    own = targets()
    assert list(own) == list(rules())
    theirs = {
        f"anydepth_{name.replace('-', '_')}": float(item["metadata"]["threshold"])
        for name, item in triggers().items()
    }
    assert theirs == own
    for name, item in triggers().items():
        query = re.sub(r",?<<\.LabelMatchers>>", "", rules()[f"anydepth_{name.replace('-', '_')}"])
        plain = re.sub(r"by \(<<\.GroupBy>>, model\)", "by (pod, model)", query)
        plain = re.sub(r"sum by \(<<\.GroupBy>>\) ", "sum", plain).replace("{}", "")
        assert "".join(plain.split()) == "".join(item["metadata"]["query"].split())


def test_autoscalers_have_the_deployment_to_themselves() -> None:
    deployment = one(build(FOLDER / "base"), "Deployment")
    for name, path in (("hpa", "horizontalpodautoscaler"), ("keda", "scaledobject")):
        (scaler,) = documents(COMPONENTS / name / f"{path}.yaml")
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        (patch,) = documents(COMPONENTS / name / "deployment.yaml")
        assert patch["spec"] == {"replicas": None}


def test_depth_is_shed_before_pods_are_added() -> None:
    """At the loads of benchmarks/results/triton-auto.json, where a level's predicted time is a
    tenth more than its mean: up to the target at most one request in twenty is late at auto, and
    the last load below it would be hopeless without shedding."""
    recorded = json.loads((ROOT / "benchmarks/results/triton-auto.json").read_text("utf-8"))
    base, deepest = recorded["ladder_ms"][0], recorded["ladder_ms"][-1]
    rows = {(row["depth"], row["rate"]): row for row in recorded["simulated"]}
    rates = sorted({rate for _, rate in rows})
    load = {rate: 1.1 * rate * base / deepest for rate in rates}
    target = targets()["anydepth_load_at_base"]
    missed = targets()["anydepth_auto_missed_share"]
    below = [rate for rate in rates if load[rate] <= target]
    above = [rate for rate in rates if load[rate] > target]
    for rate in below:
        assert rows["auto", rate]["late_percent"] < 5
        assert rows["auto", rate]["no_level_fits_percent"] < 100 * missed
    assert rows["auto", above[0]]["late_percent"] > 5
    assert rows["auto", above[-1]]["no_level_fits_percent"] > 100 * missed
    full = rows["auto", below[-1]]
    assert full["levels_percent"][-1] < 75
    assert rows["super", below[-1]]["late_percent"] > 30


def test_documents_name_the_same_figures() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    for name, target in targets().items():
        assert re.search(rf"`{name}`[^\n]*\| {target:g} \|", text), name
