"""How frames are shown: the display matrix of a video, as phones write it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["displayed", "turned_by"]

MATRIX = struct.Struct("=9i")
"""a b u, c d v, x y w: a point (p, q) is shown at (a p + c q + x, b p + d q + y); ISO/IEC 14496-12,
section 8.3.2. Numbers have 16 binary places, but for u, v and w."""


def displayed(pixels: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """``pixels`` [H, W, 3] as players show ``frame``, one of PyAV's: turned by quarters, mirrored.
    A matrix that turns by anything else changes nothing."""
    data = next((item for item in frame.side_data if item.type.name == "DISPLAYMATRIX"), None)
    if data is None or len(bytes(data)) != MATRIX.size:
        return pixels
    a, b, _, c, d = MATRIX.unpack(bytes(data))[:5]
    return turned_by(pixels, (a, b, c, d))


def turned_by(pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """``pixels`` by the numbers a, b, c and d of a display matrix."""
    a, b, c, d = matrix
    if a and d and not b and not c:
        across, down = a, d
    elif b and c and not a and not d:
        pixels, across, down = pixels.swapaxes(0, 1), c, b
    else:
        return pixels
    return np.ascontiguousarray(pixels[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1])
