"""Class-aware non-maximum suppression on the host, and the settings that all runtimes share.

Exactly what ONNX's NonMaxSuppression computes, in float32 and in the same order of operations, so
that suppression in the graph and on the host keep the same boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
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


BLOCK = 64
"""Candidates that are compared with each other at a time: one call of NumPy for many pairs."""


def _greedy(
    boxes: NDArray[np.float32], order: NDArray[np.intp], iou: np.float32, limit: int
) -> NDArray[np.intp]:
    """Indices that survive, best first; ``order`` holds the candidates, best first."""
    candidates = _Corners.of(boxes[order])
    left = np.arange(len(order))
    kept: list[np.intp] = []
    while left.size and len(kept) < limit:
        block, left = left[:BLOCK], left[BLOCK:]
        over = candidates.over(block, block, iou)
        dropped = np.zeros(len(block), bool)
        chosen = []
        for place in range(len(block)):
            if not dropped[place]:
                chosen.append(place)
                dropped |= over[place]
        kept.extend(block[chosen])
        if left.size:
            left = left[~candidates.over(block[chosen], left, iou).any(0)]
    return order[np.asarray(kept[:limit], np.intp)]


@dataclass(frozen=True)
class _Corners:
    """Boxes [A, 4], with whichever corner is which, and their areas [A]."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    areas: NDArray[np.float32]

    @classmethod
    def of(cls, boxes: NDArray[np.float32]) -> _Corners:
        low = np.minimum(boxes[:, :2], boxes[:, 2:])
        high = np.maximum(boxes[:, :2], boxes[:, 2:])
        with np.errstate(all="ignore"):
            sides = high - low
            return cls(low, high, sides[:, 0] * sides[:, 1])

    def over(
        self, better: NDArray[np.intp], other: NDArray[np.intp], iou: np.float32
    ) -> NDArray[np.bool_]:
        """Which ``better`` boxes [B] drop which ``other`` ones [O]: bool [B, O]."""
        with np.errstate(all="ignore"):
            x, y = (
                np.minimum(self.high[better, None, axis], self.high[None, other, axis])
                - np.maximum(self.low[better, None, axis], self.low[None, other, axis])
                for axis in (0, 1)
            )
            overlap = np.where((x > 0) & (y > 0), x * y, np.float32(0))
            union = self.areas[better, None] + self.areas[None, other] - overlap
            return np.asarray((overlap > 0) & (union > 0) & (overlap / union > iou))
