"""The end of a graph: raw outputs beside its detections, or instead of them."""

from __future__ import annotations

import json

import onnx_ir as ir
import onnx_ir.passes.common as common

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.placement import graphs_of
from anydepth_deploy.graph.values import new_node
from anydepth_deploy.manifest import RAW_METADATA

__all__ = ["add_raw_outputs", "drop_detections", "suppresses"]


def suppresses(model: ir.Model) -> bool:
    """Whether non-maximum suppression is in the graph."""
    return any(
        node.op_type == "NonMaxSuppression" for graph in graphs_of(model.graph) for node in graph
    )


def add_raw_outputs(model: ir.Model) -> list[str]:
    """Make the heads' raw outputs ``raw_*`` outputs of ``model``, in place; return their names.

    An engine cannot be looked into once it is built, and comparing it with its graph needs them.
    Raises :class:`ExportError` where the graph does not say which tensors they are.
    """
    graph = model.graph
    tensors: dict[str, str] = json.loads(model.metadata_props.get(RAW_METADATA, "{}"))
    if not tensors:
        raise ExportError(
            f"the graph {graph.name} does not say where its raw outputs are: export it again"
        )
    values = {value.name: value for node in graph for value in node.outputs}
    present = {value.name for value in graph.outputs}
    for public, tensor in tensors.items():
        name = f"raw_{public}"
        if name in present:
            continue
        source = values.get(tensor)
        if source is None:
            raise ExportError(f"the graph {graph.name} has no tensor {tensor}: export it again")
        node = new_node("Identity", [source], name, source.type, source.shape)
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    return [f"raw_{public}" for public in tensors]


def drop_detections(model: ir.Model) -> None:
    """End ``model`` with the raw outputs that it has, in place."""
    raw = [value for value in model.graph.outputs if (value.name or "").startswith("raw_")]
    model.graph.outputs.clear()
    model.graph.outputs.extend(raw)
    common.RemoveUnusedNodesPass()(model)
