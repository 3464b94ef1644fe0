"""The queries of deploy/kubernetes: of autoscalers, and of alerts."""

from __future__ import annotations

import re
from typing import Any

from kubernetes_files import COMPONENTS
from kustomize import documents

ADAPTER = COMPONENTS / "hpa" / "prometheus-adapter.yaml"


def rules() -> dict[str, str]:
    """The queries of prometheus-adapter, by what they are called."""
    (values,) = documents(ADAPTER)
    found = {rule["name"]["as"]: rule for rule in values["rules"]["custom"]}
    for rule in found.values():
        assert rule["resources"]["overrides"].keys() == {"namespace", "pod"}
        (series,) = re.findall(r"^(\w+)\{", rule["seriesQuery"])
        assert series in rule["metricsQuery"]
    return {name: rule["metricsQuery"] for name, rule in found.items()}


def triggers() -> dict[str, Any]:
    (scaled,) = documents(COMPONENTS / "keda" / "scaledobject.yaml")
    return {item["name"]: item for item in scaled["spec"]["triggers"]}


def alerts() -> dict[str, str]:
    (found,) = documents(COMPONENTS / "monitoring" / "prometheusrule.yaml")
    return {
        rule["alert"]: rule["expr"] for group in found["spec"]["groups"] for rule in group["rules"]
    }


def queries() -> list[str]:
    return [
        *rules().values(),
        *(item["metadata"]["query"] for item in triggers().values()),
        *alerts().values(),
    ]
