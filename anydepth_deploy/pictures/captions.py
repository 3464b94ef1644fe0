"""Where captions go: near their boxes, inside the picture, and not over each other.

The best placed first: each takes the nearest place that is free. A rectangle that can move freely
among others finds room, if there is any, where one of its sides touches one of theirs or an edge of
the picture (the corners of maximal empty rectangles), so that few places have to be tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_captions"]

Box = Sequence[float]

EVERYWHERE = 24
"""Captions up to which the whole picture is looked through for room; that takes the third power of
their number. Of more, places above and below the box are tried, unless they would fill the picture.
"""


def place_captions(
    boxes: Sequence[Box], sizes: Sequence[tuple[int, int]], width: int, height: int
) -> list[tuple[int, int]]:
    """The left upper corner of each caption, in whole pixels.

    ``boxes``: (x1, y1, x2, y2) of each, the most important first. ``sizes``: width and height of
    its caption. ``width`` and ``height``: of the picture. A caption is inside the picture where it
    fits at all, and overlaps no earlier one where room is left; otherwise it hides least of them.
    """
    placed = np.zeros((0, 4), np.int64)
    found, areas = [], 0
    for box, (wide, high) in zip(boxes, sizes, strict=True):
        most = (max(0, width - wide), max(0, height - high))
        places = _near(box, wide, high, most)
        free = _overlap(places, wide, high, placed) == 0
        if not free.any():
            if len(placed) <= EVERYWHERE or areas < width * height:
                places = np.concatenate([places, _touching(box, wide, high, most, placed)])
            hidden = _overlap(places, wide, high, placed)
            free = hidden == hidden.min()
            places = places[free]
            x, y = places[np.argmin(_distance(places, wide, high, box))]
        else:
            x, y = places[np.argmax(free)]
        found.append((int(x), int(y)))
        areas += wide * high
        placed = np.concatenate([placed, [[x, y, x + wide, y + high]]])
    return found


def _near(box: Box, wide: int, high: int, most: tuple[int, int]) -> NDArray[np.int64]:
    """Places at the edges of a box, the best first: above, below, inside; left, then right."""
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    right = max(x1, x2 - wide)
    across = (x1, right)
    wanted = [(x, y) for y in (y1 - high, y2 + 1) for x in across]
    wanted += [(x, y) for y in (y1, y2 - high) for x in across]
    inside = [(x, y) for x, y in wanted if 0 <= y <= most[1]]
    clamped = [(min(max(x, 0), most[0]), min(max(y, 0), most[1])) for x, y in inside or wanted]
    return np.array(clamped, np.int64)


def _touching(
    box: Box, wide: int, high: int, most: tuple[int, int], placed: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Places where a caption touches others, an edge of the picture, or its box."""
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    across = [x1, x2 - wide, 0, most[0]]
    if len(placed) <= EVERYWHERE:
        across += [*placed[:, 2], *(placed[:, 0] - wide)]
    down = [y1 - high, y1, y2 + 1, y2 - high, 0, most[1], *placed[:, 3], *(placed[:, 1] - high)]
    xs = np.unique(np.clip(np.array(across, np.int64), 0, most[0]))
    ys = np.unique(np.clip(np.array(down, np.int64), 0, most[1]))
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


def _overlap(
    places: NDArray[np.int64], wide: int, high: int, placed: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pixels of others that a caption hides at each place."""
    left = np.maximum(places[:, None, 0], placed[None, :, 0])
    top = np.maximum(places[:, None, 1], placed[None, :, 1])
    right = np.minimum(places[:, None, 0] + wide, placed[None, :, 2])
    bottom = np.minimum(places[:, None, 1] + high, placed[None, :, 3])
    hidden = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None)
    found: NDArray[np.int64] = hidden.sum(axis=1)
    return found


def _distance(places: NDArray[np.int64], wide: int, high: int, box: Box) -> NDArray[np.float64]:
    """Between a caption at each place and its box; 0 where they touch."""
    x1, y1, x2, y2 = map(float, box)
    x = np.maximum(np.maximum(x1 - (places[:, 0] + wide), places[:, 0] - x2), 0.0)
    y = np.maximum(np.maximum(y1 - (places[:, 1] + high), places[:, 1] - y2), 0.0)
    found: NDArray[np.float64] = np.hypot(x, y)
    return found
