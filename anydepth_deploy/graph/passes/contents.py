"""What of an artifact's description holds for a part of its graph."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.manifest import Artifact

__all__ = ["contents", "quantised"]


def contents(model: ir.Model, artifact: Artifact) -> dict[str, Any]:
    """The fields ``quantised`` and ``kept`` of ``artifact``, for its part ``model``."""
    nodes = {node.name for graph in graphs_of(model.graph) for node in graph}
    return {
        "quantised": quantised(model),
        "kept": [kept for kept in artifact.kept if kept.node in nodes],
    }


def quantised(model: ir.Model) -> int:
    """How many convolutions of ``model`` read dequantised tensors, their weight among them."""
    return sum(_in_eight_bits(node) for graph in graphs_of(model.graph) for node in graph)


def _in_eight_bits(node: ir.Node) -> bool:
    inputs = [value.producer() for value in node.inputs[:2] if value is not None]
    return node.op_type == "Conv" and all(
        producer is not None and producer.op_type == "DequantizeLinear" for producer in inputs
    )
