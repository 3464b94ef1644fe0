"""Half precision: the heavy operators of a graph in FP16, what would suffer from it in FP32.

The pass works on the main graph and on all branches of its Ifs. Inputs and outputs keep their
types; precision is part of the graph, so that every runtime computes the same. What stays in FP32
is decided in :mod:`anydepth_deploy.graph.passes.sensitive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.fold import constant
from anydepth_deploy.graph.passes.magnitudes import LARGEST
from anydepth_deploy.graph.passes.sensitive import (
    FIXED_INPUTS,
    Choice,
    Unit,
    branches,
    choose_full,
    operators,
    walk,
)
from anydepth_deploy.graph.passes.values import new_constant

__all__ = ["HalfReport", "to_half"]

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16

Casts = dict[tuple[ir.Value, ir.DataType], ir.Value]
"""From a value and a type to the value cast to it."""

QUANTISED_OPSET = 19
"""The first in which Q and DQ nodes take FP16 scales, and the IR version that came with it."""
QUANTISED_IR_VERSION = 9

INT64_OUTPUTS = operators("ArgMax ArgMin NonMaxSuppression NonZero Shape Size")
BOOL_OUTPUTS = operators("And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor")


@dataclass(frozen=True)
class HalfReport:
    """What the pass left in FP32.

    ``kept``: names of the nodes that compute with float32, in the order of the graph, without
    casts, Ifs and pass-throughs. ``beyond``: those of them that would not have to, did FP16 hold
    their constants (finite ones up to 65504, factors that do not vanish) and what comes of these.
    """

    kept: tuple[str, ...]
    beyond: tuple[str, ...]


def to_half(model: ir.Model) -> HalfReport:
    """Turn ``model``, an assembled float32 graph, into FP16 in place.

    Casts stand in the graph that needs them. No constant loses more than rounding to FP16 takes: a
    node for which one would stays in FP32. Raises :class:`ExportError` for control flow other than
    If.
    """
    nodes = list(walk(model.graph))
    for node in nodes:
        _fill_types(node)
        if node.op_type == "BatchNormalization":
            _normalise_batch_norm(node)
    choice = choose_full(model)
    caster = _Caster(model, choice)
    caster.convert_constants()
    caster.convert(model.graph)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes):
        model.graph.opset_imports[""] = max(model.graph.opset_imports[""], QUANTISED_OPSET)
        model.ir_version = max(model.ir_version or 0, QUANTISED_IR_VERSION)
    return HalfReport(_kept(nodes, choice.full), _kept(nodes, choice.beyond))


@dataclass
class _Caster:
    """Changes types and places casts, one for each value, type and graph."""

    model: ir.Model
    choice: Choice
    copies: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """From a constant that both precisions read to its FP16 copy."""

    def __post_init__(self) -> None:
        self.names = {
            value.name
            for node in walk(self.model.graph)
            for value in (*node.outputs, *node.inputs)
            if value is not None
        }
        self.node_names = {node.name for node in walk(self.model.graph)}

    def convert_constants(self) -> None:
        """Give each constant the type its readers compute in; both have one of each."""
        for graph in (self.model.graph, *self.model.graph.subgraphs()):
            for value in list(graph.initializers.values()):
                if value.dtype != FLOAT:
                    continue
                wanted = {self._input_type(use.node, use.idx) for use in value.uses()}
                if FLOAT16 not in wanted or value.const_value is None:
                    continue
                name = value.name or ""
                array = _half(value.const_value.numpy())
                if wanted == {FLOAT16}:
                    value.const_value = ir.Tensor(array, name=name)
                    value.type = ir.TensorType(FLOAT16)
                else:
                    name = self._fresh(f"{name}/fp16", self.names)
                    copy = new_constant(name, array)
                    graph.register_initializer(copy)
                    self.copies[value] = copy

    def convert(self, graph: ir.Graph, outer: Casts | None = None) -> Casts:
        """Types and casts of ``graph`` and its branches; ``outer``: casts it can see outside.

        Returns the casts that can be seen at its end.
        """
        casts = dict(outer or {})
        for node in list(graph):
            if node.op_type == "If":
                self._join(
                    node, [(branch, self.convert(branch, casts)) for branch in branches(node)]
                )
                continue
            for index, value in enumerate(node.inputs):
                if value is None or value.dtype not in (FLOAT, FLOAT16):
                    continue
                wanted = self._input_type(node, index)
                if value.dtype != wanted:
                    node.replace_input_with(index, self._as(value, wanted, graph, node, casts))
            if node in self.choice.full:
                continue
            for value in node.outputs:
                if value.dtype == FLOAT:  # a new type: values may share one object
                    value.type = ir.TensorType(FLOAT16)
                    if value in self.choice.pinned:
                        self._pin(value, graph, node, casts)
        return casts

    def _join(self, node: ir.Node, ends: Sequence[tuple[ir.Graph, Casts]]) -> None:
        """One type for each output of an If, out of either branch."""
        for index, output in enumerate(node.outputs):
            if output.dtype != FLOAT:
                continue
            kind = FLOAT if output in self.choice.full else FLOAT16
            output.type = ir.TensorType(kind)
            for branch, casts in ends:
                value = branch.outputs[index]
                if value.dtype != kind:
                    branch.outputs[index] = self._as(value, kind, branch, None, casts)

    def _as(
        self,
        value: ir.Value,
        wanted: ir.DataType,
        graph: ir.Graph,
        before: ir.Node | None,
        casts: Casts,
    ) -> ir.Value:
        """``value`` as ``wanted``: its copy, the cast that exists, or one ``before`` its reader
        (None: at the end)."""
        if value in self.copies:
            return self.copies[value]
        if (value, wanted) not in casts:
            # In a branch, a value from outside may be cast once more than in another branch.
            name = value.name if value.graph is graph else f"{graph.name}/{value.name}"
            suffix = "fp16" if wanted == FLOAT16 else "fp32"
            cast = self._cast(value, wanted, self._fresh(f"{name}/{suffix}", self.names))
            if before is None:
                graph.append(cast)
            else:
                graph.insert_before(before, cast)
            casts[value, wanted] = cast.outputs[0]
        return casts[value, wanted]

    def _pin(self, value: ir.Value, graph: ir.Graph, node: ir.Node, casts: Casts) -> None:
        """Let a float32 copy have the name of ``value``, which others know it by."""
        name = value.name or ""
        value.name = self._fresh(f"{name}/fp16", self.names)
        cast = self._cast(value, FLOAT, name)
        graph.insert_after(node, cast)
        casts[value, FLOAT] = cast.outputs[0]
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = cast.outputs[0]

    def _cast(self, value: ir.Value, wanted: ir.DataType, name: str) -> ir.Node:
        node = ir.Node(
            "",
            "Cast",
            [value],
            [ir.AttrInt64("to", int(wanted))],
            name=self._fresh(f"{name}/Cast", self.node_names),
        )
        output = node.outputs[0]
        output.name, output.type, output.shape = name, ir.TensorType(wanted), value.shape
        return node

    def _input_type(self, node: ir.Node, index: int) -> ir.DataType:
        full = node in self.choice.full or index in FIXED_INPUTS.get(node.op_type, ())
        return FLOAT if full else FLOAT16

    @staticmethod
    def _fresh(name: str, taken: set[str | None]) -> str:
        count, wanted = 1, name
        while wanted in taken:
            count += 1
            wanted = f"{name}.{count}"
        taken.add(wanted)
        return wanted


def _half(array: np.ndarray) -> np.ndarray:
    """Rounded to FP16; infinities stay what they are, finite values stay finite (only bounds that
    bind nothing are beyond it: what reads others is FP32)."""
    clipped = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    return clipped.astype(np.float16)


def _fill_types(node: ir.Node) -> None:
    """Give outputs that the exporter left without a type the one that follows from the inputs."""
    for index, value in enumerate(node.outputs):
        if value.dtype is not None:
            continue
        kind: ir.DataType | None
        if node.op_type in INT64_OUTPUTS or (node.op_type == "TopK" and index == 1):
            kind = ir.DataType.INT64
        elif node.op_type in BOOL_OUTPUTS:
            kind = ir.DataType.BOOL
        elif node.op_type == "Cast":
            kind = ir.DataType(node.attributes["to"].as_int())
        elif node.op_type == "If":
            kind = next(branches(node)).outputs[index].dtype
        elif node.op_type == "ConstantOfShape":
            fill = node.attributes.get("value")
            kind = FLOAT if fill is None else fill.as_tensor().dtype
        elif node.op_type == "QuantizeLinear":
            zero = node.inputs[2] if len(node.inputs) > 2 else None
            kind = ir.DataType.UINT8 if zero is None else zero.dtype
        else:  # the type of the data; scales tell that of what is dequantised
            source = node.inputs[1 if node.op_type in ("Where", "DequantizeLinear") else 0]
            kind = None if source is None else source.dtype
        if kind is None:
            raise ExportError(
                f"the type of '{value.name}' ({node.op_type}) is not known: half precision needs "
                "graphs whose values have types"
            )
        value.type = ir.TensorType(kind)


def _normalise_batch_norm(node: ir.Node) -> None:
    """Write an unfolded norm as y = x * scale + bias, with mean 0, variance 1 and epsilon 0.

    Its constants are what a runtime reads, and folds into the convolution, in FP16. A variance may
    be anything: 1e6 is beyond FP16 and 1e-9 becomes 0 in it, though gamma / sqrt(var + eps) is an
    ordinary number (Ioffe and Szegedy 2015, section 3.1). With epsilon 0 the identity is exact.

    The convolution's own output stays as large as it was, and is FP16 where a runtime does not
    fold. Scaling the weight by a power of two would change that exactly, but the weight belongs to
    all modes that share it. Nothing is done: the folded layout has no such values.
    """
    statistics = [constant(value) for value in node.inputs[1:5]]
    if node.graph is None or any(array is None for array in statistics):
        return
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in statistics)
    epsilon = node.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    fresh = {
        "scale": scale,
        "bias": beta - mean * scale,
        "mean": np.zeros_like(mean),
        "variance": np.ones_like(variance),
    }
    assert isinstance(node.graph, ir.Graph)
    for index, (suffix, array) in enumerate(fresh.items(), start=1):
        old, name = node.inputs[index], f"{node.name}.{suffix}"
        value = new_constant(name, array.astype(np.float32))
        node.graph.register_initializer(value)
        node.replace_input_with(index, value)
        if old is not None and not list(old.uses()) and isinstance(old.graph, ir.Graph):
            del old.graph.initializers[old.name or ""]
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)


def _kept(nodes: list[ir.Node], full: frozenset[Unit]) -> tuple[str, ...]:
    kept = (n for n in nodes if n in full and n.op_type not in ("Cast", "Identity"))
    return tuple(node.name or "" for node in kept)
