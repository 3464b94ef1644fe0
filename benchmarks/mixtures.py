"""COCO average precision where every picture has a depth of its own, from stored detections.

Each depth runs over the pictures once and is matched with what there is once, since matching looks
at one picture alone. Every mixture is arithmetic from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Found", "Mixtures", "Objects"]

Floats = NDArray[np.float64]

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Detections in a picture, and therefore of each class."""


@dataclass(frozen=True)
class Objects:
    """What is in a picture: boxes float64 [K, 4] as x, y, width, height, labels int64 [K]."""

    boxes: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """What a depth found in one picture: the same, and scores float64 [K]."""

    boxes: Floats
    labels: NDArray[np.int64]
    scores: Floats


@dataclass(frozen=True)
class _Class:
    """All detections of a class, of all depths, by falling score. ``cell``: of weights [pictures,
    rungs], flat; ``hits``: for each overlap the places of those that match an object."""

    cell: NDArray[np.int64]
    hits: tuple[NDArray[np.int64], ...]
    objects: NDArray[np.int64]  # in each picture


class Mixtures:
    """``found[rung][picture]`` and ``truth[picture]``, of ``classes`` classes.

    A mixture is an array of weights, float64 [pictures, rungs]: one in each row for a choice of a
    depth per picture, shares for what choosing by chance gives on average. ``times``
    [pictures] counts pictures several times, as a bootstrap does.
    """

    def __init__(
        self, truth: Sequence[Objects], found: Sequence[Sequence[Found]], classes: int
    ) -> None:
        self.pictures, self.rungs = len(truth), len(found)
        self._classes = _classes(truth, found, classes)

    def ap(self, weights: Floats, times: NDArray[Any] | None = None) -> float:
        """In percent: mean over classes, overlaps 0.50:0.95 and 101 recalls, as COCO has it."""
        if times is not None:
            weights = weights * times[:, None]
        flat, found = weights.ravel(), []
        for item in self._classes:
            objects = float(item.objects @ (np.ones(self.pictures) if times is None else times))
            if objects == 0:
                continue
            weight = np.take(flat, item.cell)
            total = np.cumsum(weight)
            found += [_area(weight[hits], total[hits], objects) for hits in item.hits]
        return 100 * float(np.mean(found))

    def gains(self, weights: Floats) -> Floats:
        """Float64 [pictures, rungs]: what each picture gives at each depth, beside its first one,
        in the currency of :meth:`ap`: the derivative of AP (not interpolated) by its weight, near
        the mixture ``weights``, times the number of pictures."""
        found = np.zeros(self.pictures * self.rungs)
        for item in self._classes:
            weight = np.take(weights.ravel(), item.cell)
            total = np.maximum(np.cumsum(weight), 1e-9)
            for hits in item.hits:
                right = np.zeros(len(weight))
                right[hits] = 1
                share = np.cumsum(right * weight) / total
                # A detection pushes down every later hit; one that is right also lifts them.
                later = np.cumsum((right * weight / total)[::-1])[::-1]
                lost = np.cumsum((right * weight * share / total)[::-1])[::-1]
                change = (right * (share + later) - lost) / item.objects.sum()
                found += np.bincount(item.cell, change, len(found))
        found *= 100 * self.pictures / (len(self._classes) * len(OVERLAPS))
        gains = found.reshape(self.pictures, self.rungs)
        return np.asarray(gains - gains[:, :1])


def _area(weight: Floats, total: Floats, objects: float) -> float:
    """Under one interpolated curve: of hits by falling score, their weights and those of all
    detections down to each."""
    kept = weight > 0
    right = np.cumsum(weight[kept])
    precision = np.maximum.accumulate((right / total[kept])[::-1])[::-1]
    places = np.searchsorted(right / objects, RECALLS)
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())


def _classes(
    truth: Sequence[Objects], found: Sequence[Sequence[Found]], classes: int
) -> list[_Class]:
    """Of all classes that have objects."""
    labels, cells, scores, hits = [], [], [], []
    for rung, results in enumerate(found):
        for picture, (objects, one) in enumerate(zip(truth, results, strict=True)):
            assert len(one.labels) <= MOST
            labels.append(one.labels)
            cells.append(np.full(len(one.labels), picture * len(found) + rung))
            scores.append(one.scores)
            hits.append(match(one, objects))
    label, cell, score = (np.concatenate(part) for part in (labels, cells, scores))
    hit = np.concatenate(hits)
    made = []
    for name in range(classes):
        counts = np.asarray([int((objects.labels == name).sum()) for objects in truth])
        kept = np.flatnonzero(label == name)
        # Of equal scores, as COCO has it: in the order of pictures.
        kept = kept[np.lexsort((cell[kept], -score[kept]))]
        # Behind the last hit, a detection changes nothing.
        kept = kept[: np.flatnonzero(hit[kept].any(axis=1)).max(initial=-1) + 1]
        places = tuple(np.flatnonzero(column) for column in hit[kept].T)
        if counts.any():
            made.append(_Class(cell[kept], places, counts))
    return made


def match(found: Found, objects: Objects) -> NDArray[np.bool_]:
    """Which detections hit an object at each overlap: bool [K, overlaps].

    By falling score, each takes the object of its class that it overlaps most of those that are
    left, as COCO has it.
    """
    hits = np.zeros((len(found.labels), len(OVERLAPS)), np.bool_)
    if not hits.size or not len(objects.labels):
        return hits
    overlap = _overlaps(found.boxes, objects.boxes)
    overlap[found.labels[:, None] != objects.labels[None]] = -1
    order = np.argsort(-found.scores, kind="stable")
    best = overlap.max(axis=1)
    for place, least in enumerate(OVERLAPS):
        left = overlap.copy()
        for number in order[best[order] >= least]:
            values = left[number]
            taken = len(values) - 1 - int(np.argmax(values[::-1]))
            if values[taken] >= least:
                hits[number, place] = True
                left[:, taken] = -1
    return hits


def _overlaps(boxes: Floats, objects: Floats) -> Floats:
    """Intersection over union, [K, objects]."""
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(
        (boxes[:, :2] + boxes[:, 2:])[:, None], (objects[:, :2] + objects[:, 2:])[None]
    )
    common = np.prod(np.maximum(high - low, 0), axis=2)
    area, other = boxes[:, 2] * boxes[:, 3], objects[:, 2] * objects[:, 3]
    return np.asarray(common / np.maximum(area[:, None] + other[None] - common, 1e-12))
