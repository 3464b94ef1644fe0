"""How many pixels a picture may have, and what resizing makes of it on the way.

A file of a few bytes can claim any size, and a tall picture grows before it shrinks. The words are
those of the C++ library.
"""

from __future__ import annotations

from anydepth_deploy.errors import ImageError

__all__ = [
    "MAX_PIXELS",
    "BudgetError",
    "averaging_pixels",
    "check_picture",
    "check_resizing",
    "sampling_pixels",
]

MAX_PIXELS = 2**30 // 4 // 3
"""The budget unless told otherwise: 89,478,485, from which on a picture is suspicious to Pillow."""

WEIGHTS = 4
"""What the weights of a row or column that is averaged over take, in pixels of four bytes: each is
in two windows, and has eight bytes in each."""


class BudgetError(ImageError):
    """A picture that is sound, and too large."""


def check_picture(height: int, width: int, max_pixels: int, name: str = "a picture") -> None:
    """Raise :class:`BudgetError` for a picture of more than ``max_pixels`` pixels."""
    if height * width > max_pixels:
        raise BudgetError(
            f"{name} of {width} x {height} pixels is over the budget of {max_pixels} pixels: "
            "make it smaller, or raise --max-pixels (max_pixels)"
        )


def check_resizing(
    height: int, width: int, pixels: int, max_pixels: int, name: str = "a picture"
) -> None:
    """Raise :class:`BudgetError` where resizing a picture takes ``pixels`` on the way, and that is
    more than ``max_pixels``."""
    if pixels > max_pixels:
        raise BudgetError(
            f"{name} of {width} x {height} pixels takes {pixels} while it is resized, over the "
            f"budget of {max_pixels} pixels: make it smaller, or raise --max-pixels (max_pixels)"
        )


def averaging_pixels(old: tuple[int, int], new: tuple[int, int]) -> int:
    """The most that averaging keeps between a picture of the size ``old`` (height, width) and its
    result of the size ``new``, in pixels: after the pass along rows, or in weights."""
    (height, width), (rows, columns) = old, new
    wide = height * columns if columns != width > 1 else 0
    across = WEIGHTS * width if columns != width > 1 else 0
    along = WEIGHTS * height if rows != height else 0
    return max(wide, across, along)


def sampling_pixels(old: tuple[int, int], new: tuple[int, int]) -> int:
    """The same of sampling: of the rows, two at most are looked at for each of the result."""
    return 0 if old == new else min(old[0], 2 * new[0]) * new[1]
