"""Class-aware non-maximum suppression on the host, and the settings that all runtimes share.

Exactly what ONNX's NonMaxSuppression computes, in float32 and in the same order of operations, so
that suppression in the graph and on the host keep the same boxes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from anydepth_deploy.detections import NOTHING, Detections

__all__ = ["Suppression", "Where", "kept_scores", "suppress"]


Where = Literal["graph", "host", "none"]


class Suppression(BaseModel):
    """What happens between a head's predictions and detections.

    Of the boxes of one class with a score above ``score_threshold``, taken from the best down, one
    is dropped when its intersection over union with a kept one is above ``iou_threshold``. The
    defaults are those of COCO evaluations; a higher ``score_threshold`` is faster.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    where: Where = "graph"
    """In the graph; by the runtime of this project; or left to the application."""
    score_threshold: float = Field(default=0.001, ge=0, lt=1)
    iou_threshold: float = Field(default=0.7, gt=0, le=1)


def kept_scores(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    iou: float,
    score: float,
    limit: int,
) -> NDArray[np.float32]:
    """Scores with those of suppressed boxes set to 0.

    ``boxes`` float32 [N, A, 4] (x1, y1, x2, y2), ``scores`` float32 [N, classes, A]; at most
    ``limit`` boxes of a class are kept in an image.
    """
    found = np.zeros_like(scores)
    above = scores > np.float32(score)
    for image, label in zip(*np.nonzero(above.any(2)), strict=True):
        candidates = np.nonzero(above[image, label])[0]
        values = scores[image, label, candidates]
        # Stable: of equal scores the first one wins, as in ONNX Runtime.
        order = candidates[np.argsort(-values, kind="stable")]
        kept = _greedy(boxes[image], order, np.float32(iou), limit)
        found[image, label, kept] = scores[image, label, kept]
    return found


def suppress(
    predictions: NDArray[np.float32], rule: Suppression, max_detections: int
) -> Detections:
    """Predictions float32 [N, 4 + classes, A] (cx, cy, w, h in input pixels, then scores) to the
    best ``max_detections`` of all classes, after suppression."""
    centres = predictions[:, :2]
    with np.errstate(all="ignore"):
        half = predictions[:, 2:4] * np.float32(0.5)
        boxes = np.concatenate([centres - half, centres + half], 1).transpose(0, 2, 1)
    scores = predictions[:, 4:]
    kept = kept_scores(
        boxes,
        scores,
        iou=rule.iou_threshold,
        score=rule.score_threshold,
        limit=max_detections,
    )
    count, classes, anchors = scores.shape
    places = min(max_detections, classes * anchors)
    flat = kept.reshape(count, -1)
    best = np.argsort(-flat, axis=1, kind="stable")[:, :places]
    values = np.take_along_axis(flat, best, 1)
    labels, anchor = np.divmod(best, anchors)
    empty = values <= 0
    corners = np.take_along_axis(boxes, anchor[..., None], 1)
    return Detections(
        labels=np.where(empty, NOTHING, labels).astype(np.int64),
        boxes=np.where(empty[..., None], np.float32(0), corners),
        scores=values,
    )


def _greedy(
    boxes: NDArray[np.float32], order: NDArray[np.intp], iou: np.float32, limit: int
) -> NDArray[np.intp]:
    """Indices that survive, best first; ``order`` holds the candidates, best first."""
    low = np.minimum(boxes[order, :2], boxes[order, 2:])
    high = np.maximum(boxes[order, :2], boxes[order, 2:])
    with np.errstate(all="ignore"):
        sides = high - low
        areas = sides[:, 0] * sides[:, 1]
    left = np.arange(len(order))
    kept: list[np.intp] = []
    while left.size and len(kept) < limit:
        first, rest = left[0], left[1:]
        kept.append(first)
        with np.errstate(all="ignore"):
            shared = np.minimum(high[first], high[rest]) - np.maximum(low[first], low[rest])
            overlap = np.where((shared > 0).all(1), shared[:, 0] * shared[:, 1], np.float32(0))
            union = areas[first] + areas[rest] - overlap
            over = (overlap > 0) & (union > 0) & (overlap / union > iou)
        left = rest[~over]
    return order[np.asarray(kept, np.intp)]
