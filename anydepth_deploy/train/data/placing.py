"""Where a picture lies on the canvas that a network sees: one resampling, whatever is done to it.

Cutting out, zooming out, scaling, moving and putting pictures together all give the whole picture
a rectangle on the canvas, which may reach beyond it. So they are composed in numbers, and pixels
are resampled once, by Pillow: a network's own resizing averages where a picture shrinks, which
kornia's warps do not, and needs no floating-point copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.pictures.resize import resize_averaging, resize_bilinear

__all__ = ["Place", "Rect", "kept_objects", "paint", "place_window"]

Rect = tuple[float, float, float, float]
"""Left, top, right, bottom."""

Image8 = NDArray[np.uint8]

Boxes = NDArray[np.float64]

Part = tuple[slice, slice]
"""Rows and columns of a canvas."""


@dataclass(frozen=True)
class Place:
    """Where the whole picture lies on the canvas, ``rect``, and the part of the canvas in which it
    shows, ``clip``, both in pixels of the canvas."""

    rect: Rect
    clip: Rect

    def scaled(self, about: tuple[float, float], factor: float, move: tuple[float, float]) -> Place:
        """The place after everything on the canvas was scaled about a point, and then moved."""

        def moved(rect: Rect) -> Rect:
            x, y = about
            left, top, right, bottom = rect
            return (
                x + (left - x) * factor + move[0],
                y + (top - y) * factor + move[1],
                x + (right - x) * factor + move[0],
                y + (bottom - y) * factor + move[1],
            )

        return Place(moved(self.rect), moved(self.clip))

    def whole(self) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
        """``rect`` and ``clip`` in whole pixels, at least one wide and high. Boxes follow these,
        so that nothing is lost by rounding."""
        return _rounded(self.rect), _rounded(self.clip)


def place_window(window: Rect, size: tuple[int, int], recipe: Preprocess) -> Place:
    """The place of a picture of ``size`` (height, width), of which ``window`` (in its pixels, and
    maybe beyond it) is resized as ``recipe`` resizes pictures."""
    left, top, right, bottom = window
    wide, tall = right - left, bottom - top
    rows_at, columns_at, rows, columns = recipe.placed(round(tall) or 1, round(wide) or 1)
    across, down = columns / wide, rows / tall
    rect = (
        columns_at - left * across,
        rows_at - top * down,
        columns_at + (size[1] - left) * across,
        rows_at + (size[0] - top) * down,
    )
    clip = (float(columns_at), float(rows_at), float(columns_at + columns), float(rows_at + rows))
    return Place(rect, clip)


def paint(canvas: Image8, image: Image8, place: Place, *, antialias: bool) -> Part:
    """Draw a picture uint8 [h, w, 3] on a canvas uint8 [H, W, 3]; the rows and columns that it
    took, which may be none.

    ``antialias``: as in :class:`~anydepth_deploy.pictures.images.Preprocess`; a picture that shows
    as a whole is resized exactly as it is there.
    """
    rect, clip = place.whole()
    shown = _shown(rect, clip, canvas)
    left, top, right, bottom = shown
    if right <= left or bottom <= top:
        return slice(0), slice(0)
    part = slice(top, bottom), slice(left, right)
    size = (bottom - top, right - left)
    if shown == rect:
        if size == image.shape[:2]:
            canvas[part] = image
        else:
            canvas[part] = (resize_averaging if antialias else resize_bilinear)(image, size)
        return part
    across = image.shape[1] / (rect[2] - rect[0])
    down = image.shape[0] / (rect[3] - rect[1])
    source = (
        max(0.0, (left - rect[0]) * across),
        max(0.0, (top - rect[1]) * down),
        min(float(image.shape[1]), (right - rect[0]) * across),
        min(float(image.shape[0]), (bottom - rect[1]) * down),
    )
    whole = Image.fromarray(image)
    if antialias:
        found = whole.resize(size[::-1], Image.Resampling.BILINEAR, box=source)
    else:
        found = whole.transform(
            size[::-1], Image.Transform.EXTENT, source, Image.Resampling.BILINEAR
        )
    canvas[part] = np.asarray(found)
    return part


def kept_objects(
    boxes: Boxes,
    size: tuple[int, int],
    place: Place,
    canvas: tuple[int, int],
    *,
    least_left: float,
    centre_stays: bool,
) -> tuple[Boxes, NDArray[np.bool_]]:
    """Boxes [n, 4] (x1, y1, x2, y2) of a picture of ``size`` on a canvas (height, width), clipped
    to what shows; and which are kept, bool [n]: those of whose area at least ``least_left`` shows,
    no side below a pixel, and with ``centre_stays`` the centre as well. Where a box is whole, it
    stays however small it is."""
    rect, clip = place.whole()
    scale = np.array([(rect[2] - rect[0]) / size[1], (rect[3] - rect[1]) / size[0]])
    moved = boxes * np.tile(scale, 2) + np.array([rect[0], rect[1]] * 2)
    left, top, right, bottom = _shown(rect, clip, np.empty((*canvas, 0)))
    low, high = np.array([left, top], np.float64), np.array([right, bottom], np.float64)
    found = np.clip(moved, np.tile(low, 2), np.tile(np.maximum(low, high), 2))
    before = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
    sides = found[:, 2:] - found[:, :2]
    kept = (np.prod(sides, axis=1) >= least_left * before) & np.all(sides >= 1, axis=1)
    if centre_stays:
        centres = (moved[:, :2] + moved[:, 2:]) / 2
        kept &= np.all((centres >= low) & (centres < high), axis=1)
    untouched = np.all(np.abs(found - moved) < 1e-6, axis=1) & np.all(sides > 0, axis=1)
    return found, kept | untouched


def _shown(
    rect: tuple[int, int, int, int], clip: tuple[int, int, int, int], canvas: NDArray[np.generic]
) -> tuple[int, int, int, int]:
    """What of ``rect`` is seen."""
    height, width = canvas.shape[:2]
    return (
        max(rect[0], clip[0], 0),
        max(rect[1], clip[1], 0),
        min(rect[2], clip[2], width),
        min(rect[3], clip[3], height),
    )


def _rounded(rect: Rect) -> tuple[int, int, int, int]:
    left, top = round(rect[0]), round(rect[1])
    return left, top, max(left + 1, round(rect[2])), max(top + 1, round(rect[3]))
