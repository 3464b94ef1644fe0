"""Arithmetic by element, comparisons, and what chooses between elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from anydepth_deploy.graph.aten.builder import Builder, Operand, Unsupported, torch_type
from anydepth_deploy.graph.aten.table import TRANSLATIONS, Translation, translates

__all__: list[str] = []

aten: Any = torch.ops.aten

UNARY = {
    aten.abs.default: "Abs",
    aten.ceil.default: "Ceil",
    aten.cos.default: "Cos",
    aten.erf.default: "Erf",
    aten.exp.default: "Exp",
    aten.floor.default: "Floor",
    aten.log.default: "Log",
    aten.logical_not.default: "Not",
    aten.neg.default: "Neg",
    aten.reciprocal.default: "Reciprocal",
    aten.relu.default: "Relu",
    aten.round.default: "Round",
    aten.sigmoid.default: "Sigmoid",
    aten.sin.default: "Sin",
    aten.softplus.default: "Softplus",
    aten.sqrt.default: "Sqrt",
    aten.tanh.default: "Tanh",
}
"""One input, one output of the same type."""

BINARY = {
    aten.add.Scalar: "Add",
    aten.add.Tensor: "Add",
    aten.div.Scalar: "Div",
    aten.div.Tensor: "Div",
    aten.maximum.default: "Max",
    aten.minimum.default: "Min",
    aten.mul.Scalar: "Mul",
    aten.mul.Tensor: "Mul",
    aten.pow.Tensor_Scalar: "Pow",
    aten.pow.Tensor_Tensor: "Pow",
    aten.sub.Scalar: "Sub",
    aten.sub.Tensor: "Sub",
}
"""Two inputs, either of which may be a number; both become of the type of the result."""

COMPARISONS = {
    "Equal": (aten.eq.Scalar, aten.eq.Tensor),
    "Greater": (aten.gt.Scalar, aten.gt.Tensor),
    "GreaterOrEqual": (aten.ge.Scalar, aten.ge.Tensor),
    "Less": (aten.lt.Scalar, aten.lt.Tensor),
    "LessOrEqual": (aten.le.Scalar, aten.le.Tensor),
}

LOGICAL = {
    "And": (aten.logical_and.default, aten.bitwise_and.Tensor),
    "Or": (aten.logical_or.default, aten.bitwise_or.Tensor),
}


def _unary(op_type: str) -> Translation:
    def translate(b: Builder, x: Operand, *extra: Any) -> Operand:
        if extra:
            raise Unsupported(f"{op_type} with {extra}")
        return b.add(op_type, [b.operand(x, b.kind)])

    return _named(translate, op_type)


def _binary(op_type: str) -> Translation:
    def translate(b: Builder, x: Operand, other: Any, alpha: float = 1) -> Operand:
        kind = b.kind
        if alpha != 1:
            raise Unsupported("a sum with a factor")
        if op_type == "Div" and not kind.is_floating_point:
            raise Unsupported("a division of whole numbers")
        return b.add(op_type, [b.operand(x, kind), b.operand(other, kind)])

    return _named(translate, op_type)


def _comparison(op_type: str) -> Translation:
    def translate(b: Builder, x: Operand, other: Any) -> Operand:
        kind = _common(x, other)
        return b.add(op_type, [b.operand(x, kind), b.operand(other, kind)])

    return _named(translate, op_type)


def _logical(op_type: str) -> Translation:
    def translate(b: Builder, x: Operand, other: Operand) -> Operand:
        if b.kind != torch.bool:
            raise Unsupported(f"{op_type} of bits")
        return b.add(op_type, [b.operand(x, torch.bool), b.operand(other, torch.bool)])

    return _named(translate, op_type)


def _named(translate: Translation, op_type: str) -> Translation:
    """What the operator is called in names of tensors."""
    translate.__name__ = op_type.lower()
    return translate


def _enter() -> None:
    TRANSLATIONS.update((overload, _unary(op_type)) for overload, op_type in UNARY.items())
    TRANSLATIONS.update((overload, _binary(op_type)) for overload, op_type in BINARY.items())
    makers: list[tuple[dict[str, tuple[Any, ...]], Callable[[str], Translation]]] = [
        (COMPARISONS, _comparison),
        (LOGICAL, _logical),
    ]
    for table, make in makers:
        for op_type, overloads in table.items():
            TRANSLATIONS.update((overload, make(op_type)) for overload in overloads)


_enter()


@translates(aten.bitwise_not.default)
def _bitwise_not(b: Builder, x: Operand) -> Operand:
    if b.kind != torch.bool:
        raise Unsupported("the opposite of bits")
    return b.add("Not", [x])


@translates(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(b: Builder, x: Operand, other: Any, alpha: float = 1) -> Operand:
    if alpha != 1:
        raise Unsupported("a difference with a factor")
    kind = b.kind
    return b.add("Sub", [b.operand(other, kind), b.operand(x, kind)])


@translates(aten.rsqrt.default)
def _rsqrt(b: Builder, x: Operand) -> Operand:
    return b.add("Reciprocal", [b.add("Sqrt", [b.operand(x, b.kind)], "root")])


@translates(aten.silu.default)
def _silu(b: Builder, x: Operand) -> Operand:
    return b.add("Mul", [x, b.add("Sigmoid", [x], "sigmoid")])


@translates(aten.gelu.default)
def _gelu(b: Builder, x: Operand, *, approximate: str = "none") -> Operand:
    """x / 2 (1 + erf(x / sqrt 2)), in the order that runtimes look for (Hendrycks and Gimpel)."""
    if approximate != "none":
        raise Unsupported(f"GELU approximated by {approximate}")
    kind = b.kind
    scaled = b.add("Div", [x, b.operand(math.sqrt(2.0), kind)], "scaled")
    error = b.add("Erf", [scaled], "erf")
    above = b.add("Add", [error, b.operand(1.0, kind)], "above")
    return b.add("Mul", [x, b.add("Mul", [b.operand(0.5, kind), above], "factor")])


@translates(aten.hardsigmoid.default)
def _hardsigmoid(b: Builder, x: Operand) -> Operand:
    return b.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)


@translates(aten.hardswish.default)
def _hardswish(b: Builder, x: Operand) -> Operand:
    return b.add("HardSwish", [x])


@translates(aten.leaky_relu.default)
def _leaky_relu(b: Builder, x: Operand, slope: float = 0.01) -> Operand:
    return b.add("LeakyRelu", [x], alpha=float(slope))


@translates(aten.elu.default)
def _elu(
    b: Builder, x: Operand, alpha: float = 1.0, scale: float = 1.0, own: float = 1.0
) -> Operand:
    if scale != 1.0 or own != 1.0:
        raise Unsupported("a scaled ELU")
    return b.add("Elu", [x], alpha=float(alpha))


@translates(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)
def _clamp(b: Builder, x: Operand, low: Any = None, high: Any = None) -> Operand:
    kind = b.kind
    bounds = [None if bound is None else b.operand(bound, kind) for bound in (low, high)]
    return b.add("Clip", [b.operand(x, kind), *bounds])


@translates(aten.floor_divide.default, aten.div.Tensor_mode)
def _whole_division(
    b: Builder, x: Operand, other: Any, *, rounding_mode: str | None = "floor"
) -> Operand:
    """ONNX rounds towards zero; what is rounded down is made divisible first."""
    kind = b.kind
    if kind.is_floating_point:
        raise Unsupported(f"a division of {kind} that is rounded ({rounding_mode})")
    whole, by = b.operand(x, kind), b.operand(other, kind)
    if rounding_mode == "floor":
        whole = b.add("Sub", [whole, b.add("Mod", [whole, by], "rest")], "divisible")
    return b.add("Div", [whole, by])


@translates(aten.remainder.Scalar, aten.remainder.Tensor)
def _remainder(b: Builder, x: Operand, other: Any) -> Operand:
    kind = b.kind
    if kind.is_floating_point:
        raise Unsupported(f"a remainder of {kind}")
    return b.add("Mod", [b.operand(x, kind), b.operand(other, kind)])


@translates(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(b: Builder, condition: Operand, x: Any, other: Any) -> Operand:
    kind = b.kind
    return b.add("Where", [condition, b.operand(x, kind), b.operand(other, kind)])


@translates(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(b: Builder, x: Operand, mask: Operand, value: Any) -> Operand:
    return _where(b, mask, value, x)


@translates(aten._to_copy.default)
def _to(b: Builder, x: Operand, *_: Any, **options: Any) -> Operand:
    return b.cast(x, b.kind)


@translates(
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
)
def _same(_: Builder, x: Operand, **options: Any) -> Operand:
    return x


def _common(x: Operand, other: Any) -> torch.dtype:
    """The type in which two are compared."""
    one = torch_type(x)
    if isinstance(other, bool | int | float):
        return torch.result_type(torch.empty(1, dtype=one), other)
    return torch.promote_types(one, torch_type(other))
