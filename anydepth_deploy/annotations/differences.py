"""How far apart what two depths find in one picture is.

A box weighs how far its score lies above :data:`THRESHOLD`, as a share of what is left above it: 0
at the threshold, 1 at a score of 1, so that nothing jumps where a score crosses it. Boxes of the
same class whose IoU is at least :data:`IOU` are matched, those that overlap most first, each once.
A box without a partner adds its weight; a pair adds what their weights differ by, and of the lesser
weight the share 1 - IoU. The sum is 0 where both depths find the same, is the same whichever depth
is named first, and about counts the certain boxes that only one of them has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["IOU", "THRESHOLD", "Difference", "difference"]

IOU = 0.5
THRESHOLD = 0.3

X, Y, WIDTH, HEIGHT, SCORE, CATEGORY = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Difference:
    """What two depths make of one picture.

    ``first``, ``second``: float64 [K, 7] of image id, x, y, width, height, score, category id, only
    scores of at least :data:`THRESHOLD`. ``matched_first``, ``matched_second``: bool [K], whether
    the other depth has such a box.
    """

    weight: float
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    matched_first: NDArray[np.bool_]
    matched_second: NDArray[np.bool_]


def difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """How far apart two depths are in one picture, each as :class:`Difference` has them."""
    a, b = (rows[rows[:, SCORE] >= THRESHOLD] for rows in (first, second))
    weights_a, weights_b = ((rows[:, SCORE] - THRESHOLD) / (1 - THRESHOLD) for rows in (a, b))
    overlap = np.where(a[:, None, CATEGORY] == b[None, :, CATEGORY], _iou(a, b), 0.0)
    matched_a, matched_b = np.zeros(len(a), bool), np.zeros(len(b), bool)
    total = float(weights_a.sum() + weights_b.sum())
    rows, columns = np.nonzero(overlap >= IOU)
    apart = np.abs(weights_a[rows] - weights_b[columns])
    # Of pairs that overlap alike, those of like scores first: no order of the depths in it.
    for place in np.lexsort((apart, -overlap[rows, columns])):
        i, j = rows[place], columns[place]
        if matched_a[i] or matched_b[j]:
            continue
        matched_a[i] = matched_b[j] = True
        lesser = min(weights_a[i], weights_b[j])
        total -= float(lesser * (1 + overlap[i, j]))  # of the two that were added whole
    return Difference(max(0.0, total), a, b, matched_a, matched_b)


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, M]: shared area over united area; 0 where there is none."""
    low = np.maximum(a[:, None, X : Y + 1], b[None, :, X : Y + 1])
    ends_a, ends_b = (rows[:, X : Y + 1] + rows[:, WIDTH : HEIGHT + 1] for rows in (a, b))
    shared = np.clip(np.minimum(ends_a[:, None], ends_b[None]) - low, 0, None).prod(axis=2)
    areas = [rows[:, WIDTH] * rows[:, HEIGHT] for rows in (a, b)]
    united = areas[0][:, None] + areas[1][None] - shared
    overlap: NDArray[np.float64] = np.zeros_like(shared)
    np.divide(shared, united, out=overlap, where=united > 0)
    return overlap
