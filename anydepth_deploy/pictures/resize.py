"""Bilinear resizing of 8-bit pictures: averaging as Pillow does it, and sampling as OpenCV does.

Networks of the YOLO family are trained on pictures that were resized by sampling: where a picture
shrinks, most of its pixels are not looked at. In whole numbers every language repeats it to the
last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.pictures import opencv

__all__ = ["resize_averaging", "resize_bilinear"]

BITS = 11
"""Binary places of an interpolation weight."""
ONE = 1 << BITS

ROWS_AT_ONCE = 2**18
"""About how many pixels are handed to Pillow at once, which needs four bytes for each."""

VALUES_AT_ONCE = 2**17
"""About how many sums are made at once, of up to four bytes: few enough for a core's cache."""

WIDE = 8
"""How many times as wide as its result a picture is, until putting whole rows together costs more
than picking two pixels for each place."""


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

    OpenCV's own function is asked where its results are the same (:mod:`.opencv`). Sums do not hang
    on the order in which whole numbers are added, nor on zeros at the end of weights: rows are put
    together first, some at a time, so that they stay in the cache, and with no more bits than the
    weights of these sizes have. Where both sides shrink to a third, that is none.
    """
    if opencv.resizes(image, size):
        return opencv.resize(image, size)
    width, channels = image.shape[1:]
    rows, columns = _axis(image.shape[0], size[0]), _axis(width, size[1])
    bits = rows.bits + columns.bits
    dtype = _dtype(bits)
    row_weights = rows.weights.astype(dtype)[:, None]
    column_weights = np.repeat(columns.weights.astype(dtype), channels)
    # Of a picture that is very wide, the columns that nobody looks at are left out at once.
    narrowed = width > WIDE * size[1]
    looked_at = np.concatenate([columns.first, columns.second])
    left, right = (_values(of, channels) for of in (columns.first, columns.second))
    at_once = max(1, VALUES_AT_ONCE // (channels * (len(looked_at) if narrowed else width)))
    found = np.empty((size[0], len(left)), np.uint8)

    def pixels(which: NDArray[np.intp]) -> NDArray[np.uint8]:
        some = image[np.ix_(which, looked_at)] if narrowed else image[which]
        return np.ascontiguousarray(some).reshape(len(which), -1)

    for top in range(0, size[0], at_once):
        part = slice(top, top + at_once)
        sums: NDArray[Any] = pixels(rows.first[part])
        if rows.bits:
            below = pixels(rows.second[part])
            sums = _blend(sums, below, row_weights[part], rows.bits, dtype)
        if narrowed:
            one, other = np.split(sums, 2, axis=1)
        else:
            one = sums.take(left, axis=1, mode="clip")
            other = sums.take(right, axis=1, mode="clip") if columns.bits else one
        sums = _blend(one, other, column_weights, columns.bits, dtype) if columns.bits else one
        found[part] = (sums + dtype(1 << (bits - 1))) >> bits if bits else sums
    return found.reshape(*size, channels)


@dataclass(frozen=True)
class _Axis:
    """Per place of the result, int [new], the two pixels it lies between, and the weight of the
    ``second``; that of the ``first`` is what is left to ``2**bits``."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weights: NDArray[np.int32]
    bits: int
    """Binary places of the weights, of 11 those that one of them needs: 0 where all are zero, 1
    where all are a half."""


def _axis(old: int, new: int) -> _Axis:
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = np.floor(at).astype(np.intp)
    weights = np.rint((at - first) * ONE).astype(np.int32)
    used = ONE | int(np.bitwise_or.reduce(weights))
    spare = (used & -used).bit_length() - 1
    return _Axis(first, np.minimum(first + 1, old - 1), weights >> spare, BITS - spare)


def _dtype(bits: int) -> type[np.uint8 | np.uint16 | np.int32]:
    """The narrowest numbers in which no sum of 8-bit values is cut off, whose weights add up to
    ``2**bits``, and half of that for rounding."""
    if bits == 0:
        return np.uint8
    return np.uint16 if bits <= 8 else np.int32


def _values(pixels: NDArray[np.intp], channels: int) -> NDArray[np.intp]:
    """Where in a row of values those of these pixels are."""
    return np.asarray((pixels[:, None] * channels + np.arange(channels)).ravel())


def _blend(
    first: NDArray[Any], second: NDArray[Any], weights: NDArray[Any], bits: int, dtype: Any
) -> NDArray[Any]:
    """``first * (2**bits - weights) + second * weights``, in numbers of ``dtype``."""
    if bits == 1 and (weights == 1).all():
        return np.add(first, second, dtype=dtype)
    found = np.multiply(first, (1 << bits) - weights, dtype=dtype)
    found += np.multiply(second, weights, dtype=dtype)
    return found
