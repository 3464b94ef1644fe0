"""Nested Ifs become Ifs of depth one.

A stage with two gates is an If in each branch of an If, which TensorRT-RTX 1.7 refuses. Flattened,
each leaf of such a nest has an If of its own, and its predicate is the And of those on the path to
it. The Ifs form a chain: whichever leaf runs, the Ifs behind it pass its outputs on.

    y1 = If(p1) {leaf 1} else {zeros}
    y2 = If(p2) {leaf 2} else {y1}
    ...

Exactly one predicate holds, so the zeros are never the result. They cost writing the outputs once,
and every pass-through at most a copy. An empty tensor in place of the zeros, and a Concat of all
leaves, would be one copy; but the batch of everything behind would then be known at run time only,
and an engine would plan for the sum of the leaves' largest batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.resolve import branches
from anydepth_deploy.graph.passes.values import new_constant, new_node

__all__ = ["Leaf", "flatten", "leaves"]

BOOL, INT64 = ir.TensorType(ir.DataType.BOOL), ir.TensorType(ir.DataType.INT64)


@dataclass(frozen=True)
class Leaf:
    """A branch without Ifs, and what each predicate on the way to it must be."""

    path: tuple[tuple[ir.Value, bool], ...]
    graph: ir.Graph


def leaves(node: ir.Node, path: tuple[tuple[ir.Value, bool], ...] = ()) -> Iterator[Leaf]:
    """The leaves of an If, those of the nested ones included.

    Raises :class:`ExportError` where a branch holds something beside an If.
    """
    predicate = node.inputs[0]
    assert predicate is not None
    for value, branch in branches(node).items():
        here = (*path, (predicate, value))
        inner = [child for child in branch if child.op_type == "If"]
        if not inner:
            yield Leaf(here, branch)
        elif len(branch) == 1 and list(branch.outputs) == list(inner[0].outputs):
            yield from leaves(inner[0], here)
        else:
            raise ExportError(
                f"the branch '{branch.name}' holds an If and {len(branch) - 1} more nodes: "
                "expected an If alone, as 'export' writes it"
            )


def flatten(model: ir.Model) -> int:
    """Turn every nest of Ifs in ``model`` into a chain of Ifs, in place; return how many.

    A graph without nested Ifs stays as it is. What the graph computes does not change, nor do
    names of tensors and constants. Raises :class:`ExportError` where a branch holds something
    beside an If, or an output has more than its batch open.
    """
    nests = []
    for node in model.graph:
        if node.op_type == "If":
            found = list(leaves(node))
            if len(found) > len(branches(node)):
                nests.append((node, found))
    for node, found in nests:
        _flatten(model.graph, node, found)
    return len(nests)


def _flatten(graph: ir.Graph, nest: ir.Node, found: list[Leaf]) -> None:
    negations: dict[ir.Value, ir.Value] = {}
    last: list[ir.Value] = []
    for index, leaf in enumerate(found):
        name = leaf.graph.name or f"{nest.name}.{index}"
        predicate = _all_of(graph, nest, leaf, name, negations)
        otherwise = f"{name}.else"
        other = _pass_through(last, otherwise) if last else _zeros(graph, nest, otherwise)
        node = ir.Node(
            "",
            "If",
            [predicate],
            [ir.AttrGraph("then_branch", leaf.graph), ir.AttrGraph("else_branch", other)],
            num_outputs=len(nest.outputs),
            name=f"{name}/If",
        )
        for value, source in zip(node.outputs, nest.outputs, strict=True):
            value.name, value.type = f"{name}/If/{source.name}", source.type
            value.shape = source.shape
        graph.insert_before(nest, node)
        last = list(node.outputs)
    for value, new in zip(nest.outputs, last, strict=True):
        public, value.name = value.name, None
        ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)
        new.name = public
    graph.remove(nest, safe=True)


def _all_of(
    graph: ir.Graph, nest: ir.Node, leaf: Leaf, name: str, negations: dict[ir.Value, ir.Value]
) -> ir.Value:
    """The predicate of a leaf, computed before ``nest``."""

    def add(op_type: str, inputs: list[ir.Value], output: str) -> ir.Value:
        node = new_node(op_type, inputs, output, BOOL, [])
        graph.insert_before(nest, node)
        return node.outputs[0]

    terms = []
    for predicate, value in leaf.path:
        if not value and predicate not in negations:
            negations[predicate] = add("Not", [predicate], f"{nest.name}/not/{predicate.name}")
        terms.append(predicate if value else negations[predicate])
    found, *rest = terms
    for index, term in enumerate(rest):
        suffix = "" if index == len(rest) - 1 else f"/{index}"
        found = add("And", [found, term], f"{name}/runs{suffix}")
    return found


def _pass_through(values: list[ir.Value], name: str) -> ir.Graph:
    nodes = [
        new_node("Identity", [value], f"{name}/{index}", value.type, value.shape)
        for index, value in enumerate(values)
    ]
    return ir.Graph([], [node.outputs[0] for node in nodes], nodes=nodes, name=name)


def _zeros(graph: ir.Graph, nest: ir.Node, name: str) -> ir.Graph:
    """A branch with zeros of the shapes of ``nest``'s outputs, its batch that of the input."""
    nodes: list[ir.Node] = []
    constants: list[ir.Value] = []
    outputs = []
    source = graph.inputs[0]
    assert source.shape is not None
    batch = source.shape[0]
    shape = new_node("Shape", [source], f"{name}/batch", INT64, [1], start=0, end=1)
    nodes.append(shape)
    for index, value in enumerate(nest.outputs):
        if value.shape is None or value.dtype is None:
            raise ExportError(f"the output '{value.name}' of an If has no type or no shape")
        first, *rest = value.shape
        if first != batch or not all(isinstance(size, int) for size in rest):
            raise ExportError(
                f"the output '{value.name}' of an If has the shape {value.shape}: expected the "
                f"batch {batch} and fixed sizes behind it"
            )
        sizes = new_constant(f"{name}/{index}/sizes", np.asarray(list(rest), np.int64))
        zero = new_constant(
            f"{name}/{index}/zero", np.zeros([1] * len(value.shape), value.dtype.numpy())
        )
        constants += [sizes, zero]
        whole = new_node(
            "Concat",
            [shape.outputs[0], sizes],
            f"{name}/{index}/shape",
            INT64,
            [len(value.shape)],
            axis=0,
        )
        filled = new_node(
            "Expand", [zero, whole.outputs[0]], f"{name}/{index}", value.type, value.shape
        )
        nodes += [whole, filled]
        outputs.append(filled.outputs[0])
    return ir.Graph([], outputs, nodes=nodes, initializers=constants, name=name)
