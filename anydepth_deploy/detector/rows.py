"""What was found in a picture as plain data: for JSON, and as COCO's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.annotations.scoring import coco_rows
from anydepth_deploy.detections import Detections

__all__ = ["coco_results", "detection_rows"]


def detection_rows(found: Detections, class_name: Callable[[int], str]) -> list[dict[str, Any]]:
    """One object a detection of ``found``, which is one image in picture pixels: ``class``,
    ``label``, ``score``, ``box`` (x1, y1, x2, y2)."""
    return [
        {
            "class": class_name(int(label)),
            "label": int(label),
            "score": round(float(score), 6),
            "box": [round(float(side), 3) for side in box],
        }
        for label, box, score in zip(found.labels[0], found.boxes[0], found.scores[0], strict=True)
    ]


def coco_results(
    image: int, found: Detections, ids: Sequence[int] | NDArray[np.int64]
) -> list[dict[str, Any]]:
    """The same in COCO's format for results, as ``eval`` scores them: ``image_id``,
    ``category_id``, ``bbox`` (x, y, width, height), ``score``. ``ids``: of the category of each
    class."""
    return [
        {
            "image_id": image,
            "category_id": int(category),
            "bbox": [float(side) for side in box],
            "score": float(score),
        }
        for _, *box, score, category in coco_rows(image, found, found.boxes[0], ids).tolist()
    ]
