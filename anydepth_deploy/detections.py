"""What every runtime returns: detections as three arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOTHING", "Detections"]

NOTHING = -1
"""Label of a place that holds no detection; its score and box are zeros."""


@dataclass(frozen=True)
class Detections:
    """Detections of a batch, best first in each image.

    ``labels`` int64 [N, K], ``boxes`` float32 [N, K, 4] (x1, y1, x2, y2 in pixels of the network
    input), ``scores`` float32 [N, K] in 0..1. K is fixed by the model. A DETR fills all places,
    down to the lowest scores; where suppression leaves a YOLO fewer, the last labels are -1
    (:data:`NOTHING`) with zeros for score and box, and :meth:`image` leaves them out.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def image(self, index: int, threshold: float = 0.0) -> Detections:
        """The detections of one image with a score of at least ``threshold``, still as a batch.

        Places without a detection are left out.
        """
        kept = (self.scores[index] >= threshold) & (self.labels[index] != NOTHING)
        return Detections(
            self.labels[index][kept][None],
            self.boxes[index][kept][None],
            self.scores[index][kept][None],
        )

    def __iter__(self) -> Iterator[Detections]:
        return (self.image(index) for index in range(len(self)))
