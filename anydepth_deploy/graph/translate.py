"""A recorded module as a graph of ONNX: every operator by its own translation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from torch import Tensor

import anydepth_deploy.graph.aten.arithmetic
import anydepth_deploy.graph.aten.layers
import anydepth_deploy.graph.aten.reductions
import anydepth_deploy.graph.aten.shapes  # noqa: F401
from anydepth_deploy.graph.aten.builder import Builder, Computed, Operand, Unsupported, onnx_type
from anydepth_deploy.graph.aten.table import TRANSLATIONS
from anydepth_deploy.graph.passes.fold import drop_unused
from anydepth_deploy.graph.recording import Call, Recording, mapped

__all__ = ["translate"]

signature = functools.cache(inspect.signature)


def translate(found: Recording, names: Mapping[int, str]) -> ir.Graph:
    """The graph of a recorded module; ``names``: of weights, by the ``id`` of their tensor.

    Raises :class:`Unsupported` for operators without a translation.
    """
    builder = Builder(names)
    values: dict[Computed, Operand] = {}
    for index, item in enumerate(found.inputs):
        values[item] = ir.val(f"input_{index}", onnx_type(item.dtype), list(item.shape))
    inputs = [builder.value(values[item]) for item in found.inputs]
    for call in found.calls:
        values.update(zip(call.results, _call(builder, call, values), strict=True))
    outputs: list[ir.Value] = []
    for given in found.outputs:
        operand = values[given] if isinstance(given, Computed) else given
        value = builder.value(operand)
        if value in inputs or value in outputs or isinstance(operand, Tensor):
            value = builder.copy(value)  # an output is a value of its own
        outputs.append(value)
    graph = ir.Graph(
        inputs, outputs, nodes=builder.nodes, initializers=list(builder.constants.values())
    )
    drop_unused(graph)
    return graph


def _call(builder: Builder, call: Call, values: Mapping[Computed, Operand]) -> tuple[Operand, ...]:
    translation = TRANSLATIONS.get(call.target)
    if translation is None:
        raise Unsupported(f"the operator {call.target}")

    def operand(item: Any) -> Any:
        return values[item] if isinstance(item, Computed) else item

    try:
        given = signature(translation).bind(
            builder, *mapped(call.args, operand), **mapped(call.kwargs, operand)
        )
    except TypeError as error:
        raise Unsupported(f"the operator {call.target}: {error}") from None
    builder.begin(translation.__name__.strip("_"), call.results[0])
    made = translation(*given.args, **given.kwargs)
    several = made if isinstance(made, tuple) else (made,)
    # Results that nobody asks for have no translation: the statistics of a norm.
    return several + several[:1] * (len(call.results) - len(several))
