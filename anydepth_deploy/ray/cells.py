"""Cells of a table as pictures: bytes of files, pixels, paths, addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anydepth_deploy.detector.items import (
    EncodedPicture,
    FilePicture,
    Item,
    MemoryPicture,
    Picture,
    Reading,
    UrlPicture,
)
from anydepth_deploy.errors import ImageError, UsageError, shorten

__all__ = ["NAMING", "PIXELS", "item_of", "picture_column"]

PIXELS = ("bytes", "image")
"""Columns that hold pictures themselves, as Ray Data and data sets on the web call them."""

NAMING = ("path", "url")
"""Columns that say where pictures are."""

ADDRESS = re.compile("https?://", re.IGNORECASE)


@dataclass(frozen=True)
class _NoPicture:
    """A cell that holds none."""

    name: str
    told: str
    found: bool = True

    def had(self, how: Reading) -> Picture:
        raise ImageError(f"{self.name} {self.told}")


def picture_column(names: Sequence[str], chosen: str | None = None) -> str:
    """Which of the columns ``names`` has the pictures: ``chosen``, or the first of the usual ones.

    Raises :class:`UsageError` where it is not there.
    """
    if chosen is not None:
        if chosen not in names:
            raise UsageError(f"there is no column '{chosen}': the table has {shorten(names)}")
        return chosen
    found = next((name for name in (*PIXELS, *NAMING) if name in names), None)
    if found is None:
        raise UsageError(
            f"no column has pictures: the table has {shorten(names)}, expected one of "
            f"{', '.join((*PIXELS, *NAMING))}, or say which with column="
        )
    return found


def item_of(cell: Any, name: str) -> Item:
    """The picture in a cell: the bytes of a file, an array uint8 [H, W, 3], a path, an http or
    https address, or a mapping with ``bytes`` or ``path`` of these, as data sets of Hugging Face
    have it. What is none is told when it is its turn. ``name``: of a picture that has none."""
    if isinstance(cell, Mapping):
        inside = cell.get("bytes")
        return item_of(cell.get("path") if inside is None else inside, cell.get("path") or name)
    if isinstance(cell, bytes | bytearray | memoryview):
        return EncodedPicture(name, bytes(cell), found=True)
    if isinstance(cell, np.ndarray):
        return MemoryPicture(cell, found=True)
    if not isinstance(cell, str) or not cell:
        told = "is empty" if cell is None or cell == "" else f"is of type {type(cell).__name__}"
        return _NoPicture(f"picture {name}", f"{told}: expected bytes, pixels or a path")
    if ADDRESS.match(cell):
        return UrlPicture(cell, found=True)
    return FilePicture(cell, found=True)
