"""Which way up a picture is stored, and how it is turned as viewers turn it.

EXIF numbers the eight ways (tag 0x0112, "Orientation", TIFF 6.0 and EXIF 2.3): 1 is upright, 5 to 8
exchange rows and columns. A PNG or WebP carries the same tag, and XMP repeats it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from anydepth_deploy.pictures.decoder import keep_orientation_alone, marked_orientation

__all__ = ["Header", "Orientation", "decoded", "header_of"]

Orientation = Literal["upright", "stored"]
"""Turned as the file says, or as its pixels are stored."""

TAG = 0x0112

BACK = {6: 8, 8: 6}
"""Orientations whose turn another one takes back; the others take their own back."""

ROWS_AT_ONCE = 2**18
"""About how many pixels are converted at once."""

DESCRIBING = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
"""Chunks of a PNG that may hold the tag."""


@dataclass(frozen=True)
class Header:
    """What a picture's file says before its pixels are decoded.

    ``stored``: height and width of the stored pixels. ``orientation``: 1 to 8, as EXIF counts; 1
    where the file says nothing.
    """

    stored: tuple[int, int]
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the picture as viewers show it."""
        height, width = self.stored
        return (width, height) if self.orientation >= 5 else (height, width)


def header_of(image: Image.Image, path: str | Path) -> Header:
    """The header of the picture ``image``, just opened from ``path``."""
    if image.format == "PNG" and _describes_late(Path(path)):
        image.load()
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow gives the size of stored or of turned pixels, depending on its version.
        width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
    return Header((height, width), _orientation(image))


def decoded(image: Image.Image, *, upright: bool) -> NDArray[np.uint8]:
    """The pixels of ``image``, just opened, in RGB, uint8 [H, W, 3]: upright, or as stored.

    Beside what Pillow decodes there is one copy, the result: it is filled by a few rows at a time,
    which are converted and turned on the way.
    """
    turn = _load(image, upright=upright)
    width, height = image.size
    found = np.empty((width, height, 3) if turn >= 5 else (height, width, 3), np.uint8)
    stored = _turned_back(found, turn)
    rows = max(1, ROWS_AT_ONCE // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        part = image if bottom - top == height else image.crop((0, top, width, bottom))
        stored[top:bottom] = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
    return found


def _load(image: Image.Image, *, upright: bool) -> int:
    """Decode ``image``; the orientation by which its pixels are then to be turned."""
    keep_orientation_alone(image)
    tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    marked = _orientation(image) if tiff else 1
    image.load()
    left = _orientation(image)
    if tiff and marked != left:  # Pillow turns TIFFs by itself, and takes the mark away
        return 1 if upright else BACK.get(marked, marked)
    return left if upright else 1


def _turned_back(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of a picture [H, W, 3] as its pixels are stored."""
    stored = upright.transpose(1, 0, 2) if orientation >= 5 else upright
    if orientation in (3, 4, 6, 7):
        stored = stored[::-1]
    if orientation in (2, 3, 7, 8):
        stored = stored[:, ::-1]
    return stored


def _orientation(image: Image.Image) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        try:
            found = image.getexif().get(TAG)
        except Exception:  # whatever is wrong with the rest of what a picture says of itself
            return 1
    else:
        found = marked_orientation(image.info)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _describes_late(path: Path) -> bool:
    """Whether a PNG has chunks after its pixels that may hold the tag."""
    late = False
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                return False
            if late and kind in DESCRIBING:
                return True
            late = late or kind == b"IDAT"
            file.seek(length + 4, 1)
    return False
