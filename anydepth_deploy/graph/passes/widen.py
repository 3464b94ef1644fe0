"""FP32 again: the inverse of half precision, for builders that choose precisions themselves.

TensorRT 8.6 is weakly typed: it takes an FP32 graph, and is told which nodes must not compute in
FP16. Its opset 17 has no FP16 scales for Q and DQ nodes either. This pass turns an FP16 graph (or
INT8 with FP16 around it) into the FP32 graph of the same numbers, and says which nodes had been
FP32 on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.passes.sensitive import FIXED_INPUTS
from anydepth_deploy.manifest import RAW_METADATA

__all__ = ["widen"]

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16

TYPE_ATTRIBUTES = ("to", "dtype")
"""Attributes that hold the type of a result."""


def widen(model: ir.Model) -> list[str]:
    """Turn every FP16 value of ``model`` into FP32, in place.

    Constants keep their numbers, those FP16 rounded them to. Casts between the two types go.
    Tensors that are outputs of the graph, or that its metadata name, keep their names.

    Returns the names of the nodes that computed in FP32 in the given graph, or moved FP32 values,
    in the order of the graph: those that a weakly typed builder has to be told to keep so. Casts
    and Ifs are not among them. A graph without FP16 is left as it is, and names all its nodes. (So
    the last piece of an FP16 chain stays FP32.) Raises :class:`ExportError` when there is FP16 and
    a value whose type is not known.
    """
    graphs = list(graphs_of(model.graph))
    if any(value.dtype == FLOAT16 for graph in graphs for value in _values(graph)):
        _check_types(graphs)
    kept = [node.name or "" for graph in graphs for node in graph if _computes_in_full(node)]
    for graph in graphs:
        for value in _values(graph):
            _widen_value(value)
        for node in graph:
            _widen_attributes(node)
    raw = set(json.loads(model.metadata_props.get(RAW_METADATA, "{}")).values())
    for graph in graphs:
        for node in list(graph):
            if node.op_type == "Cast" and _types(node) == (FLOAT, FLOAT):
                _bypass(graph, node, raw)
    return kept


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """What ``graph`` itself holds, without its branches."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _check_types(graphs: Iterable[ir.Graph]) -> None:
    for node in (node for graph in graphs for node in graph):
        for value in node.outputs:
            if value.dtype is None:
                raise ExportError(
                    f"the type of '{value.name}' (node '{node.name}', {node.op_type}) is not "
                    "known: expected a graph whose values have types, export it again"
                )


def _computes_in_full(node: ir.Node) -> bool:
    if node.op_type in ("Cast", "If"):
        return False
    fixed = FIXED_INPUTS.get(node.op_type, ())
    read = [value for index, value in enumerate(node.inputs) if index not in fixed]
    return any(value is not None and value.dtype == FLOAT for value in (*read, *node.outputs))


def _widen_value(value: ir.Value) -> None:
    if value.dtype != FLOAT16:
        return
    value.type = ir.TensorType(FLOAT)  # a new type: values may share one object
    if value.const_value is not None:
        value.const_value = _widened(value.const_value)


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    array = tensor.numpy().astype(np.float32)
    return ir.Tensor(array, name=tensor.name)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype == FLOAT16:
                node.attributes[name] = ir.AttrTensor(name, _widened(tensor))
        elif name in TYPE_ATTRIBUTES and attribute.value == FLOAT16:
            node.attributes[name] = ir.AttrInt64(name, int(FLOAT))


def _types(node: ir.Node) -> tuple[ir.DataType | None, ir.DataType | None]:
    source = node.inputs[0]
    return (None if source is None else source.dtype), node.outputs[0].dtype


def _bypass(graph: ir.Graph, cast: ir.Node, raw: set[str]) -> None:
    """Let the readers of a cast that does nothing read what it reads.

    A cast whose result is known by its name outside passes the name on. Where it cannot, because
    what it reads is of another graph or known by name itself, it becomes an Identity.
    """
    source, output = cast.inputs[0], cast.outputs[0]
    assert source is not None
    if not _is_known(output, raw):
        ir.convenience.replace_all_uses_with(output, source)
        graph.remove(cast, safe=True)
        return
    producer = source.producer()
    if producer is None or producer.graph is not graph or _is_known(source, raw):
        cast.op_type = "Identity"
        del cast.attributes["to"]
        return
    name, output.name = output.name, None
    ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
    graph.remove(cast, safe=True)
    source.name = name


def _is_known(value: ir.Value, raw: set[str]) -> bool:
    return value.is_graph_output() or value.name in raw
