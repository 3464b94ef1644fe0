"""Exported graphs read with onnx alone: their branches, the types and the names of their values."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from pathlib import Path

import onnx

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.manifest import RAW_METADATA
from anydepth_deploy.runtimes.onnxruntime.raw_outputs import appended_outputs


def onnx_file(bundle: Bundle, layout: str, weights: str | None = None, row: int = 0) -> Path:
    """The file of a bundle's gated graph, or of one of its static graphs."""
    artifacts = bundle.artifacts(layout, weights=weights)
    return bundle.file(artifacts[row])


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all branches in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)


def add_raw_outputs(model: onnx.ModelProto) -> None:
    """The raw outputs, where they are not there, as runtimes add them."""
    (entry,) = (item for item in model.metadata_props if item.key == RAW_METADATA)
    present = {value.name for value in model.graph.output}
    model.MergeFromString(appended_outputs(json.loads(entry.value), present))


def assert_names_are_unique(model: onnx.ModelProto) -> None:
    """No node or value has the name of another, whatever branch it is in; no node has none."""
    nodes: collections.Counter[str] = collections.Counter()
    values: collections.Counter[str] = collections.Counter()
    for graph in graphs_of(model.graph):
        nodes.update(node.name for node in graph.node)
        values.update(name for node in graph.node for name in node.output if name)
        values.update(tensor.name for tensor in graph.initializer)
    assert [name for name, count in nodes.items() if count > 1 or not name] == []
    assert [name for name, count in values.items() if count > 1] == []


def graphs_with_types(
    graph: onnx.GraphProto, outer: dict[str, int] | None = None
) -> Iterator[tuple[onnx.GraphProto, dict[str, int]]]:
    """A graph and its branches, each with the types of the values it can see."""
    kinds = dict(outer or {})
    for value in (*graph.input, *graph.output, *graph.value_info):
        kinds[value.name] = value.type.tensor_type.elem_type
    kinds.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    yield graph, kinds
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_with_types(attribute.g, kinds)


def value_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Types of all values, as the checker infers them from the operators alone."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for graph, _ in graphs_with_types(bare.graph):
        del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    found: dict[str, int] = {}
    for _, kinds in graphs_with_types(inferred.graph):
        found.update(kinds)
    return found
