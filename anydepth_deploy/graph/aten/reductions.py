"""What makes one number of many, ranks, and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import anydepth_deploy.families.shared.suppress  # noqa: F401 (registers the operator)
from anydepth_deploy.graph.aten.builder import Builder, Operand, Unsupported, torch_type
from anydepth_deploy.graph.aten.table import axis_of, dims_of, translates

__all__: list[str] = []

aten: Any = torch.ops.aten


REDUCTIONS = {
    aten.sum.dim_IntList: "ReduceSum",
    aten.mean.dim: "ReduceMean",
    aten.amax.default: "ReduceMax",
    aten.amin.default: "ReduceMin",
}


def _reduction(overload: Any, op_type: str) -> None:
    @translates(overload)
    def translate(
        b: Builder,
        x: Operand,
        dims: Sequence[int] | None = (),
        keepdim: bool = False,
        *,
        dtype: torch.dtype | None = None,
    ) -> Operand:
        axes = sorted(axis_of(x, dim) for dim in dims or range(len(dims_of(x))))
        return b.add(op_type, [b.cast(x, b.kind), b.numbers(*axes)], keepdims=int(keepdim))

    translate.__name__ = overload.__name__.split(".")[0]


for _overload, _op_type in REDUCTIONS.items():
    _reduction(_overload, _op_type)


@translates(aten.argmax.default)
def _argmax(b: Builder, x: Operand, dim: int | None = None, keepdim: bool = False) -> Operand:
    if dim is None:
        raise Unsupported("the largest of all")
    return b.add("ArgMax", [x], axis=axis_of(x, dim), keepdims=int(keepdim))


@translates(aten.topk.default)
def _topk(
    b: Builder, x: Operand, count: int, dim: int = -1, largest: bool = True, in_order: bool = True
) -> tuple[Operand, ...]:
    axis = axis_of(x, dim)
    shape = dims_of(x)
    shape[axis] = count
    return b.add_several(
        "TopK",
        [x, b.numbers(count)],
        [("values", shape, torch_type(x)), ("indices", shape, torch.int64)],
        axis=axis,
        largest=int(largest),
        sorted=int(in_order),
    )


@translates(torch.ops.anydepth.kept_scores.default)
def _kept_scores(
    b: Builder, boxes: Operand, scores: Operand, iou: float, score: float, limit: int
) -> Operand:
    """Zeros, into which the scores of the boxes that NonMaxSuppression selects are written.

    The result has a shape that is known beforehand, unlike the list of selected indices.
    """
    bounds = [torch.tensor([limit]), torch.tensor([iou]), torch.tensor([score])]
    whole, selected = torch.int64, "selected"
    chosen = b.add(
        "NonMaxSuppression", [boxes, scores, *bounds], "chosen", shape=[selected, 3], kind=whole
    )
    kept = b.add("GatherND", [scores, chosen], "kept", shape=[selected])
    size = b.add("Shape", [scores], "shape", shape=[3], kind=whole)
    nothing = b.add("ConstantOfShape", [size], "nothing")
    return b.add("ScatterND", [nothing, chosen, kept])
