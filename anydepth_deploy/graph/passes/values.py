"""The two things that every pass adds to a graph: a constant, and a node with one output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["new_constant", "new_node"]


def new_constant(name: str, array: np.ndarray) -> ir.Value:
    """A constant of this name, which the caller puts among the initializers of a graph."""
    # Not ir.tensor, which asks first whether the array is one of many other things, slowly.
    tensor = ir.Tensor(array, name=name)
    return ir.val(name, tensor.dtype, list(array.shape), const_value=tensor)


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    output: str,
    kind: ir.TypeProtocol | None,
    shape: ir.Shape | list[int] | None,
    **attributes: int,
) -> ir.Node:
    """A node whose one output is called ``output``, which the caller puts into a graph."""
    given = ir.convenience.convert_attributes(attributes)
    node = ir.Node("", op_type, inputs, given, name=f"{output}/{op_type}")
    value = node.outputs[0]
    value.name, value.type = output, kind
    value.shape = ir.Shape(shape) if isinstance(shape, list) else shape
    return node
