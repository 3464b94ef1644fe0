"""Drawings of what was found: written whole, and never taken for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from anydepth_deploy.documents import refusing, write_atomically, write_new
from anydepth_deploy.errors import ImageError

__all__ = ["DRAWING", "DRAWN_VIDEO", "without_drawings", "write_drawing"]

DRAWING = ".pred.png"
"""What the name of a drawing ends with, unless it was chosen."""

DRAWN_VIDEO = ".pred."
"""What is in the name of a video that was drawn on, before its suffix."""


def without_drawings(folder: Path, pictures: Sequence[Path]) -> list[Path]:
    """Those of the pictures in ``folder`` that are no earlier drawings. Raises :class:`ImageError`
    where there is none."""
    found = [path for path in pictures if not path.name.lower().endswith(DRAWING)]
    if not found:
        raise ImageError(
            f"folder {folder} holds only drawings of earlier runs (*{DRAWING}): expected pictures; "
            "name one of them to use it all the same"
        )
    return found


def write_drawing(drawing: Image.Image, target: Path, *, replace: bool) -> Path:
    """Write ``drawing`` as the kind of file that the suffix of ``target`` says, into it, or, where
    that is there and not to be replaced, into one with a number; returns which.

    Raises :class:`ImageError` where it cannot be written.
    """
    kind = Image.registered_extensions()[target.suffix.lower()]

    def write(file: BinaryIO) -> None:
        try:
            drawing.save(file, format=kind)
        except ValueError as error:
            raise OSError(str(error)) from None

    with refusing(target, "picture", ImageError):
        if not replace:
            return write_new(target, write)
        write_atomically(target, write)
    return target
