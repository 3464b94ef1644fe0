"""Pillow's decoders, kept from saying and doing more than a picture needs.

Their warnings are about what is not looked at here (tags, animations, palettes), and a tag of an
odd type anywhere in a picture's EXIF data is no reason to refuse its pixels.
"""

from __future__ import annotations

import contextlib
import logging
import re
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.budget import check_picture
from anydepth_deploy.pictures.formats import FORMATS, SUFFIXES

__all__ = [
    "keep_orientation_alone",
    "marked_orientation",
    "open_picture",
    "opened",
    "pillow_silent",
    "reason",
]

ORIENTATION = 0x0112
"""The number of the tag in EXIF data that says how a picture is to be turned, 1 to 8."""

INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i"}
"""Types of values that can be an orientation; it is to be the first of them."""


class _Silence:
    """Neither warnings nor log records of Pillow's modules are shown while anyone is inside.

    ``warnings.catch_warnings`` would put back all filters as they were, those that another thread
    has changed meanwhile included: here one filter comes and goes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters: Any = None
        self._filter: Any = None
        # Without any handler, Python prints errors that a library logs.
        self._handler = logging.NullHandler()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                # A pattern that nobody else writes, or theirs would go with ours.
                warnings.filterwarnings("ignore", module=r"(?:PIL)\.")
                self._filters = warnings.filters
                self._filter = self._filters[0]
                logging.getLogger("PIL").addHandler(self._handler)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                # The list may be another one by now, and the old one come back.
                lists: list[Any] = [self._filters, warnings.filters]
                for filters in lists:
                    with contextlib.suppress(ValueError):
                        filters.remove(self._filter)
                logging.getLogger("PIL").removeHandler(self._handler)


_SILENCE = _Silence()


@contextlib.contextmanager
def pillow_silent() -> Iterator[None]:
    """Pillow's modules warn of nothing and print nothing. A decorator as well, for any number of
    threads; filters of warnings that others have set stay as they are."""
    with _SILENCE:
        yield


@contextlib.contextmanager
def opened(source: str | Path | BinaryIO, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """The picture in a file, or in the bytes of one, opened; what is wrong with it while it is open
    is an :class:`ImageError`. ``name``: for messages, ``picture a.jpg``."""
    try:
        with pillow_silent(), open_picture(source) as image:
            check_picture(image.height, image.width, max_pixels, name)
            yield image
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not a picture of a kind that is read; "
            f"expected one of {', '.join(sorted(SUFFIXES))}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} cannot be read: {reason(error)} This limit is Pillow's own: raise "
            "PIL.Image.MAX_IMAGE_PIXELS as well"
        ) from None
    except ImageError:
        raise
    except Exception as error:  # whatever a decoder raises
        raise ImageError(f"{name} cannot be read: {reason(error)}") from None


def open_picture(source: str | Path | BinaryIO) -> Image.Image:
    """A picture of one of :data:`FORMATS`, of which no more than the header is read; whatever its
    size, which is for the caller to judge.

    Pillow judges by a limit of the whole process, which is not ours to change. Where it refuses,
    the format's own reader is asked.
    """
    try:
        return Image.open(source, formats=tuple(FORMATS))
    except Image.DecompressionBombError:
        beginning = _beginning(source)
        path = source if isinstance(source, str | Path) else ""
        for name in FORMATS:
            reader, accept = Image.OPEN[name]
            if accept is not None and accept(beginning) is True:
                return reader(source, path)  # type: ignore[arg-type]  # it opens files, too
        raise


def _beginning(source: str | Path | BinaryIO) -> bytes:
    """The first bytes; what is open stands at its begin afterwards."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return file.read(16)
    source.seek(0)
    found = source.read(16)
    source.seek(0)
    return found


def keep_orientation_alone(image: Image.Image) -> None:
    """Forget all tags of a TIFF file but its orientation, before it is decoded.

    Its tags are its EXIF data; at the end of decoding, Pillow reads groups of them that nobody asks
    for here.
    """
    if image.format != "TIFF":
        return
    with contextlib.suppress(Exception):  # whatever parsing raises: there is no orientation then
        tags = image.getexif()
        for tag in [tag for tag in tags if tag != ORIENTATION]:
            del tags[tag]


def marked_orientation(info: Mapping[Any, Any]) -> int | None:
    """What a picture's EXIF or XMP data (``Image.info``) say; None where they say nothing.

    Only the orientation is read, whatever other tags there are and however they are damaged; a
    value that is none is as good as none.
    """
    exif = info.get("exif")
    if exif is None and isinstance(text := info.get("Raw profile type exif"), str):
        with contextlib.suppress(ValueError):  # three lines of heading, then digits
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
    found = _exif_orientation(exif) if isinstance(exif, bytes) else None
    if found is None:
        xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
        text = xmp.decode("latin-1") if isinstance(xmp, bytes) else str(xmp)
        written = re.search(r"""tiff:Orientation(?:\s*=\s*["']|>)\s*([0-9])\b""", text, re.ASCII)
        found = None if written is None else int(written[1])
    return found


def _exif_orientation(data: bytes) -> int | None:
    """The first orientation in the first directory of EXIF data, which are laid out as TIFF: the
    byte order, 42, where the directory is; there how many entries, and 12 bytes for each: tag,
    type, how many values, and the values where they fit in 4 bytes."""
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    with contextlib.suppress(struct.error):  # it ends before
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, place)
        for start in range(place + 2, place + 2 + 12 * count, 12):
            tag, code, values = struct.unpack_from(f"{order}HHI", data, start)
            if tag == ORIENTATION:
                form = INTEGERS.get(code)
                if form is None or not 1 <= values <= 4 // struct.calcsize(form):
                    return None
                return int(struct.unpack_from(order + form, data, start + 8)[0])
    return None


def reason(error: Exception) -> str:
    """What a decoder raised, in one line: some raise errors that say nothing by themselves."""
    line = " ".join(str(error).split())[:300]
    if isinstance(error, (OSError, SyntaxError, ValueError, Image.DecompressionBombError)) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
