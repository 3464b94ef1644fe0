"""Fold batch norms into convolutions, and merge parallel convolutions into one.

Both passes work on one piece, so that each mode of a stage gets its own folded weights. (Folding
before the modes are told apart, as the authors' deployment conversion does, leaves the skipped
mode with the wrong norm.)
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from anydepth_deploy.graph.passes.values import new_constant

__all__ = ["constant", "drop_unused", "fold_batch_norms", "merge_parallel_convolutions"]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, or None when ``value`` is computed."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def fold_batch_norms(graph: ir.Graph, keep: Collection[str] = ()) -> int:
    """Fold every BatchNormalization that follows a convolution into it; return how many.

    Convolutions whose weights are named in ``keep`` stay as they are. Arithmetic is in float64:
    ``w' = w * s`` and ``b' = (b - mean) * s + beta`` with ``s = gamma / sqrt(var + eps)``
    (Ioffe and Szegedy 2015, section 3.1).
    """
    folded = 0
    for norm in [node for node in graph if node.op_type == "BatchNormalization"]:
        conv = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if conv is None or conv.op_type != "Conv" or len(list(conv.outputs[0].uses())) != 1:
            continue
        weight = constant(conv.inputs[1])
        statistics = [constant(value) for value in norm.inputs[1:]]
        if (
            weight is None
            or _name(conv.inputs[1]) in keep
            or any(array is None for array in statistics)
        ):
            continue
        gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in statistics)
        eps_attribute = norm.attributes.get("epsilon")
        eps = 1e-5 if eps_attribute is None else eps_attribute.as_float()
        scale = gamma / np.sqrt(variance + eps)
        bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
        offset = np.zeros_like(mean) if bias is None else np.asarray(bias, np.float64)
        _replace_convolution(
            graph,
            norm,
            conv,
            weight.astype(np.float64) * scale.reshape(-1, 1, 1, 1),
            (offset - mean) * scale + beta,
            weight.dtype,
        )
        folded += 1
    drop_unused(graph)
    return folded


def merge_parallel_convolutions(graph: ir.Graph) -> int:
    """Merge ``conv_kxk(x) + conv_1x1(x)`` into one k x k convolution; return how many.

    Both need constant weights and biases, stride and dilation 1 and "same" padding: the 1x1 kernel
    is then the centre of a k x k one (RepVGG, section 3.3).
    """
    merged = 0
    for add in [node for node in graph if node.op_type == "Add"]:
        convs = [value.producer() if value is not None else None for value in add.inputs]
        if not all(conv is not None and _is_plain_same_convolution(conv) for conv in convs):
            continue
        wide, narrow = sorted((conv for conv in convs if conv is not None), key=_kernel_size)[::-1]
        if wide is narrow or wide.inputs[0] is not narrow.inputs[0]:
            continue
        weights = [constant(conv.inputs[1]) for conv in (wide, narrow)]
        biases = [constant(conv.inputs[2]) for conv in (wide, narrow)]
        assert all(array is not None for array in (*weights, *biases))
        kernel = np.asarray(weights[0], np.float64).copy()
        inner = np.asarray(weights[1], np.float64)
        if kernel.shape[:2] != inner.shape[:2] or inner.shape[2:] != (1, 1):
            continue
        middle = kernel.shape[-1] // 2
        kernel[:, :, middle, middle] += inner[:, :, 0, 0]
        bias = sum(np.asarray(array, np.float64) for array in biases)
        dtype = np.asarray(weights[0]).dtype
        _replace_convolution(graph, add, wide, kernel, np.asarray(bias), dtype)
        merged += 1
    drop_unused(graph)
    return merged


def _name(value: ir.Value | None) -> str:
    return "" if value is None or value.name is None else value.name


def _kernel_size(conv: ir.Node) -> int:
    weight = constant(conv.inputs[1])
    return 0 if weight is None else int(weight.shape[-1])


def _is_plain_same_convolution(node: ir.Node) -> bool:
    """Group 1, stride 1, dilation 1, square odd kernel, "same" padding, used once, constant."""
    if node.op_type != "Conv" or len(node.inputs) < 3 or len(list(node.outputs[0].uses())) != 1:
        return False
    weight = constant(node.inputs[1])
    if weight is None or constant(node.inputs[2]) is None:
        return False
    size = weight.shape[-1]

    def ints(name: str, default: list[int]) -> list[int]:
        attribute = node.attributes.get(name)
        return default if attribute is None else list(attribute.as_ints())

    group = node.attributes.get("group")
    return (
        weight.shape[2] == size
        and size % 2 == 1
        and (group is None or group.as_int() == 1)
        and ints("strides", [1, 1]) == [1, 1]
        and ints("dilations", [1, 1]) == [1, 1]
        and ints("pads", [0] * 4) == [size // 2] * 4
    )


def _replace_convolution(
    graph: ir.Graph,
    last: ir.Node,
    conv: ir.Node,
    weight: np.ndarray,
    bias: np.ndarray,
    dtype: np.dtype,
) -> None:
    """Put a copy of ``conv`` with new constants where ``last`` was; the output keeps its value."""
    assert conv.name is not None
    values = []
    for array, suffix in ((weight, "weight"), (bias, "bias")):
        name = f"{conv.name}.{suffix}"
        if name in graph.initializers:  # folded once already: the second fold replaces the first
            name += ".merged"
        value = new_constant(name, np.ascontiguousarray(array.astype(dtype)))
        graph.register_initializer(value)
        values.append(value)
    output = last.outputs[0]
    node = ir.Node("", "Conv", [conv.inputs[0], *values], conv.attributes.values(), name=conv.name)
    new = node.outputs[0]
    output_name, kind, shape = output.name, output.type, output.shape
    graph.insert_before(last, node)
    ir.convenience.replace_all_uses_with(output, new, replace_graph_outputs=True)
    graph.remove(last, safe=True)
    new.name, new.type, new.shape = output_name, kind, shape


def drop_unused(graph: ir.Graph) -> None:
    """Remove nodes, then initializers, that nothing reads any more."""
    for node in reversed(list(graph)):
        if not any(value.is_graph_output() or list(value.uses()) for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not list(value.uses()) and not value.is_graph_output():
            del graph.initializers[name]
