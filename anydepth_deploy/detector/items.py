"""One picture of a source: how its pixels are had, and had again for a drawing.

Files are read again; what came from elsewhere is kept, addresses as the bytes that were fetched.
Every item says whether it was ``found``, in a folder or by a pattern, rather than named, and is
then left out where it cannot be used.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.detector.arrays import array_pixels, pillow_pixels, tensor_pixels
from anydepth_deploy.detector.urls import TIMEOUT, fetch
from anydepth_deploy.pictures.images import MAX_PIXELS, Preprocess, decode_image, load_image

__all__ = [
    "EncodedPicture",
    "FetchedPicture",
    "FilePicture",
    "HeldPicture",
    "Item",
    "MemoryPicture",
    "NumberedItem",
    "Picture",
    "Reading",
    "UrlPicture",
]


@dataclass(frozen=True)
class Reading:
    """How pictures are read. ``recipe``: what they are going to be prepared by. ``bgr``: of arrays
    and tensors. ``timeout``: seconds for what is fetched, and for frames to come."""

    recipe: Preprocess
    upright: bool = True
    bgr: bool = False
    max_pixels: int = MAX_PIXELS
    timeout: float = TIMEOUT
    latest: bool = True
    """Of cameras and streams: the newest frame each time, rather than every one."""


class Picture(Protocol):
    """A picture whose pixels can be had as often as anybody asks."""

    @property
    def path(self) -> str | None:
        """Of its file, or its address; of a frame with its number behind it."""
        ...

    @property
    def frame(self) -> int | None:
        """Its number in a video, from 0."""
        ...

    @property
    def time(self) -> float | None:
        """Its time in a video, in seconds."""
        ...

    def pixels(self, how: Reading) -> NDArray[np.uint8]:
        """RGB, uint8 [H, W, 3]. Raises :class:`ImageError`."""
        ...


class Item(Protocol):
    """A picture that has still to be had."""

    @property
    def found(self) -> bool: ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    def had(self, how: Reading) -> Picture:
        """It, with as little in memory as its pixels need. Raises :class:`ImageError`."""
        ...


class _Still:
    """No frame of a video."""

    @property
    def frame(self) -> None:
        return None

    @property
    def time(self) -> None:
        return None


@dataclass(frozen=True)
class FilePicture(_Still):
    path: str
    found: bool = False

    @property
    def name(self) -> str:
        return self.path

    def had(self, how: Reading) -> FilePicture:
        return self

    def pixels(self, how: Reading) -> NDArray[np.uint8]:
        return load_image(
            self.path, upright=how.upright, max_pixels=how.max_pixels, recipe=how.recipe
        )


@dataclass(frozen=True)
class UrlPicture:
    url: str
    found: bool = False

    @property
    def name(self) -> str:
        return self.url

    def had(self, how: Reading) -> FetchedPicture:
        return FetchedPicture(self.url, fetch(self.url, how.max_pixels, how.timeout))


@dataclass(frozen=True)
class FetchedPicture(_Still):
    """The bytes of a file."""

    path: str
    content: bytes = field(repr=False)

    def pixels(self, how: Reading) -> NDArray[np.uint8]:
        return decode_image(
            io.BytesIO(self.content),
            f"picture {self.path}",
            upright=how.upright,
            max_pixels=how.max_pixels,
            recipe=how.recipe,
        )


@dataclass(frozen=True)
class EncodedPicture:
    """The bytes of a file that somebody else has read. ``path``: what it is called."""

    path: str
    content: bytes = field(repr=False)
    found: bool = False

    @property
    def name(self) -> str:
        return self.path

    def had(self, how: Reading) -> FetchedPicture:
        return FetchedPicture(self.path, self.content)


@dataclass(frozen=True)
class NumberedItem:
    """An item of many that may have the same name, or none: what is skipped is known by its
    ``number``, which is its name."""

    number: int
    item: Item
    found: bool = True

    @property
    def name(self) -> str:
        return str(self.number)

    def had(self, how: Reading) -> Picture:
        return self.item.had(how)


@dataclass(frozen=True)
class MemoryPicture:
    """A picture of Pillow, an array, a tensor, or the picture ``index`` of a tensor of several."""

    item: Any = field(repr=False)
    index: int | None = None
    found: bool = False

    @property
    def name(self) -> str:
        return "a picture in memory"

    def had(self, how: Reading) -> HeldPicture:
        if isinstance(self.item, Image.Image):
            found = pillow_pixels(self.item, upright=how.upright, max_pixels=how.max_pixels)
        elif isinstance(self.item, np.ndarray):
            found = array_pixels(self.item, bgr=how.bgr)
        else:
            found = tensor_pixels(self.item, self.index, bgr=how.bgr)
        return HeldPicture(found)


@dataclass(frozen=True)
class HeldPicture(_Still):
    """Pixels: the memory of an array that somebody else has, or a copy."""

    array: NDArray[np.uint8] = field(repr=False)
    path: None = None

    def pixels(self, how: Reading) -> NDArray[np.uint8]:
        return self.array
