"""What pictures can be given as: files, folders, patterns, addresses, videos, cameras, streams,
pictures in memory, and lists or iterators of all that."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anydepth_deploy.detector.arrays import is_tensor
from anydepth_deploy.detector.frames import AnyItem, VideoItem
from anydepth_deploy.detector.items import (
    EncodedPicture,
    FilePicture,
    MemoryPicture,
    NumberedItem,
    UrlPicture,
)
from anydepth_deploy.errors import ImageError, UsageError, shorten
from anydepth_deploy.pictures.drawings import DRAWING, DRAWN_VIDEO, without_drawings
from anydepth_deploy.pictures.folders import SUFFIXES, contents_of, is_file, is_folder, is_picture
from anydepth_deploy.videos.names import (
    camera_number,
    is_live_address,
    is_video_name,
    without_login,
)
from anydepth_deploy.videos.reader import READING, VideoSource, camera_device, require_video

__all__ = ["Skipped", "Skips", "items_of"]

log = logging.getLogger("anydepth_deploy")

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
"""How an address begins; one letter is a drive of Windows."""

PATTERN = frozenset("*?[")

ITEMS = (EncodedPicture, FilePicture, MemoryPicture, NumberedItem, UrlPicture, VideoItem)
"""What is an item already."""

EXPECTED = (
    "a path, a folder, a pattern, an address, the number of a camera, a picture of Pillow, an "
    "array, a tensor, or a list or an iterator of these"
)


@dataclass(frozen=True)
class Skipped:
    """A picture of a folder that could not be used, and why, in one line."""

    image: str
    error: str


class Skips:
    """Takes what is skipped: into the list of the caller, or else into the log of this package."""

    def __init__(self, into: list[Skipped] | None) -> None:
        self._into = into

    def add(self, image: str, error: str) -> None:
        if self._into is None:
            log.warning("skipped: %s", error)
        else:
            self._into.append(Skipped(image, error))


def items_of(source: Any, skips: Skips) -> Sequence[AnyItem] | Iterator[AnyItem]:
    """The pictures and videos of ``source``, in order: a sequence, or an iterator where ``source``
    is one, or anything else whose end is not known.

    Folders and patterns are looked through now, pictures are read when they are asked for. Raises
    :class:`ImageError` for a source without a picture, and :class:`UsageError` for what is none.
    """
    if isinstance(source, ITEMS):
        return [source]
    if isinstance(source, str):
        return _named(source, skips)
    if isinstance(source, os.PathLike):
        return _path(Path(os.fsdecode(source)), skips)
    if isinstance(source, Image.Image | np.ndarray):
        return [MemoryPicture(source)]
    if isinstance(source, int | np.integer) and not isinstance(source, bool):
        return [_camera(int(source), str(source))]
    if is_tensor(source):
        return _tensor(source)
    if isinstance(source, list | tuple):
        if not source:
            raise ImageError(f"a list without a picture: expected {EXPECTED}")
        parts = [items_of(part, skips) for part in source]
        if all(isinstance(part, Sequence) for part in parts):
            return [item for part in parts for item in part]
        return itertools.chain.from_iterable(parts)
    if not isinstance(source, Iterable) or isinstance(
        source, bytes | bytearray | memoryview | Mapping | AbstractSet
    ):
        raise UsageError(f"no picture is of type {type(source).__name__}: expected {EXPECTED}")
    return _lazily(source, skips)


def _lazily(source: Iterable[Any], skips: Skips) -> Iterator[AnyItem]:
    for part in source:
        yield from items_of(part, skips)


def _named(text: str, skips: Skips) -> Sequence[AnyItem]:
    if not text:
        raise UsageError(f"an empty text names no picture: expected {EXPECTED}")
    scheme = SCHEME.match(text)
    if scheme is None:
        return _path(Path(text), skips)
    word = scheme[1].lower()
    if is_live_address(word, text):
        return [_frames_of(VideoSource(text, without_login(text), live=True))]
    if word in ("http", "https"):
        if is_video_name(urllib.parse.urlsplit(text).path):
            return [_frames_of(VideoSource(text, without_login(text)))]
        return [UrlPicture(text)]
    raise UsageError(
        f"{shorten([text])} is an address of the kind {word}: expected http, https, rtsp or "
        "another kind of stream, or a path"
    )


def _camera(number: int, name: str) -> VideoItem:
    if number < 0:
        raise UsageError(f"no camera has the number {number}: expected 0 or more, or /dev/videoN")
    source = VideoSource(name, name, live=True, camera=number)
    camera_device(source)
    return _frames_of(source)


def _video(path: Path, *, found: bool = False) -> VideoItem:
    return _frames_of(VideoSource(str(path), str(path)), found)


def _frames_of(source: VideoSource, found: bool = False) -> VideoItem:
    require_video(READING)  # rather than when it is its turn
    return VideoItem(source, found)


def _path(path: Path, skips: Skips) -> Sequence[AnyItem]:
    number = camera_number(str(path))
    if number is not None and not is_file(path) and not is_folder(path):
        return [_camera(number, str(path))]
    if is_video_name(path.name) and is_file(path):
        return [_video(path)]
    if is_folder(path):
        contents = contents_of(path, partial=True)
        for folder, error in contents.closed:
            skips.add(str(folder), error)
        pictures = without_drawings(path, contents.pictures)
        return [FilePicture(str(item), found=True) for item in pictures]
    if not is_file(path) and PATTERN & {*str(path)}:
        return _matching(str(path))
    return [FilePicture(str(item)) for item in contents_of(path).pictures]


def _matching(pattern: str) -> Sequence[AnyItem]:
    """The pictures whose paths are like ``pattern``, as a shell has it (``**``: folders below), or
    the videos, where it ends as they do (``*.mp4``)."""
    try:
        # Of pathlib's own patterns, those that begin at a root are none.
        matches = sorted(map(Path, {*glob.glob(pattern, recursive=True)}))  # noqa: PTH207
    except ValueError:  # no file has such a name
        matches = []
    if is_video_name(pattern):
        videos = [path for path in matches if is_video_name(path.name) and is_file(path)]
        if DRAWN_VIDEO not in pattern:
            videos = [path for path in videos if DRAWN_VIDEO not in path.name.lower()]
        if videos:
            return [_video(path, found=True) for path in videos]
    found = [path for path in matches if is_picture(path)]
    if DRAWING not in pattern:
        found = [path for path in found if not path.name.lower().endswith(DRAWING)]
    if not found:
        kinds = sorted({path.suffix.lower() or "no suffix" for path in matches})
        what = f"no picture among its {len(matches)} files ({shorten(kinds)})"
        raise ImageError(
            f"the pattern {pattern} finds {what if matches else 'nothing'}: "
            f"expected {', '.join(sorted(SUFFIXES))}"
        )
    return [FilePicture(str(path), found=True) for path in found]


def _tensor(tensor: Any) -> Sequence[AnyItem]:
    """One picture, or N."""
    if len(tensor.shape) != 4:
        return [MemoryPicture(tensor)]
    if not int(tensor.shape[0]):
        raise ImageError(f"a tensor {[*map(int, tensor.shape)]} holds no picture")
    return [MemoryPicture(tensor, index) for index in range(int(tensor.shape[0]))]
