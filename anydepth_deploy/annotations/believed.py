"""Accuracy without labels: what super finds stands for what there is to find.

A depth that agrees with super finds the same objects; how well it does is COCO's average precision
against super's own detections. It says nothing of super itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import ImageError

__all__ = ["THRESHOLD", "believed", "nothing_found"]

THRESHOLD = 0.4
"""Score of what super is believed to have found."""


def believed(
    labels: NDArray[np.int64], scores: NDArray[np.float32], boxes: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What super found in one picture and is believed: boxes float64 [K, 4] as x, y, width, height
    and labels int64 [K], of labels [N], scores [N] and boxes [N, 4] as x1, y1, x2, y2."""
    kept = (scores >= THRESHOLD) & (labels >= 0)
    found = boxes[kept].astype(np.float64)
    found[:, 2:] -= found[:, :2]
    real = (found[:, 2:] > 0).all(axis=1)
    return found[real], labels[kept][real]


def nothing_found(source: Path, count: int) -> ImageError:
    """What to raise where super finds nothing to agree on in ``count`` pictures of ``source``."""
    return ImageError(
        f"pictures in {source}: super finds nothing in {count} of them with a score of "
        f"{THRESHOLD:g}; give pictures like those that the network is for, or --data"
    )
