"""Pictures whose files say which way up they are, and what viewers make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["EDGES", "save_marked", "shown"]

EDGES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""Where the stored row 0 and the stored column 0 belong, as TIFF 6.0 words it."""


def shown(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """What viewers show of stored pixels [H, W, ...], pixel by pixel."""
    rows, columns = stored.shape[:2]
    first_row, first_column = EDGES[orientation]
    lying = first_row in ("left", "right")
    height, width = (columns, rows) if lying else (rows, columns)
    found = np.empty((height, width, *stored.shape[2:]), stored.dtype)
    for row in range(rows):
        for column in range(columns):
            place = {
                first_row: row if first_row in ("top", "left") else rows - 1 - row,
                first_column: column if first_column in ("top", "left") else columns - 1 - column,
            }
            y = place.get("top", place.get("bottom"))
            x = place.get("left", place.get("right"))
            found[y, x] = stored[row, column]
    return found


def save_marked(
    path: Path, stored: NDArray[np.uint8], orientation: int | None, **options: Any
) -> Path:
    """Write stored pixels with this orientation in EXIF; None: without any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    if path.suffix == ".webp":
        options["lossless"] = True
    Image.fromarray(stored).save(path, **options)
    return path
