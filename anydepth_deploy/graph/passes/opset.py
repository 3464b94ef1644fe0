"""From one ONNX opset to another: what our graphs are written in, and what a builder reads.

Graphs are exported in opset 18, quantised ones for TensorRT in 19 (FP16 scales); TensorRT 8.6
reads up to 17. Between 17 and 19 these operators of ours changed, in version and in form:

==============================================  ==================================================
AveragePool, 19                                 new: dilations; other numbers with ceil_mode
Cast, Equal, Identity, If, Reshape, Shape, 19   new types
DequantizeLinear, QuantizeLinear, 19            new types, FP16 scales among them; saturate
ReduceMax, 18                                   axes were an attribute, and are an input since
Resize, 18 and 19                               new: antialias, axes, keep_aspect_ratio_policy;
                                                half_pixel_symmetric
ScatterND, 18                                   new: reductions max and min
Split, 18                                       new: num_outputs; sizes were not needed before
==============================================  ==================================================

All others (convolutions, matrix products, LayerNormalization, GridSample, ...) are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx import AttributeProto, defs, helper

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.fold import constant
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.passes.sensitive import operators
from anydepth_deploy.graph.passes.values import new_constant

__all__ = ["set_opset"]

IR_VERSIONS = {17: 8, 18: 8, 19: 9}
"""The opsets known here, and the IR version that each came with."""

REDUCTIONS = operators(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSumSquare"
)
"""Their axes became an input with opset 18 (those of ReduceSum with 13)."""

SAME_FORM = operators(
    "AveragePool Cast Constant DequantizeLinear Equal Identity If Pad QuantizeLinear Reshape "
    "Resize ScatterElements ScatterND Shape Size"
)
"""They changed, but what both versions can say, they say alike."""

NEW_WORDS = {
    ("Pad", "mode"): {"wrap": 19},
    ("Resize", "coordinate_transformation_mode"): {"half_pixel_symmetric": 19},
    ("ScatterElements", "reduction"): {"max": 18, "min": 18},
    ("ScatterND", "reduction"): {"max": 18, "min": 18},
}
"""Values of attributes, and the opset they came with."""

NEW_NUMBERS = {("AveragePool", "ceil_mode"): 19}
"""Attributes whose values other than 0 mean something else since this opset."""


def set_opset(model: ir.Model, version: int) -> None:
    """Rewrite ``model``, in opset 17, 18 or 19, as one of opset ``version`` (the same three).

    In place, and with the IR version that came with the opset. The result computes the same.
    Raises :class:`ExportError`, before anything is changed, naming the node that cannot be
    expressed in ``version``.
    """
    present = model.graph.opset_imports.get("")
    if present not in IR_VERSIONS or version not in IR_VERSIONS:
        raise ExportError(
            f"the graph {model.graph.name} is in opset {present} and cannot be brought to "
            f"{version}: expected {', '.join(map(str, IR_VERSIONS))} for both"
        )
    changes: list[Callable[[], None]] = []
    for graph in graphs_of(model.graph):
        for node in graph:
            if node.domain == "":
                changes += _Step(graph, node, present, version).changes()
    for change in changes:
        change()
    for graph in graphs_of(model.graph):
        if graph is model.graph or "" in graph.opset_imports:
            graph.opset_imports[""] = version
    model.ir_version = IR_VERSIONS[version]


@dataclass(frozen=True)
class _Step:
    """What one node needs on the way from opset ``present`` to opset ``wanted``."""

    graph: ir.Graph
    node: ir.Node
    present: int
    wanted: int

    def changes(self) -> list[Callable[[], None]]:
        kind = self.node.op_type
        try:
            before = defs.get_schema(kind, self.present)
        except defs.SchemaError:
            raise self._error(f"is not known in opset {self.present}") from None
        try:
            after = defs.get_schema(kind, self.wanted)
        except defs.SchemaError:
            raise self._error("does not exist there") from None
        if before.since_version == after.since_version:
            return []
        self._check_types(after)
        crosses_18 = (self.present < 18) != (self.wanted < 18)
        if kind in REDUCTIONS:
            return self._reduction() if crosses_18 else []
        if kind == "Split":
            return self._split() if crosses_18 else []
        if kind not in SAME_FORM:
            raise self._error("is another operator there, and no rule says how they differ")
        if len(self.node.inputs) > after.max_input:
            raise self._error(f"takes up to {after.max_input} inputs there")
        self._check_words()
        return self._attributes(before, after)

    def _error(self, reason: str) -> ExportError:
        return ExportError(
            f"node '{self.node.name}' ({self.node.op_type}) cannot be expressed in opset "
            f"{self.wanted}: it {reason}. Build with a version that reads opset {self.present}"
        )

    def _check_types(self, after: defs.OpSchema) -> None:
        for values, formal in (
            (self.node.inputs, after.inputs),
            (self.node.outputs, after.outputs),
        ):
            for index, value in enumerate(values):
                if value is None or value.dtype is None or not formal:
                    continue
                parameter = formal[min(index, len(formal) - 1)]
                text = f"tensor({_type_name(value.dtype)})"
                if text not in parameter.types:
                    raise self._error(f"takes no {text} as {parameter.name} there")

    def _check_words(self) -> None:
        older = min(self.present, self.wanted)
        newer = max(self.present, self.wanted)
        for name, attribute in self.node.attributes.items():
            key = (self.node.op_type, name)
            since = NEW_WORDS.get(key, {}).get(str(attribute.value))
            if since is not None and self.wanted < since:
                raise self._error(f"knows no {name} '{attribute.value}' there")
            if attribute.value and older < NEW_NUMBERS.get(key, older) <= newer:
                raise self._error(f"means something else with {name} {attribute.value} there")

    def _attributes(self, before: defs.OpSchema, after: defs.OpSchema) -> list[Callable[[], None]]:
        """Leave out attributes that are not known there and say nothing."""
        found: list[Callable[[], None]] = []
        for name, attribute in self.node.attributes.items():
            if name in after.attributes:
                continue
            default = before.attributes[name].default_value
            if not _says_nothing(self.node.op_type, attribute, default):
                raise self._error(f"has no {name} there, which is {attribute.value} here")
            found.append(functools.partial(self._drop_attribute, name))
        return found

    def _drop_attribute(self, name: str) -> None:
        del self.node.attributes[name]

    def _reduction(self) -> list[Callable[[], None]]:
        """Axes between input and attribute."""
        node = self.node
        if self.wanted >= 18:
            axes = node.attributes.get("axes")
            return [] if axes is None else [lambda: self._axes_as_input(list(axes.as_ints()))]
        given = node.inputs[1] if len(node.inputs) > 1 else None
        numbers = None if given is None else constant(given)
        if given is not None and numbers is None:
            raise self._error("needs axes that are constant there")
        nothing = node.attributes.get("noop_with_empty_axes")
        if nothing is not None and nothing.as_int() and (numbers is None or not numbers.size):
            raise self._error("cannot leave out its axes and do nothing there")
        listed = [] if numbers is None else [int(axis) for axis in numbers]
        return [lambda: self._axes_as_attribute(given, listed)]

    def _axes_as_input(self, axes: list[int]) -> None:
        del self.node.attributes["axes"]
        value = self._constant("axes", axes)
        self.node.resize_inputs(2)
        self.node.replace_input_with(1, value)

    def _axes_as_attribute(self, given: ir.Value | None, axes: list[int]) -> None:
        node = self.node
        node.resize_inputs(1)
        node.attributes.pop("noop_with_empty_axes", None)
        if axes:  # without any: all
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)
        if given is not None and not list(given.uses()) and isinstance(given.graph, ir.Graph):
            del given.graph.initializers[given.name or ""]

    def _split(self) -> list[Callable[[], None]]:
        """``num_outputs`` is written as sizes, which both versions know."""
        node = self.node
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            return []
        if self.wanted >= 18:
            return [lambda: self._count_outputs()]
        count = len(node.outputs)
        axis = node.attributes.get("axis")
        data = node.inputs[0]
        shape = None if data is None else data.shape
        length = None if shape is None else shape[0 if axis is None else axis.as_int()]
        if not isinstance(length, int):
            raise self._error(f"needs a fixed length to be split into {count} parts there")
        size = -(-length // count)  # the last part is smaller where the length does not divide
        sizes = [size] * (count - 1) + [length - size * (count - 1)]
        if sizes[-1] < 0:
            raise self._error(f"cannot split {length} into {count} parts")
        return [lambda: self._sizes_as_input(sizes)]

    def _count_outputs(self) -> None:
        count = len(self.node.outputs)
        self.node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", count)

    def _sizes_as_input(self, sizes: list[int]) -> None:
        self.node.attributes.pop("num_outputs", None)
        value = self._constant("split", sizes)
        self.node.resize_inputs(2)
        self.node.replace_input_with(1, value)

    def _constant(self, suffix: str, numbers: list[int]) -> ir.Value:
        # Names of nodes are unique in all graphs, so what starts with one is, too.
        value = new_constant(f"{self.node.name}/{suffix}", np.asarray(numbers, np.int64))
        self.graph.register_initializer(value)
        return value


def _type_name(kind: ir.DataType) -> str:
    """As operator schemas write it: float, float16, int64."""
    return {"FLOAT": "float", "DOUBLE": "double"}.get(kind.name, kind.name.lower())


def _says_nothing(op_type: str, attribute: ir.Attr, default: AttributeProto) -> bool:
    """Whether an attribute is what it would be if it were left out."""
    if op_type == "AveragePool" and attribute.name == "dilations":  # no default is written there
        return all(step == 1 for step in attribute.as_ints())
    if not default.name:
        return False
    given, usual = attribute.value, helper.get_attribute_value(default)
    return bool(given == (usual.decode() if isinstance(usual, bytes) else usual))
