"""Class-aware non-maximum suppression of one image, as slowly and plainly as it can be said."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def overlap(one: Array, other: Array) -> np.float32:
    """Intersection over union of two boxes x1, y1, x2, y2, each step in single precision."""
    zero = np.float32(0)
    width = max(min(one[2], other[2]) - max(one[0], other[0]), zero)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), zero)
    inter = width * height
    area_one = (one[2] - one[0]) * (one[3] - one[1])
    area_other = (other[2] - other[0]) * (other[3] - other[1])
    union = area_one + area_other - inter
    ratio: np.float32 = inter / union if union > 0 else zero
    return ratio


def suppress(
    boxes: NDArray[Any], scores: NDArray[Any], *, iou: float, score: float, limit: int
) -> list[tuple[int, int, float]]:
    """The kept (label, anchor, score), best first, of boxes [A, 4] and scores [C, A].

    A candidate scores above `score`. Within its label, the best first (of equals the lower anchor),
    it is kept unless its overlap with one already kept is above `iou`. Of all labels together the
    `limit` best stay (of equals the lower label, then the lower anchor).
    """
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    kept: list[tuple[int, int, float]] = []
    for label, row in enumerate(scores):
        candidates = [anchor for anchor in range(len(row)) if row[anchor] > np.float32(score)]
        candidates.sort(key=lambda anchor: (-row[anchor], anchor))
        chosen: list[int] = []
        for anchor in candidates:
            if all(overlap(boxes[anchor], boxes[other]) <= np.float32(iou) for other in chosen):
                chosen.append(anchor)
        kept.extend((label, anchor, float(row[anchor])) for anchor in chosen)
    kept.sort(key=lambda found: (-found[2], found[0], found[1]))
    return kept[:limit]
