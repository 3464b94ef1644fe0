"""COCO's figures, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import MissingExtraError

__all__ = ["CocoFigures", "coco_class", "coco_figures", "coco_rows", "coco_stats"]


@dataclass(frozen=True)
class CocoFigures:
    """What COCO's evaluation says, each 0 to 1, or -1 where there is nothing to measure.

    ``stats``: the twelve figures; ``by_category``: average precision (IoU 0.50:0.95, all sizes, 100
    detections an image) of each category id, whose mean the first of the twelve is.
    """

    stats: list[float]
    by_category: dict[int, float]


def coco_rows(
    image: int, found: Detections, boxes: NDArray[Any], ids: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """What :func:`coco_stats` takes of one picture, float64 [K, 7].

    ``found``: of it alone, without places that hold no detection; ``boxes`` [K, 4]: its boxes as
    x1, y1, x2, y2 in the picture's pixels; ``ids``: of the category of each class.
    """
    corners = boxes.astype(np.float64)
    corners[:, 2:] -= corners[:, :2]
    images = np.full(len(corners), image)
    return np.column_stack([images, corners, found.scores[0], np.asarray(ids)[found.labels[0]]])


def coco_stats(
    content: dict[str, Any], results: Sequence[NDArray[np.float64]], coco: Any = None
) -> list[float]:
    """COCO's twelve figures; see :func:`coco_figures`."""
    return coco_figures(content, results, coco).stats


def coco_figures(
    content: dict[str, Any], results: Sequence[NDArray[np.float64]], coco: Any = None
) -> CocoFigures:
    """COCO's figures of detections.

    ``results``: arrays [K, 7] of image id, x, y, width, height, score, category id. ``coco``: the
    class of faster-coco-eval, if it was imported already. Raises :class:`MissingExtraError`.
    """
    coco = coco or coco_class()
    from faster_coco_eval import COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco(content)
        detections = truth.loadRes(np.concatenate(results))
        evaluation = COCOeval_faster(truth, detections, "bbox", print_function=_silent)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # [IoU, recall, category, size (the first: all), most detections (the last: 100)]
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    by_category = {
        int(category): float(values[values > -1].mean()) if (values > -1).any() else -1.0
        for category, values in zip(
            evaluation.params.catIds, np.moveaxis(precision, 2, 0), strict=True
        )
    }
    return CocoFigures([float(value) for value in evaluation.stats], by_category)


def _silent(*_: object, **__: object) -> None:
    return None


def coco_class() -> Any:
    try:
        from faster_coco_eval import COCO
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "eval", "average precision") from None
    return COCO
