"""What operators give, without contents, where torch takes long to say.

Its own answers for these go through its library of decompositions: tenths of a millisecond each,
and its compiler is imported for them. Whatever is not plainly one of the cases here is left to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["RESULTS"]

aten: Any = torch.ops.aten

FLOATS = (
    aten.div.Tensor,
    aten.exp.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.log.default,
    aten.rsqrt.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.sqrt.default,
    aten.tanh.default,
)
"""By element, and of whole numbers something else than of floats."""

NUMBERS = (
    aten.abs.default,
    aten.add.Tensor,
    aten.clamp.default,
    aten.clamp_max.default,
    aten.clamp_min.default,
    aten.div.Tensor_mode,
    aten.floor_divide.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.mul.Tensor,
    aten.neg.default,
    aten.pow.Tensor_Scalar,
    aten.relu.default,
    aten.remainder.Scalar,
    aten.rsub.Scalar,
    aten.sub.Tensor,
)
"""By element, of any numbers: a result of the type that torch gives two such operands."""

COMPARISONS = tuple(
    getattr(getattr(aten, name), overload)
    for name, overload in itertools.product(("eq", "ge", "gt", "le", "lt"), ("Scalar", "Tensor"))
)


def _elementwise(target: Any, *, floats: bool = False, truth: bool = False) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        operands = [item for item in args if item is not None]
        shape = _broadcast([item.shape for item in operands if isinstance(item, Tensor)])
        kind = _common(operands)
        if shape is None or (floats and not kind.is_floating_point):
            return target(*args, **kwargs)
        return torch.empty(shape, dtype=torch.bool if truth else kind, device="meta")

    return run


def _common(operands: Sequence[Any]) -> torch.dtype:
    """The type of a result, by torch's rules for tensors and numbers."""
    first, *others = operands
    found: torch.dtype = first.dtype
    for item in others:
        found = torch.promote_types(found, torch.result_type(first, item))
    return found


def _where(condition: Tensor, x: Tensor, other: Tensor) -> Any:
    shape = _broadcast([item.shape for item in (condition, x, other)])
    if shape is None:
        return aten.where.self(condition, x, other)
    return torch.empty(shape, dtype=torch.result_type(x, other), device="meta")


def _broadcast(shapes: Sequence[torch.Size]) -> list[int] | None:
    """The common shape, by axes from the last; None where there is none."""
    found = []
    for sizes in itertools.zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        wide = set(sizes) - {1}
        if len(wide) > 1:
            return None
        found.append(wide.pop() if wide else 1)
    return found[::-1]


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.empty(tuple(shape), dtype=like.dtype, device="meta")


def _norm(x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """The statistics that follow have no readers outside training."""
    return _empty(x.shape, x), _empty((0,), x), _empty((0,), x)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Any:
    stride, padding, dilation, transposed, _, groups = how
    plain = x.ndim == weight.ndim and x.dtype == weight.dtype and not transposed
    if not plain or x.shape[1] != weight.shape[1] * groups:
        return aten.convolution.default(x, weight, bias, *how)
    sides = [
        (size + 2 * padding[axis] - dilation[axis] * (kernel - 1) - 1) // stride[axis] + 1
        for axis, (size, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True))
    ]
    return _empty((x.shape[0], weight.shape[0], *sides), x)


def _cat(parts: Sequence[Tensor], dim: int = 0) -> Any:
    shapes = [list(part.shape) for part in parts]
    axis = dim % len(shapes[0])
    sizes = [shape.pop(axis) for shape in shapes]
    if any(shape != shapes[0] for shape in shapes) or len({part.dtype for part in parts}) > 1:
        return aten.cat.default(parts, dim)
    shapes[0].insert(axis, sum(sizes))
    return _empty(shapes[0], parts[0])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if x.shape[-1] != weight.shape[1] or x.dtype != weight.dtype:
        return aten.linear.default(x, weight, bias)
    return _empty((*x.shape[:-1], weight.shape[0]), x)


def _grid_sampler(x: Tensor, grid: Tensor, *how: Any) -> Any:
    if x.shape[0] != grid.shape[0] or x.dtype != grid.dtype:
        return aten.grid_sampler_2d.default(x, grid, *how)
    return _empty((*x.shape[:2], *grid.shape[1:3]), x)


RESULTS: dict[Any, Callable[..., Any]] = {
    **{target: _elementwise(target) for target in NUMBERS},
    **{target: _elementwise(target, floats=True) for target in FLOATS},
    **{target: _elementwise(target, truth=True) for target in COMPARISONS},
    aten.where.self: _where,
    aten.cat.default: _cat,
    aten.convolution.default: _convolution,
    aten.grid_sampler_2d.default: _grid_sampler,
    aten.linear.default: _linear,
    aten.native_batch_norm.default: _norm,
    aten.native_layer_norm.default: _norm,
}
"""By operator: what to call instead of it."""
