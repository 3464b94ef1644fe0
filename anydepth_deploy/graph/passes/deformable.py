"""Deformable attention without GridSample: the same samples, fetched with gathers.

Some TensorRT versions miscompile GridSample in deformable attention, in FP32, too
(NVIDIA/TensorRT#4813). This pass works on finished graphs of any precision, so a bundle exported
with GridSample can be built either way.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.passes.values import new_constant, new_node

__all__ = ["gather_samples"]

FLOAT, INT64 = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)

EXACT_INTEGERS = 2**24
"""Integers up to here are float32 numbers."""

KNOWN = {
    "mode": ("bilinear", ("bilinear", "linear")),
    "padding_mode": ("zeros", ("zeros",)),
    "align_corners": (0, (0,)),
}
"""Attribute -> what it is when it is left out, and the values that can be replaced."""


def gather_samples(model: ir.Model) -> int:
    """Replace every GridSample of ``model`` by gathers, in place; return how many there were.

    Samples are bilinear between pixel centres (``align_corners`` 0) with zeros outside the map,
    computed in float32 whatever the map's type. Coordinates may be anything but NaN. Works from
    opset 13 on. Raises :class:`ExportError`, before anything is changed, for a GridSample of
    another kind and for maps whose size the graph does not tell.
    """
    found = [
        (graph, node, _map_size(node))
        for graph in graphs_of(model.graph)
        for node in graph
        if node.op_type == "GridSample"
    ]
    for graph, node, size in found:
        _Gathers(graph, node, size).replace()
    return len(found)


def _map_size(node: ir.Node) -> tuple[int, int]:
    """Height and width of the map that ``node`` samples."""
    name = f"node '{node.name}' (GridSample)"
    for key, (default, allowed) in KNOWN.items():
        attribute = node.attributes.get(key)
        value = default if attribute is None else attribute.value
        if value not in allowed:
            raise ExportError(
                f"{name} has {key} {value!r}: only bilinear samples with zeros outside and "
                "align_corners 0 can be replaced by gathers, keep GridSample"
            )
    maps, grid = node.inputs
    assert maps is not None
    assert grid is not None
    if maps.dtype not in FLOATS or grid.dtype not in FLOATS:
        raise ExportError(
            f"{name} samples {maps.dtype} at {grid.dtype}: expected FLOAT or FLOAT16, export the "
            "graph again"
        )
    shape = maps.shape
    if shape is None or len(shape) != 4:
        known = "unknown" if shape is None else f"{len(shape)}-D"
        raise ExportError(
            f"{name} samples a map of shape {shape} ({known}): only [N, C, H, W] can be replaced "
            "by gathers, keep GridSample"
        )
    height, width = shape[2], shape[3]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ExportError(
            f"{name} samples a map of shape {shape}: gathers need a height and a width that are "
            "fixed, export the graph for one input size"
        )
    if height * width > EXACT_INTEGERS:
        raise ExportError(
            f"{name} samples a map of {height} x {width}: positions beyond {EXACT_INTEGERS} are "
            "not exact in float32, keep GridSample"
        )
    return height, width


@dataclass
class _Gathers:
    """Replaces one GridSample of maps [N, C, H, W] at a grid [N, h, w, 2] (x, y in -1..1).

    On each axis, a sample lies between pixels ``first`` and ``first + step``, where ``first`` is
    floor(position) moved so that both pixels are in the map. A pixel's weight is the tent
    ``max(0, 1 - |position - pixel|)``, which is bilinear interpolation, and 0 for both pixels where
    they had to be moved too far: no mask is needed for the zeros outside. A map one pixel wide has
    no second pixel: ``step`` is 0 and so is the height of that tent.
    """

    graph: ir.Graph
    node: ir.Node
    size: tuple[int, int]

    def replace(self) -> None:
        maps, grid = self.node.inputs
        assert maps is not None
        assert grid is not None
        assert maps.shape is not None
        places: list[int | ir.SymbolicDim] | None = None
        if grid.shape is not None:
            places = list(grid.shape[:3])
        channels = maps.shape[1]

        def shape(*last: int | ir.SymbolicDim) -> ir.Shape | None:
            return None if places is None else ir.Shape([*places, *last])

        height, width = self.size
        sizes = np.asarray([width, height], np.float32)
        steps = np.minimum(sizes - 1, 1)
        corners = np.asarray(list(itertools.product((0, 1), repeat=2)), np.float32)
        strides = np.asarray([1, width], np.float32)

        # [N, h, w, 1, 2]: one place, before its four corners.
        grid = self._float(grid, "coordinates", shape(2))
        grid = self._add(
            "Unsqueeze", "grid", shape(1, 2), grid, self._constant("axis", np.asarray([3]))
        )
        scaled = self._add("Mul", "scaled", shape(1, 2), grid, self._constant("half", sizes / 2))
        position = self._add(
            "Add", "position", shape(1, 2), scaled, self._constant("centre", (sizes - 1) / 2)
        )
        # Within the map before anything becomes an integer: positions may be as far as infinity.
        first = self._add("Floor", "floor", shape(1, 2), position)
        zero = self._constant("zero", np.zeros(2, np.float32))
        first = self._add("Max", "from_zero", shape(1, 2), first, zero)
        last = self._constant("last", np.maximum(sizes - 2, 0))
        first = self._add("Min", "first", shape(1, 2), first, last)

        # [N, h, w, 4, 1]: the weight of each corner, the product of a tent on either axis.
        offset = self._add("Sub", "offset", shape(1, 2), position, first)
        apart = self._add(
            "Sub", "apart", shape(4, 2), offset, self._constant("corners", corners * steps)
        )
        distance = self._add("Abs", "distance", shape(4, 2), apart)
        peak = self._constant("peak", np.where(corners > 0, steps, 1).astype(np.float32))
        below = self._add("Sub", "below", shape(4, 2), peak, distance)
        tents = self._add("Relu", "tents", shape(4, 2), below)
        across, down = self._split(tents, shape(4, 1))
        weights = self._add("Mul", "weights", shape(4, 1), across, down)

        # [N, h, w, 4, 1]: the place of each corner in the flattened map.
        axis = self._constant("last_axis", np.asarray([-1]))
        parts = self._add("Mul", "parts", shape(1, 2), first, self._constant("strides", strides))
        start = self._add("ReduceSum", "start", shape(1, 1), parts, axis)
        moves = (corners * steps * strides).sum(1, keepdims=True)
        index = self._add("Add", "index", shape(4, 1), start, self._constant("moves", moves))
        index = self._cast(index, "index/int64", ir.DataType.INT64)

        # [N, H * W, C]: a corner is a row, whose channels lie side by side.
        batch = maps.shape[0]
        flat = self._add(
            "Reshape",
            "flat",
            ir.Shape([batch, channels, height * width]),
            maps,
            self._constant("flat_shape", np.asarray([0, 0, height * width])),
            kind=maps.type,
        )
        rows = self._transpose(flat, "rows", [0, 2, 1], [batch, height * width, channels])
        pixels = self._add(
            "GatherND", "pixels", shape(4, channels), rows, index, kind=maps.type, batch_dims=1
        )
        pixels = self._float(pixels, "pixels/fp32", shape(4, channels))
        weighted = self._add("Mul", "weighted", shape(4, channels), pixels, weights)
        corner_axis = self._constant("corner_axis", np.asarray([3]))
        mixed = self._add("ReduceSum", "mixed", shape(channels), weighted, corner_axis, keepdims=0)
        if maps.dtype != ir.DataType.FLOAT:
            assert maps.dtype is not None
            mixed = self._cast(mixed, "mixed/data", maps.dtype)
        self._finish(mixed)

    def _finish(self, mixed: ir.Value) -> None:
        """Let the channels come first again, under the name the sample had."""
        old = self.node.outputs[0]
        name, old.name = old.name, None
        new = self._transpose(mixed, "sample", [0, 3, 1, 2], None)
        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)
        new.name = name

    def _float(self, value: ir.Value, name: str, shape: ir.Shape | None) -> ir.Value:
        if value.dtype == ir.DataType.FLOAT:
            return value
        found = self._cast(value, name, ir.DataType.FLOAT)
        found.shape = shape
        return found

    def _cast(self, value: ir.Value, name: str, kind: ir.DataType) -> ir.Value:
        return self._add("Cast", name, value.shape, value, kind=ir.TensorType(kind), to=int(kind))

    def _transpose(
        self,
        value: ir.Value,
        name: str,
        order: list[int],
        shape: list[int | ir.SymbolicDim] | None,
    ) -> ir.Value:
        found = self._add(
            "Transpose", name, None if shape is None else ir.Shape(shape), value, kind=value.type
        )
        producer = found.producer()
        assert producer is not None
        producer.attributes["perm"] = ir.AttrInt64s("perm", order)
        return found

    def _split(self, tents: ir.Value, shape: ir.Shape | None) -> tuple[ir.Value, ir.Value]:
        """The last axis of ``tents``, two numbers, as two values."""
        sizes = self._constant("split", np.asarray([1, 1]))
        node = ir.Node(
            "",
            "Split",
            [tents, sizes],
            [ir.AttrInt64("axis", -1)],
            num_outputs=2,
            name=self._name("tents/Split"),
        )
        for value, name in zip(node.outputs, ("across", "down"), strict=True):
            value.name, value.type, value.shape = self._name(name), FLOAT, shape
        self.graph.insert_before(self.node, node)
        return node.outputs[0], node.outputs[1]

    def _add(
        self,
        op_type: str,
        name: str,
        shape: ir.Shape | None,
        *inputs: ir.Value,
        kind: ir.TypeProtocol | None = FLOAT,
        **attributes: int,
    ) -> ir.Value:
        node = new_node(op_type, inputs, self._name(name), kind, shape, **attributes)
        self.graph.insert_before(self.node, node)
        return node.outputs[0]

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        value = new_constant(self._name(name), np.ascontiguousarray(array))
        self.graph.register_initializer(value)
        return value

    def _name(self, name: str) -> str:
        # Names of nodes are unique in all graphs, so what starts with one is, too.
        return f"{self.node.name}/{name}"
