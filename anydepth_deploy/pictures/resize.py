"""Bilinear resizing as OpenCV does it for 8-bit pictures, in whole numbers.

Networks of the YOLO family are trained on pictures that were resized this way. It samples: where a
picture shrinks, most of its pixels are not looked at. In whole numbers every language repeats it
to the last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize_bilinear"]

BITS = 11
"""Binary places of an interpolation weight."""
ONE = 1 << BITS


def resize_bilinear(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture uint8 [H, W, C] to ``size`` (height, width) without antialiasing.

    Pixel centres of both pictures are aligned: place ``i`` reads at ``(i + 0.5) * old / new -
    0.5``, clamped to the picture. Weights are rounded to 11 binary places, the result is rounded
    once: ``(sum + 2**21) >> 22``.
    """
    rows, row_weights = _places(image.shape[0], size[0])
    columns, column_weights = _places(image.shape[1], size[1])
    weights = column_weights[:, None]
    wide = image[:, columns].astype(np.int32) * (ONE - weights)
    wide += image[:, np.minimum(columns + 1, image.shape[1] - 1)] * weights
    weights = row_weights[:, None, None]
    tall = wide[rows] * (ONE - weights)
    tall += wide[np.minimum(rows + 1, image.shape[0] - 1)] * weights
    return ((tall + (1 << (2 * BITS - 1))) >> (2 * BITS)).astype(np.uint8)


def _places(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Per place the first of the two pixels it lies between, and the weight of the second."""
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    at = np.clip(at, 0, old - 1)
    first = np.floor(at).astype(np.intp)
    return first, np.rint((at - first) * ONE).astype(np.int32)
