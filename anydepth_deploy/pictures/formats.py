"""The formats of pictures that are read, and how their files are called.

Pillow knows dozens of others, which nobody asks for here. Some of them do more than decode: of EPS,
it starts another program.
"""

from __future__ import annotations

__all__ = ["FORMATS", "SUFFIXES"]

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm",),
}
"""By Pillow's names the suffixes of each; what a file is called does not decide what it is."""

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
