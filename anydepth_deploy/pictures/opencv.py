"""OpenCV's resizing, where it is installed and gives what this package computes, bit for bit.

OpenCV reads at the same places with the same weights, but cuts sums to fewer bits before it rounds:
it is a level off in a tenth of all values. Not where both sides shrink to a whole part of what they
were (1280 x 720 to 640 x 360): weights are all zero or all a half there, and nothing is cut.
"""

from __future__ import annotations

import functools
import itertools
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize", "resizes"]

SERIAL = 1 << 16
"""Pixels of a result up to which OpenCV computes it in the thread that calls. Otherwise it takes
all cores, however few threads a session was opened with, and how many it takes is one setting of
the whole process, which is the caller's."""

WORTH_IT = 50
"""Pictures that are resized without OpenCV before it is imported: that takes as long as it saves
with about so many."""

CASES = (((9, 14), (3, 7)), ((16, 10), (2, 5)), ((12, 18), (12, 3)), ((10, 21), (5, 21)))
"""Sizes of pictures and results to try: sides that stay, and that shrink by even and odd numbers."""


def resizes(image: NDArray[np.uint8], size: tuple[int, int]) -> bool:
    """Whether :func:`resize` resizes a picture uint8 [H, W, C] to ``size`` (height, width), and
    faster than NumPy does: to whole parts of both sides, one of them an even part (else it is no
    more than leaving pixels out). OpenCV is tried before it is first used."""
    down, across = (old // new for old, new in zip(image.shape, size, strict=False))
    return (
        image.shape[:2] == (down * size[0], across * size[1])
        and (down % 2 == 0 or across % 2 == 0)
        and image.shape[2] == 3
        and 2 * size[1] <= SERIAL
        and _wanted()
        and _module() is not None
    )


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """What :func:`~anydepth_deploy.pictures.resize.resize_bilinear` does, for what
    :func:`resizes`."""
    return _resize(_module(), image, size)


def _resize(cv2: Any, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Some rows of the result at a time, each from rows of its own."""
    rows, columns = size
    down = image.shape[0] // rows
    found = np.empty((rows, columns, image.shape[2]), np.uint8)
    at_once = max(1, SERIAL // columns)
    for top in range(0, rows, at_once):
        part = found[top : top + at_once]
        source = np.ascontiguousarray(image[top * down : (top + len(part)) * down])
        part[...] = cv2.resize(source, (columns, len(part)), interpolation=cv2.INTER_LINEAR)
    return found


_asked = itertools.count()


def _wanted() -> bool:
    return "cv2" in sys.modules or next(_asked) >= WORTH_IT


@functools.cache
def _module() -> Any:
    """OpenCV, or None where it is not there, does not start, or computes anything else."""
    try:
        import cv2

        return cv2 if _agrees(cv2) else None
    except Exception:  # a build that lacks a library, or is not for this NumPy, raises anything
        return None


def _agrees(cv2: Any) -> bool:
    """Whether results are those of whole numbers: the mean of the four pixels around the centre of
    each place, halves rounded up, on noise and on the largest and smallest values."""
    noise = np.random.default_rng(0)
    for (height, width), size in CASES:
        for kind in range(2):
            values = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
            image = values if kind == 0 else np.where(values > 127, np.uint8(255), np.uint8(0))
            if not np.array_equal(_resize(cv2, image, size), _means(image, size)):
                return False
    return True


def _means(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    down, across = image.shape[0] // size[0], image.shape[1] // size[1]
    rows = image[(down - 1) // 2 :: down].astype(int) + image[down // 2 :: down]
    both = rows[:, (across - 1) // 2 :: across] + rows[:, across // 2 :: across]
    return ((both + 2) >> 2).astype(np.uint8)
