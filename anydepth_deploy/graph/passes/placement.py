"""Which operators of a graph compute in 8 bits, and which tensors are rounded for them.

Convolutions with constant weights are quantised. Everything else that may run in 8 bits does so
only between them, where that spares a way to float and back. What loses too much stays in float:
attention products, softmax, layer norms, sampling, linear layers, whatever decodes boxes, and the
convolutions that give the heads' outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from anydepth_deploy.graph.passes.fold import constant

__all__ = [
    "HEAD_OUTPUT",
    "Keep",
    "Leaves",
    "Placement",
    "graphs_of",
    "observed",
    "place",
    "result_of",
    "silu_of",
]

MOVES = frozenset(
    {"Flatten", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that move values without computing any: 8 bits in, the same 8 bits out."""

ARITHMETIC = frozenset({"Add", "Concat"})
"""Operators computed in 8 bits with a range of their own for the result. AveragePool is none of
them: ONNX Runtime's 8-bit form takes 8 times as long as the float one (it takes it all the same
where both neighbours are rounded)."""

EIGHT = MOVES | ARITHMETIC | {"Conv", "Resize"}
"""What may compute in 8 bits in another graph."""

THROUGH = MOVES | {"Concat", "Identity"}
"""Operators between a convolution that gives the heads' outputs and what decodes them."""

DECODERS = frozenset({"Exp", "Sigmoid", "Softmax", "TopK"})

HEAD_OUTPUT = "head output"
"""Why the last convolutions of the heads stay in float."""

Keep = Callable[[ir.Node, str | None], str | None]
"""Asked for each convolution, with the reason why it would stay in float (None: it would not);
returns the reason why it does, or None."""


Leaves = Callable[[ir.Value], bool]


@dataclass
class Placement:
    """What is quantised in one graph (not in the branches of its Ifs).

    ``convolutions``: those that compute in 8 bits. ``carriers``: other operators that do.
    ``values``: float values that are rounded to 8 bits where they arise, or where they enter the
    graph. ``ties``: value -> the value whose range it takes over. ``kept``: convolutions with
    constant weights that stay in float, and why.
    """

    graph: ir.Graph
    convolutions: list[ir.Node] = field(default_factory=list)
    carriers: list[ir.Node] = field(default_factory=list)
    values: dict[ir.Value, None] = field(default_factory=dict)
    ties: dict[ir.Value, ir.Value] = field(default_factory=dict)
    kept: dict[ir.Node, str] = field(default_factory=dict)

    def root(self, value: ir.Value) -> ir.Value:
        """The value whose range ``value`` is rounded with."""
        while value in self.ties:
            value = self.ties[value]
        return value


def place(
    graph: ir.Graph, keep: Keep, *, results: bool, leaves: Leaves = lambda value: True
) -> Placement:
    """Decide what is quantised in ``graph``, and in float what ``keep`` gives a reason for.

    ``results``: whether the results of convolutions are rounded, too, and the operators between
    them computed in 8 bits (ONNX Runtime computes a convolution in 8 bits only then). Otherwise
    only what convolutions read is rounded, and both sides of an Add (TensorRT fuses the rest).
    ``leaves``: which outputs of the graph are read in 8 bits behind its border.
    """
    found = Placement(graph)
    for node in graph:
        if not _is_quantisable(node):
            continue
        reason = keep(node, HEAD_OUTPUT if _gives_head_output(node) else None)
        if reason is None:
            found.convolutions.append(node)
        else:
            found.kept[node] = reason
    for node in found.convolutions:
        found.values[_input(node)] = None
        if results:
            found.values[result_of(node)] = None
    if results:
        _carry(found)
        _drop_useless(found, leaves)
        _tie(found)
    else:
        found.carriers = [
            node
            for node in graph
            if node.op_type == "Add" and any(value in found.values for value in node.inputs)
        ]
    return found


def observed(graph: ir.Graph) -> list[str]:
    """Names of the tensors of ``graph`` whose ranges quantising it can ask for, in any scheme."""
    found = place(graph, lambda node, reason: None, results=True)
    read = {_input(node) for node in found.convolutions}
    # A Concat's input takes over the Concat's range only where that is computed in 8 bits, which
    # what is kept in float decides; what was moved, where no convolution reads it, always does.
    values = [value for value in found.values if value in read or not _is_derived(value)]
    return [value.name for value in values if value.name is not None]


