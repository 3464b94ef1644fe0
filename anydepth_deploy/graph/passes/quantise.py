"""Explicit 8-bit quantisation: QuantizeLinear and DequantizeLinear around what computes in 8 bits.

The pass works on one graph at a time, the main graph and every branch, so that no pair crosses
the border of an If: what enters a branch is rounded inside it, what leaves it is float. Constants
of a pair belong to the graph it is in.

One range table, a scheme for each of three runtimes. ONNX Runtime's CPU kernels want asymmetric
uint8 activations and per-channel int8 weights, and fuse a convolution only where its result is
rounded, too; TensorRT wants zero points of 0, and scales that FP16 can hold; OpenVINO computes in
float what follows a convolution within its kernel, and wants what convolutions read and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from anydepth_deploy.graph.passes.fold import constant
from anydepth_deploy.graph.passes.placement import (
    Keep,
    Leaves,
    Placement,
    graphs_of,
    place,
    silu_of,
)
from anydepth_deploy.graph.passes.values import new_constant, new_node

__all__ = ["SCHEMES", "Ranges", "Scheme", "quantise"]

Ranges = Callable[[ir.Value], tuple[float, float]]
"""The range of a tensor of the FP32 graph: low <= 0 <= high."""

FLOAT = ir.TensorType(ir.DataType.FLOAT)

SILU_FLOOR = -8.0
"""Where x * sigmoid(x) is -0.003: below it nothing is left to resolve."""

SIGMOID_RANGE = (0.0, 1.0)

SMALLEST_HALF = 2.0**-14
"""FP16's smallest normal number."""


@dataclass(frozen=True)
class Scheme:
    """How one runtime wants its quantised graphs.

    ``symmetric``: int8 activations with zero point 0 instead of uint8 ones. ``results``: see
    :func:`place`. ``half``: scales are FP16 numbers.
    """

    name: str
    symmetric: bool
    results: bool
    half: bool


SCHEMES = {
    "onnxruntime": Scheme("onnxruntime", symmetric=False, results=True, half=False),
    "tensorrt": Scheme("tensorrt", symmetric=True, results=False, half=True),
    "openvino": Scheme("openvino", symmetric=True, results=False, half=False),
}


@dataclass(frozen=True)
class _Pair:
    """Scale and zero point of one tensor."""

    scale: NDArray[np.float32]
    zero: NDArray[np.generic]


def quantise(
    model: ir.Model,
    scheme: Scheme,
    ranges: Ranges,
    keep: Keep,
    *,
    leaves: Leaves = lambda value: True,
) -> list[Placement]:
    """Quantise every graph of ``model`` in place; what was placed in each of them.

    Norms must be folded. ``keep`` is asked for every convolution, ``leaves`` for outputs of graphs
    (see :func:`place`); ``ranges`` for every tensor that is rounded, and raises what it raises when
    it has none.
    """
    placements = [
        place(graph, keep, results=scheme.results, leaves=leaves)
        for graph in list(graphs_of(model.graph))
    ]
    # All numbers first: names and readers of values change while graphs are rewritten.
    pairs = [
        {value: _pair(scheme, _range(placement.root(value), ranges)) for value in placement.values}
        for placement in placements
    ]
    for placement, found in zip(placements, pairs, strict=True):
        _Rewriter(placement, scheme, found).run()
    return placements


def _range(value: ir.Value, ranges: Ranges) -> tuple[float, float]:
    producer = value.producer()
    if producer is not None and producer.op_type == "Sigmoid":
        return SIGMOID_RANGE
    low, high = ranges(value)
    return (max(low, SILU_FLOOR), high) if silu_of(value) is not None else (low, high)


def _pair(scheme: Scheme, limits: tuple[float, float]) -> _Pair:
    low, high = limits
    if scheme.symmetric:
        scale, zero = max(-low, high) / 127, np.asarray(0, np.int8)
    else:
        scale = (high - low) / 255
        zero = np.asarray(np.clip(round(-low / scale), 0, 255) if scale else 0, np.uint8)
    return _Pair(_scales(scheme, np.asarray(scale or 1.0)), zero)


