"""Which function translates which operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import onnx_ir as ir

from anydepth_deploy.graph.aten.builder import Operand, sizes

__all__ = ["TRANSLATIONS", "Translation", "axis_of", "dims_of", "translates"]

Translation = Callable[..., "Operand | tuple[Operand, ...]"]
"""Takes the builder and what the operator takes, tensors as operands; gives its results."""

TRANSLATIONS: dict[Any, Translation] = {}
"""By overload (``torch.ops.aten.relu.default``)."""


Function = TypeVar("Function", bound=Translation)


def translates(*overloads: Any) -> Callable[[Function], Function]:
    """Enters the decorated function for these operators."""

    def enter(function: Function) -> Function:
        TRANSLATIONS.update((overload, function) for overload in overloads)
        return function

    return enter


def dims_of(operand: Operand) -> list[int | str | None]:
    """The shape of an operand."""
    return sizes(operand) if isinstance(operand, ir.Value) else list(operand.shape)


def axis_of(operand: Operand, dim: int, *, more: int = 0) -> int:
    """``dim`` counted from the front; ``more``: axes that the result has beyond the operand's."""
    return dim % (len(dims_of(operand)) + more)