def silu_of(value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """The Sigmoid and the Mul of ``value * sigmoid(value)``, when nothing else reads ``value``."""
    by_type = {node.op_type: node for node in value.consumers()}
    sigmoid, product = by_type.get("Sigmoid"), by_type.get("Mul")
    if sigmoid is None or product is None or len(by_type) != 2 or value.is_graph_output():
        return None
    gate = sigmoid.outputs[0]
    alone = len(list(value.uses())) == 2 and [use.node for use in gate.uses()] == [product]
    return (sigmoid, product) if alone and set(product.inputs) == {value, gate} else None


def graphs_of(graph: ir.Graph) -> Iterator[ir.Graph]:
    """``graph`` and the branches of its Ifs, and theirs."""
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from graphs_of(attribute.as_graph())


def result_of(node: ir.Node) -> ir.Value:
    """What is rounded behind a convolution or an Add: its result, or that of the Relu it feeds."""
    output = node.outputs[0]
    readers = [use.node for use in output.uses()]
    if len(readers) == 1 and readers[0].op_type == "Relu" and not output.is_graph_output():
        return readers[0].outputs[0]
    return output


def _is_quantisable(node: ir.Node) -> bool:
    return node.op_type == "Conv" and constant(node.inputs[1]) is not None


def _is_derived(value: ir.Value) -> bool:
    """Whether the range of ``value`` is known: that of what was moved, or 0 to 1."""
    node = value.producer()
    return node is not None and (
        node.op_type == "Sigmoid" or node.op_type in MOVES or _is_nearest(node)
    )


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _gives_head_output(node: ir.Node) -> bool:
    """Whether nothing but reordering lies between this convolution and what decodes its result."""
    ahead = [node.outputs[0]]
    while ahead:
        value = ahead.pop()
        if silu_of(value) is not None:
            continue
        for use in value.uses():
            if use.node.op_type in DECODERS:
                return True
            if use.node.op_type in THROUGH:
                ahead.extend(use.node.outputs)
    return False


def _carry(found: Placement) -> None:
    """Let 8 bits flow on through operators all of whose inputs are rounded."""
    for node in found.graph:
        if node.op_type == "Sigmoid":
            silu = silu_of(_input(node))
            if silu is not None and _input(node) in found.values:
                found.carriers.extend(silu)
                found.values.update({each.outputs[0]: None for each in silu})
            continue
        if node.op_type not in MOVES | ARITHMETIC and not _is_nearest(node):
            continue
        sources = _sources(node)
        if sources and all(value in found.values for value in sources):
            found.carriers.append(node)
            results = node.outputs if node.op_type != "Add" else [result_of(node)]
            found.values.update(dict.fromkeys(results))


def _drop_useless(found: Placement, leaves: Leaves) -> None:
    """Leave in float what no operator reads in 8 bits, here or behind a border: rounding it would
    cost accuracy and spare nothing."""
    eight = {*found.convolutions, *found.carriers}
    read = {_input(node) for node in found.convolutions}
    for node in reversed(list(found.carriers)):
        results = [result_of(node)] if node.op_type == "Add" else list(node.outputs)
        readers = {use.node for value in results for use in value.uses()}
        if readers & eight or any(value.is_graph_output() and leaves(value) for value in results):
            continue
        strangers = [reader for reader in readers if reader.graph is not found.graph]
        if any(reader.op_type in EIGHT for reader in strangers):
            continue
        # ONNX Runtime 1.31 pushes a DequantizeLinear through operators that move values, and aborts
        # the process when their result is then read in a branch only.
        if strangers and node.op_type in MOVES:
            continue
        eight.discard(node)
        found.carriers.remove(node)
        for value in results:
            if value not in read:
                del found.values[value]


def _sources(node: ir.Node) -> list[ir.Value]:
    """The inputs of a carrier that are data (not shapes or sizes)."""
    several = node.op_type in ARITHMETIC
    return [value for value in (node.inputs if several else node.inputs[:1]) if value is not None]


def _is_nearest(node: ir.Node) -> bool:
    if node.op_type != "Resize":
        return False
    mode = node.attributes.get("mode")
    return mode is None or mode.as_string() == "nearest"


def _tie(found: Placement) -> None:
    """Moves keep the range of their input; what only a Concat reads takes the Concat's range, as
    it would be rounded to that next."""
    for node in found.carriers:
        if node.op_type in MOVES or node.op_type == "Resize":
            found.ties.update(dict.fromkeys(node.outputs, _input(node)))
    for node in found.carriers:
        if node.op_type == "Concat":
            for value in _sources(node):
                alone = {use.node for use in value.uses()} == {node}
                if alone and value not in found.ties and not value.is_graph_output():
                    found.ties[value] = node.outputs[0]