def _scales(scheme: Scheme, scales: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scales as the runtime holds them, so that weights are rounded with the very numbers."""
    held = scales.astype(np.float32)
    if scheme.half:
        held = np.maximum(held, SMALLEST_HALF).astype(np.float16).astype(np.float32)
    return np.asarray(np.maximum(held, np.finfo(np.float32).tiny), np.float32)


class _Rewriter:
    """Puts the pairs of one placement into its graph."""

    def __init__(self, placement: Placement, scheme: Scheme, pairs: dict[ir.Value, _Pair]) -> None:
        self.placement, self.scheme, self.pairs = placement, scheme, pairs
        self.graph = placement.graph
        self.eight = {*placement.convolutions, *placement.carriers}

    def run(self) -> None:
        for conv in self.placement.convolutions:
            self._quantise_constants(conv)
        for value in self.placement.values:
            self._round(value)

    def _round(self, value: ir.Value) -> None:
        """Send ``value`` through a pair; who computes in 8 bits reads what comes out of it.

        Everybody does when ``value`` itself was computed in 8 bits: there is no other form then.
        """
        producer = value.producer()
        inside = producer is not None and producer.graph is self.graph
        prefix = value.name or ""
        if not inside and value not in self.graph.inputs:
            prefix = f"{self.graph.name}/{prefix}"
        pair = self.pairs[value]
        scale = self._constant(f"{prefix}/scale", pair.scale)
        zero = self._constant(f"{prefix}/zero", pair.zero)
        uses = [use for use in value.uses() if use.node.graph is self.graph]
        quantised = new_node(
            "QuantizeLinear", [value, scale, zero], f"{prefix}/quantised", zero.type, value.shape
        )
        rounded = new_node(
            "DequantizeLinear",
            [quantised.outputs[0], scale, zero],
            f"{prefix}/dequantised",
            FLOAT,
            value.shape,
        )
        if inside and producer is not None:
            self.graph.insert_after(producer, [quantised, rounded])
        else:
            self.graph.insert_before(self.graph[0], [quantised, rounded])
        everybody = self.scheme.results and _computed(value) in self.eight
        for use in uses:
            if everybody or use.node in self.eight:
                use.node.replace_input_with(use.idx, rounded.outputs[0])
        if everybody and value.is_graph_output():
            for index, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[index] = rounded.outputs[0]

    def _quantise_constants(self, conv: ir.Node) -> None:
        """Weight per output channel; the bias in units of the accumulator, where results are
        rounded (TensorRT adds biases in float)."""
        weight, bias = constant(conv.inputs[1]), None
        if len(conv.inputs) > 2:
            bias = constant(conv.inputs[2])
        assert weight is not None
        assert conv.inputs[0] is not None
        largest = np.abs(weight).reshape(len(weight), -1).max(1).astype(np.float64)
        step = self.pairs[conv.inputs[0]].scale.astype(np.float64)
        scales = largest / 127
        if bias is not None and self.scheme.results:
            # A bias that dwarfs its weights must still fit into 32 bits.
            scales = np.maximum(scales, np.abs(bias) / (step * 2.0**30))
        scale = _scales(self.scheme, np.where(scales > 0, scales, 1.0))
        levels = np.rint(weight / scale.reshape(-1, 1, 1, 1).astype(np.float64))
        self._replace(conv, 1, "weight", np.clip(levels, -127, 127).astype(np.int8), scale)
        if bias is not None and self.scheme.results:
            unit = (scale * np.float32(step)).astype(np.float32)
            levels = np.rint(bias.astype(np.float64) / unit)
            self._replace(conv, 2, "bias", levels.astype(np.int32), unit)

    def _replace(
        self, conv: ir.Node, index: int, what: str, array: np.ndarray, scale: np.ndarray
    ) -> None:
        """A constant of ``conv`` as integers behind a DequantizeLinear."""
        old = conv.inputs[index]
        assert old is not None
        name = f"{conv.name}.{what}"
        inputs = [
            self._constant(f"{name}/quantised", array),
            self._constant(f"{name}/scale", scale),
            self._constant(f"{name}/zero", np.zeros(scale.shape, array.dtype)),
        ]
        output, shape = f"{name}/dequantised", list(array.shape)
        node = new_node("DequantizeLinear", inputs, output, FLOAT, shape, axis=0)
        self.graph.insert_before(conv, node)
        conv.replace_input_with(index, node.outputs[0])
        if not list(old.uses()):
            self.graph.initializers.pop(old.name or "", None)

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        value = new_constant(name, array)
        self.graph.register_initializer(value)
        return value


def _computed(value: ir.Value) -> ir.Node | None:
    """The node that computes ``value``, before a Relu that runtimes fuse with it."""
    node = value.producer()
    if node is not None and node.op_type == "Relu" and node.inputs[0] is not None:
        return node.inputs[0].producer()
    return node
