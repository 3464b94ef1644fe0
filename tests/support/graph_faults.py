"""Faults in exported graphs, for verifying to find: weights, scales, zero points, branches.

Convolutions are found by variant of a stage and place in it, in float and in 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Scopes = tuple[onnx.GraphProto, ...]
"""A graph of a model, and after it those around it."""

Change = Callable[[onnx.ModelProto], None]
"""A fault, put into a model."""


def convolutions(model: onnx.ModelProto) -> dict[str, tuple[Scopes, onnx.NodeProto]]:
    """Convolutions of all graphs by name, each with its graph and those around it."""
    return {
        node.name: (around, node)
        for around in scopes(model.graph)
        for node in around[0].node
        if node.op_type == "Conv"
    }


def scopes(graph: onnx.GraphProto, outer: Scopes = ()) -> Iterator[Scopes]:
    """Those of a graph and of all branches in it."""
    around = (graph, *outer)
    yield around
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from scopes(attribute.g, around)


def constant(around: Scopes, name: str) -> onnx.TensorProto | None:
    """The initialiser of this name, here or around."""
    found = [tensor for graph in around for tensor in graph.initializer if tensor.name == name]
    return found[0] if found else None


def maker(around: Scopes, name: str) -> onnx.NodeProto | None:
    """The node that gives a value, here or around."""
    found = [node for graph in around for node in graph.node if name in node.output]
    return found[0] if found else None


def is_quantised(around: Scopes, conv: onnx.NodeProto) -> bool:
    """Whether the weights of a convolution are stored in 8 bits."""
    source = maker(around, conv.input[1])
    return source is not None and source.op_type == "DequantizeLinear"


def set_constant(tensor: onnx.TensorProto | None, change: Callable[[Any], Any]) -> None:
    """Change an initialiser, which must make a difference."""
    assert tensor is not None
    before = numpy_helper.to_array(tensor)
    after = np.asarray(change(before.copy())).astype(before.dtype)
    assert not np.array_equal(before, after)
    tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))


def pick(model: onnx.ModelProto, variant: str, index: int) -> tuple[Scopes, onnx.NodeProto]:
    """A convolution of a variant, by its place among those with constant weights."""
    found = [
        (around, node)
        for name, (around, node) in convolutions(model).items()
        if name.startswith(f"{variant}/")
        and (is_quantised(around, node) or constant(around, node.input[1]) is not None)
    ]
    return found[index]


def zeroed(variant: str, index: int) -> Change:
    """All weights of a convolution are zero."""

    def change(model: onnx.ModelProto) -> None:
        around, conv = pick(model, variant, index)
        source = maker(around, conv.input[1])
        name = conv.input[1] if source is None else source.input[0]
        set_constant(constant(around, name), np.zeros_like)

    return change


def doubled(variant: str, index: int) -> Change:
    """The scales of a convolution's weights are twice what they should be."""

    def change(model: onnx.ModelProto) -> None:
        around, conv = pick(model, variant, index)
        source = maker(around, conv.input[1])
        assert source is not None
        assert source.op_type == "DequantizeLinear"
        set_constant(constant(around, source.input[1]), lambda scale: 2 * scale)

    return change


def shifted(variant: str, index: int) -> Change:
    """What a convolution reads comes back from 8 bits with a zero point that is off by 40."""

    def change(model: onnx.ModelProto) -> None:
        around, conv = pick(model, variant, index)
        source = maker(around, conv.input[0])
        assert source is not None
        assert source.op_type == "DequantizeLinear"
        old = constant(around, source.input[2])
        assert old is not None
        zero = int(numpy_helper.to_array(old))
        new = np.asarray(zero + 40 if zero < 128 else zero - 40, np.uint8)
        around[0].initializer.append(numpy_helper.from_array(new, f"{old.name}/wrong"))
        source.input[2] = f"{old.name}/wrong"

    return change


def swapped(gate: int) -> Change:
    """The branches of the If of this place in the main graph change places."""

    def change(model: onnx.ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == "If"][gate]
        one, other = node.attribute
        one.name, other.name = other.name, one.name

    return change
