"""Bilinear resizing of 8-bit pictures: averaging as Pillow does it, and sampling as OpenCV does.

Networks of the YOLO family are trained on pictures that were resized by sampling: where a picture
shrinks, most of its pixels are not looked at. In whole numbers every language repeats it to the
last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["resize_averaging", "resize_bilinear"]

BITS = 11
"""Binary places of an interpolation weight."""
ONE = 1 << BITS

ROWS_AT_ONCE = 2**18
"""About how many pixels are handed to Pillow at once, which needs four bytes for each."""


def resize_averaging(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture uint8 [H, W, 3] to ``size`` (height, width) by Pillow's bilinear filter,
    which averages over all pixels where it shrinks (antialiasing).

    Along rows first, as Pillow before 13 always did: each pass rounds, so the order shows in single
    levels, and what a network is given must not hang on a version. A picture of one column only
    repeats it along rows, which no order changes: that comes last, when there are fewer of them.
    """
    rows, columns = size
    if image.shape[1] == 1:
        return np.repeat(_along_columns(Image.fromarray(image), rows), columns, axis=1)
    return _along_columns(_along_rows(image, columns), rows)


def _along_rows(image: NDArray[np.uint8], columns: int) -> Image.Image:
    """The picture in another width, some rows at a time: each row is on its own."""
    height, width = image.shape[:2]
    at_once = max(1, ROWS_AT_ONCE // width)
    if columns == width:
        return Image.fromarray(image)
    if height <= at_once:
        return Image.fromarray(image).resize((columns, height), Image.Resampling.BILINEAR)
    wide = Image.new("RGB", (columns, height))
    for top in range(0, height, at_once):
        part = Image.fromarray(image[top : top + at_once])
        wide.paste(part.resize((columns, part.height), Image.Resampling.BILINEAR), (0, top))
    return wide


def _along_columns(image: Image.Image, rows: int) -> NDArray[np.uint8]:
    return np.asarray(image.resize((image.width, rows), Image.Resampling.BILINEAR))


def resize_bilinear(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture uint8 [H, W, C] to ``size`` (height, width) without antialiasing.

    Pixel centres of both pictures are aligned: place ``i`` reads at ``(i + 0.5) * old / new -
    0.5``, clamped to the picture. Weights are rounded to 11 binary places, the result is rounded
    once: ``(sum + 2**21) >> 22``.
    """
    rows, row_weights = _places(image.shape[0], size[0])
    columns, column_weights = _places(image.shape[1], size[1])
    below = np.minimum(rows + 1, image.shape[0] - 1)
    if 2 * size[0] < image.shape[0]:
        # Only rows that are looked at are made wide: two for each of the result at the most,
        # however tall the picture is.
        looked_at, place = np.unique(np.stack([rows, below]), return_inverse=True)
        rows, below = place.reshape(2, -1)
        image = image[looked_at]
    weights = column_weights[:, None]
    wide = image[:, columns].astype(np.int32) * (ONE - weights)
    wide += image[:, np.minimum(columns + 1, image.shape[1] - 1)] * weights
    weights = row_weights[:, None, None]
    tall = wide[rows] * (ONE - weights)
    tall += wide[below] * weights
    return ((tall + (1 << (2 * BITS - 1))) >> (2 * BITS)).astype(np.uint8)


def _places(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Per place the first of the two pixels it lies between, and the weight of the second."""
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    at = np.clip(at, 0, old - 1)
    first = np.floor(at).astype(np.intp)
    return first, np.rint((at - first) * ONE).astype(np.int32)
