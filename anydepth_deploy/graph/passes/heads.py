"""The end of a graph: raw outputs beside its detections, or instead of them."""

from __future__ import annotations

import json

import onnx_ir as ir
import onnx_ir.passes.common as common

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.passes.values import new_node
from anydepth_deploy.manifest import RAW_METADATA

__all__ = ["add_raw_outputs", "drop_detections", "raw_tensors", "suppresses"]


def suppresses(model: ir.Model) -> bool:
    """Whether non-maximum suppression is in the graph."""
    return any(
        node.op_type == "NonMaxSuppression" for graph in graphs_of(model.graph) for node in graph
    )


def raw_tensors(model: ir.Model) -> dict[str, ir.Value]:
    """The tensors that hold the raw outputs, by the public names of those.

    Raises :class:`ExportError` where the metadata do not name them, or name others.
    """
    try:
        names = dict(json.loads(model.metadata_props[RAW_METADATA]))
    except (KeyError, ValueError, TypeError):
        names = {}
    values = {value.name: value for node in model.graph for value in node.outputs}
    missing = [str(name) for name in names.values() if name not in values]
    if not names or missing:
        raise ExportError(
            f"the graph '{model.graph.name}' does not say where its raw outputs are (metadata "
            f"{RAW_METADATA}; not found: {', '.join(missing) or 'all'}): export it again"
        )
    return {public: values[name] for public, name in names.items()}


def add_raw_outputs(model: ir.Model) -> dict[str, str]:
    """Make the heads' raw outputs outputs ``raw_*`` of ``model`` where they are not, in place;
    return the tensors that hold them, by public name.

    An engine cannot be looked into once it is built, and comparing it with its graph needs them.
    Raises :class:`ExportError` as :func:`raw_tensors` does.
    """
    graph = model.graph
    tensors = raw_tensors(model)
    present = {value.name for value in graph.outputs}
    for public, value in tensors.items():
        if f"raw_{public}" not in present:
            node = new_node("Identity", [value], f"raw_{public}", value.type, value.shape)
            graph.append(node)
            graph.outputs.append(node.outputs[0])
    return {public: value.name or "" for public, value in tensors.items()}


def drop_detections(model: ir.Model) -> None:
    """End ``model`` with the raw outputs that it has, in place."""
    raw = [value for value in model.graph.outputs if (value.name or "").startswith("raw_")]
    model.graph.outputs.clear()
    model.graph.outputs.extend(raw)
    common.RemoveUnusedNodesPass()(model)
