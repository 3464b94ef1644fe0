"""The ONNX form of the operator for non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op

import anydepth_deploy.families.shared.suppress  # noqa: F401 (registers the operator)

__all__ = ["TRANSLATIONS"]


def _kept_scores(boxes: Any, scores: Any, iou: float, score: float, limit: int) -> Any:
    """Zeros, into which the scores of the boxes that NonMaxSuppression selects are written.

    The result has a shape that is known beforehand, unlike the list of selected indices.
    """
    selected = op.NonMaxSuppression(boxes, scores, *_constants(limit, iou, score))
    kept = op.GatherND(scores, selected)
    nothing = op.ConstantOfShape(op.Shape(scores))
    return op.ScatterND(nothing, selected, kept)


def _constants(limit: int, iou: float, score: float) -> list[Any]:
    return [
        op.Constant(value_ints=[limit]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[score]),
    ]


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.anydepth.kept_scores.default: _kept_scores
}
"""What torch's exporter needs to know beyond its own operators."""
