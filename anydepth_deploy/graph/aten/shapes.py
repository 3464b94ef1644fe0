"""What moves elements: reshaping, cutting, joining, picking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from anydepth_deploy.graph.aten.builder import Builder, Operand, Unsupported, torch_type
from anydepth_deploy.graph.aten.table import axis_of, dims_of, translates

__all__: list[str] = []

aten: Any = torch.ops.aten


@translates(
    aten.view.default,
    aten._unsafe_view.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def _reshape(b: Builder, x: Operand, *_: Any, **options: Any) -> Operand:
    """Whatever the operator is called: the result says what its shape is."""
    shape = b.shape
    if shape == dims_of(x):
        return x
    free = [size for size in shape if isinstance(size, str)]
    if len(free) > 1:
        raise Unsupported(f"reshaping to {shape}")
    before = _made_by(x, "Reshape")  # the shape between is nothing to anybody
    source = x if before is None else before.inputs[0]
    target = b.numbers(*(-1 if isinstance(size, str) else size for size in shape))
    return b.add("Reshape", [source, target], allowzero=1)


@translates(aten.transpose.int)
def _transpose(b: Builder, x: Operand, one: int, other: int) -> Operand:
    order = list(range(len(dims_of(x))))
    one, other = axis_of(x, one), axis_of(x, other)
    order[one], order[other] = other, one
    return _ordered(b, x, order)


@translates(aten.permute.default)
def _permute(b: Builder, x: Operand, order: Sequence[int]) -> Operand:
    return _ordered(b, x, [axis_of(x, dim) for dim in order])


@translates(aten.t.default)
def _t(b: Builder, x: Operand) -> Operand:
    return _ordered(b, x, list(range(len(dims_of(x))))[::-1])


@translates(aten.unsqueeze.default)
def _unsqueeze(b: Builder, x: Operand, dim: int) -> Operand:
    axis, source = axis_of(x, dim, more=1), x
    axes = [axis]
    before = _made_by(x, "Unsqueeze")
    if before is not None:
        inner = _constant(before.inputs[1])
        axes = [axis, *(old + (old >= axis) for old in sorted(inner))]
        source = before.inputs[0]
        if any(old >= axis for old in inner) and len(inner) > 1:
            axes, source = [axis], x  # not worth a proof
    return b.add("Unsqueeze", [source, b.numbers(*sorted(axes))])


@translates(aten.slice.Tensor)
def _slice(
    b: Builder,
    x: Operand,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Operand:
    axis = axis_of(x, dim)
    size = dims_of(x)[axis]
    if b.shape == dims_of(x):
        return x
    if not isinstance(size, int):
        raise Unsupported("a part of the batch")
    first, last, _ = slice(start, end, step).indices(size)
    return _cut(b, x, [axis], [first], [last], [step])


@translates(aten.select.int)
def _select(b: Builder, x: Operand, dim: int, index: int) -> Operand:
    axis = axis_of(x, dim)
    size = dims_of(x)[axis]
    if index < 0:
        if not isinstance(size, int):
            raise Unsupported("an element counted from the end of the batch")
        index += size
    return b.add("Gather", [x, torch.tensor(index)], axis=axis)


@translates(aten.split.Tensor)
def _split_evenly(b: Builder, x: Operand, each: int, dim: int = 0) -> tuple[Operand, ...]:
    size = dims_of(x)[axis_of(x, dim)]
    if not isinstance(size, int):
        raise Unsupported("parts of the batch")
    return _split(b, x, [min(each, size - first) for first in range(0, size, each)], dim)


@translates(aten.split_with_sizes.default)
def _split(b: Builder, x: Operand, parts: Sequence[int], dim: int = 0) -> tuple[Operand, ...]:
    axis = axis_of(x, dim)
    if len(parts) == 1:
        return (x,)
    outputs = []
    for index, size in enumerate(parts):
        shape = dims_of(x)
        shape[axis] = size
        outputs.append((str(index), shape, torch_type(x)))
    return b.add_several("Split", [x, b.numbers(*parts)], outputs, axis=axis)


@translates(aten.unbind.int)
def _unbind(b: Builder, x: Operand, dim: int = 0) -> tuple[Operand, ...]:
    axis = axis_of(x, dim)
    shape = dims_of(x)
    size = shape.pop(axis)
    if not isinstance(size, int):
        raise Unsupported("the elements of the batch")
    kind = torch_type(x)
    return tuple(
        b.add("Gather", [x, torch.tensor(i)], str(i), shape=shape, kind=kind, axis=axis)
        for i in range(size)
    )


@translates(aten.cat.default)
def _cat(b: Builder, parts: Sequence[Operand], dim: int = 0) -> Operand:
    kind = b.kind
    given = [b.operand(part, kind) for part in parts if 0 not in dims_of(part)]
    if len(given) == 1:
        return given[0]
    return b.add("Concat", given, axis=axis_of(given[0], dim))


@translates(aten.stack.default)
def _stack(b: Builder, parts: Sequence[Operand], dim: int = 0) -> Operand:
    axis = axis_of(parts[0], dim, more=1)
    kind = b.kind
    raised = []
    for index, part in enumerate(parts):
        shape = dims_of(part)
        shape.insert(axis, 1)
        given = b.operand(part, kind)
        raised.append(b.add("Unsqueeze", [given, b.numbers(axis)], str(index), shape=shape))
    return b.add("Concat", raised, axis=axis)


@translates(aten.expand.default)
def _expand(b: Builder, x: Operand, shape: Sequence[Any], *, implicit: bool = False) -> Operand:
    target, before = b.shape, dims_of(x)
    before = [*[1] * (len(target) - len(before)), *before]
    grown = [1 if one == other else other for one, other in zip(before, target, strict=True)]
    if all(size == 1 for size in grown) and len(target) == len(dims_of(x)):
        return x
    return b.add("Expand", [x, _target(b, grown)])


@translates(aten.repeat.default)
def _repeat(b: Builder, x: Operand, times: Sequence[Any]) -> Operand:
    if len(times) != len(dims_of(x)) or not all(isinstance(item, int) for item in times):
        raise Unsupported(f"repeating {times} times")
    return b.add("Tile", [x, b.numbers(*times)])


@translates(aten.gather.default)
def _gather(b: Builder, x: Operand, dim: int, index: Operand) -> Operand:
    return b.add("GatherElements", [x, index], axis=axis_of(x, dim))


@translates(aten.embedding.default)
def _embedding(b: Builder, weight: Operand, index: Operand, *_: Any) -> Operand:
    return b.add("Gather", [weight, index], axis=0)


@translates(aten.index_select.default)
def _index_select(b: Builder, x: Operand, dim: int, index: Operand) -> Operand:
    return b.add("Gather", [x, index], axis=axis_of(x, dim))


def _target(b: Builder, shape: Sequence[int | str]) -> ir.Value:
    """A shape as a tensor; what hangs on the batch is counted in the graph."""
    if all(isinstance(size, int) for size in shape):
        return b.numbers(*(int(size) for size in shape))
    raise Unsupported(f"a shape that hangs on the batch ({', '.join(map(str, shape))})")


def _ordered(b: Builder, x: Operand, order: list[int]) -> Operand:
    before = _made_by(x, "Transpose")
    source = x
    if before is not None:
        inner = list(before.attributes["perm"].as_ints())
        order, source = [inner[axis] for axis in order], before.inputs[0]
    if order == list(range(len(order))):
        assert source is not None
        return source
    return b.add("Transpose", [source], perm=order)


def _cut(
    b: Builder, x: Operand, axes: list[int], first: list[int], last: list[int], step: list[int]
) -> Operand:
    before = _made_by(x, "Slice")
    source = x
    if before is not None:
        inner = [_constant(value) for value in before.inputs[1:]]
        if not set(inner[2]) & set(axes):  # of different axes: one cut
            first, last = [*inner[0], *first], [*inner[1], *last]
            axes, step = [*inner[2], *axes], [*inner[3], *step]
            source = before.inputs[0]
    bounds = [b.numbers(*numbers) for numbers in (first, last, axes, step)]
    return b.add("Slice", [source, *bounds])


def _made_by(x: Operand | None, op_type: str) -> Any:
    """The node that made ``x``, where it is one of this type."""
    node = x.producer() if isinstance(x, ir.Value) else None
    return node if node is not None and node.op_type == op_type else None


def _constant(value: ir.Value | None) -> list[int]:
    assert value is not None
    assert value.const_value is not None
    return [int(number) for number in value.const_value.numpy()]
