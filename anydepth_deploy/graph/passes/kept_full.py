"""What half precision leaves in FP32, and why, as manifests say it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from anydepth_deploy.graph.passes.half import HalfReport
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.manifest import Kept

__all__ = ["kept_full", "operators_of"]

SENSITIVE = "sensitive in half precision"
BEYOND = "beyond what half precision holds"


def operators_of(model: ir.Model) -> dict[str | None, str]:
    """The operator of each node by its name."""
    return {node.name: node.op_type for graph in graphs_of(model.graph) for node in graph}


def kept_full(report: HalfReport, operators: Mapping[str | None, str]) -> list[Kept]:
    """What ``report`` says, with the ``operators`` of before."""
    beyond = set(report.beyond)
    return [
        Kept(node=name, op=operators.get(name, ""), reason=BEYOND if name in beyond else SENSITIVE)
        for name in report.kept
    ]
