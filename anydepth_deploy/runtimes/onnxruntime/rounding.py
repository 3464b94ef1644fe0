"""Make a runtime round to FP16 wherever the graph does.

ONNX Runtime has no FP16 convolution or matrix product for x86 CPUs. It computes those in FP32 and
leaves out the casts to FP16 and back between them, so that an FP16 graph looks more accurate than
it is, and never overflows. It has an FP16 Identity, though. One between two operators that compute
in FP32 is made to compute in FP32 as well, but two in a row are not: behind every operator that
gives FP16, they take the number as FP16 holds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["KEEP_ROUNDING", "round_to_half"]

KEEP_ROUNDING = ["EliminateIdentity"]
"""Optimisations of ONNX Runtime that would undo it."""


def round_to_half(model: Any) -> bool:
    """Put two Identities behind every operator that gives FP16, branches included; whether there
    was one. ``model`` is an ``onnx.ModelProto``, changed in place."""
    import onnx

    half = onnx.TensorProto.FLOAT16
    found = False
    for graph, types in _graphs(model.graph, {}):
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            barriers = []
            for index, name in enumerate(node.output):
                if types.get(name) == half and node.op_type not in ("If", "Cast"):
                    steps = [f"{name}/unrounded", f"{name}/rounded", name]
                    node.output[index] = steps[0]
                    barriers += [
                        onnx.helper.make_node("Identity", [source], [target], name=f"{target}/half")
                        for source, target in itertools.pairwise(steps)
                    ]
            graph.node.extend([node, *barriers])
            found = found or bool(barriers)
    return found


def _graphs(graph: Any, outer: Mapping[str, int]) -> Iterator[tuple[Any, dict[str, int]]]:
    """A graph and its branches, each with the types of the values in it, as the file has them."""
    types = dict(outer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    yield graph, types
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g, types)
