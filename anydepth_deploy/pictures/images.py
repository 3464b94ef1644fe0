"""Pictures in, network input out; and boxes back to the picture.

The recipe is data (:class:`Preprocess`, stored in the manifest), so that C++ and Triton can repeat
it exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.budget import (
    MAX_PIXELS,
    averaging_pixels,
    check_picture,
    check_resizing,
    sampling_pixels,
)
from anydepth_deploy.pictures.decoder import opened
from anydepth_deploy.pictures.folders import find_images
from anydepth_deploy.pictures.formats import SUFFIXES
from anydepth_deploy.pictures.orientation import Header, decoded, header_of
from anydepth_deploy.pictures.resize import resize_averaging, resize_bilinear

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Geometry",
    "Preprocess",
    "Resize",
    "check_bits",
    "decode_image",
    "find_images",
    "load_image",
    "prepare",
    "prepare_batch",
    "read_header",
]


MOST_SIDE = 16384
MOST_PIXELS = 1 << 26
"""Of the network's input; limits the memory that a made-up recipe can cost."""


def _factor(value: float) -> float:
    """A factor or a divisor that float32 can hold, and whose reciprocal it can hold, too."""
    if not 1e-6 <= value <= 1e6:
        raise ValueError("Input should be from 0.000001 to 1000000")
    return value


def _offset(value: float) -> float:
    if not -1e6 <= value <= 1e6:
        raise ValueError("Input should be from -1000000 to 1000000")
    return value


Resize = Literal["stretch", "letterbox"]
"""How a picture meets the input: filling it whatever its shape, or keeping its own."""

Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
Factor = Annotated[float, AfterValidator(_factor)]
Offset = Annotated[float, AfterValidator(_offset)]


GREY = 114
"""Around letterboxed pictures, unless said otherwise."""

VALUES_AT_ONCE = 2**17
"""About how many values of a channel are normalised at once."""


class Preprocess(BaseModel):
    """How a picture becomes the input of the network, step by step.

    1. decode to 8-bit ``channels``; 2. ``resize``: ``stretch`` to width x height, ignoring the
    aspect ratio, or ``letterbox``: keep it, centre the picture and fill the rest with the grey
    ``padding``; in 8 bits, ``interpolation`` by Pillow where ``antialias`` is set, along rows and
    then along columns, else by :func:`anydepth_deploy.pictures.resize.resize_bilinear`; 3. multiply
    by ``scale``; 4. subtract ``mean``, divide by ``std`` per channel; 5. ``layout``.
    """

    # Strict, as in C++; lists are tuples of JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: Annotated[tuple[Side, Side], Field(strict=False)]
    """Height and width in pixels."""
    resize: Resize = "stretch"
    interpolation: Literal["bilinear"] = "bilinear"
    antialias: bool = True
    """Whether shrinking averages over all pixels, as Pillow does, or samples, as OpenCV does."""
    padding: int = Field(default=GREY, ge=0, le=255)
    channels: Literal["RGB"] = "RGB"
    scale: Factor = 1.0 / 255.0
    mean: Annotated[tuple[Offset, Offset, Offset], Field(strict=False)] = (0.0, 0.0, 0.0)
    std: Annotated[tuple[Factor, Factor, Factor], Field(strict=False)] = (1.0, 1.0, 1.0)
    layout: Literal["NCHW"] = "NCHW"

    @field_validator("size")
    @classmethod
    def _size_fits(cls, size: tuple[int, int]) -> tuple[int, int]:
        if size[0] * size[1] > MOST_PIXELS:
            raise ValueError(
                f"an input of {size[0]} x {size[1]} has more than {MOST_PIXELS} pixels"
            )
        return size

    @classmethod
    def of(cls, usual: Resize, size: tuple[int, int], resize: Resize | None = None) -> Preprocess:
        """The recipe of networks trained with the ``usual`` kind of resizing: those that letterbox
        did so with OpenCV.

        ``resize``: another kind that was chosen. Pixels are then resampled as in training all the
        same, and a letterbox is filled with what lay around pictures there: grey 114 in YOLOs,
        black in DETRs, which RT-DETR's recipe zooms out of on black.
        """
        chosen = resize or usual
        black = usual == "stretch" and chosen == "letterbox"
        return cls(
            size=size, resize=chosen, antialias=usual == "stretch", padding=0 if black else GREY
        )

    def placed(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Where in the input a picture of this size lies: top, left, height and width."""
        rows, columns = self.size
        if self.resize == "stretch":
            return 0, 0, rows, columns
        ratio = min(rows / height, columns / width)
        tall, wide = max(1, round(height * ratio)), max(1, round(width * ratio))
        return (rows - tall) // 2, (columns - wide) // 2, tall, wide

    def check(
        self, height: int, width: int, max_pixels: int = MAX_PIXELS, name: str = "a picture"
    ) -> None:
        """Raise :class:`ImageError` where a picture of this size, or what resizing it takes on the
        way, is over the budget of ``max_pixels`` pixels."""
        check_picture(height, width, max_pixels, name)
        check_resizing(height, width, self.resizing_pixels(height, width), max_pixels, name)

    def resizing_pixels(self, height: int, width: int) -> int:
        """What resizing a picture of this size takes on the way, in pixels of four bytes."""
        _, _, rows, columns = self.placed(height, width)
        taken = averaging_pixels if self.antialias else sampling_pixels
        return taken((height, width), (rows, columns))


@dataclass(frozen=True)
class Geometry:
    """How a prepared picture maps back: ``picture = (input - offset) * scale`` per axis."""

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]
    """Height and width of the original picture in pixels."""

    def to_picture(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [..., 4] (x1, y1, x2, y2) from input pixels to picture pixels, clipped to it."""
        height, width = self.size
        with np.errstate(all="ignore"):  # whatever the caller has set: boxes may be infinite
            x = (boxes[..., 0::2] - self.offset[0]) * self.scale[0]
            y = (boxes[..., 1::2] - self.offset[1]) * self.scale[1]
        found = np.empty_like(boxes)
        found[..., 0::2] = np.clip(x, 0, width)
        found[..., 1::2] = np.clip(y, 0, height)
        return found


def load_image(
    path: str | Path,
    *,
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
    recipe: Preprocess | None = None,
) -> NDArray[np.uint8]:
    """Decode a picture to RGB, uint8 [H, W, 3]; its file is of one of
    :data:`~anydepth_deploy.pictures.formats.FORMATS`, whatever it is called.

    ``upright``: turned by its EXIF orientation, as viewers show it, else as its pixels are stored.
    ``max_pixels``: a picture whose header says that it has more is refused before it is decoded.
    ``recipe``: what it is going to be prepared by; where that takes more than ``max_pixels``, it is
    refused here, by its name.

    Raises :class:`ImageError`.
    """
    return decode_image(
        path, f"picture {path}", upright=upright, max_pixels=max_pixels, recipe=recipe
    )


def decode_image(
    source: str | Path | BinaryIO,
    name: str,
    *,
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
    recipe: Preprocess | None = None,
) -> NDArray[np.uint8]:
    """:func:`load_image` of a file, or of the bytes of one. ``name``: what it is called in
    messages, ``picture a.jpg``."""
    with opened(source, name, max_pixels) as image:
        check_bits(image.mode, name)
        found = decoded(image, upright=upright)
    if recipe is not None:
        recipe.check(found.shape[0], found.shape[1], max_pixels, name)
    return found


def check_bits(mode: str, name: str) -> None:
    """Raise :class:`ImageError` for one of Pillow's modes of more than 8 bits, whose values it
    would cut off at 255."""
    if mode.startswith(("I", "F")):
        raise ImageError(
            f"{name} has more than 8 bits a channel (mode {mode}): convert it to 8 bits first"
        )


def read_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """The size and orientation of a picture, without decoding it (but for a PNG that is described
    behind its pixels); a picture of more than ``max_pixels`` is refused. Raises
    :class:`ImageError`."""
    with opened(path, f"picture {path}", max_pixels) as image:
        return header_of(image, path)


def prepare(
    image: NDArray[np.uint8], recipe: Preprocess, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.float32], Geometry]:
    """One RGB picture uint8 [H, W, 3] -> float32 [3, h, w] and the way back.

    Raises :class:`ImageError` for an array of another type or shape, and before anything is made of
    a picture where it has, or resizing it takes, more than ``max_pixels``.
    """
    _check(image, recipe, max_pixels)
    found = np.empty((3, *recipe.size), np.float32)
    return found, _prepare_into(found, image, recipe)


def prepare_batch(
    images: Sequence[NDArray[np.uint8]], recipe: Preprocess, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.float32], list[Geometry]]:
    """Pictures of any sizes -> float32 [N, 3, h, w] and each one's way back.

    ``max_pixels``: of each picture, and of what resizing one takes. Raises :class:`ImageError` when
    there is none, and as :func:`prepare` does.
    """
    if not len(images):
        raise ImageError("a batch of no pictures cannot be prepared: give at least one")
    for image in images:
        _check(image, recipe, max_pixels)
    found = np.empty((len(images), 3, *recipe.size), np.float32)
    return found, [
        _prepare_into(part, image, recipe) for part, image in zip(found, images, strict=True)
    ]


def _check(image: NDArray[np.uint8], recipe: Preprocess, max_pixels: int) -> None:
    shape: tuple[int, ...] = getattr(image, "shape", ())
    dtype = getattr(image, "dtype", type(image).__name__)
    if (
        not isinstance(image, np.ndarray)
        or dtype != np.uint8
        or len(shape) != 3
        or shape[2] != 3
        or 0 in shape
    ):
        raise ImageError(f"a picture must be uint8 [H, W, 3] in RGB; found {dtype} {list(shape)}")
    recipe.check(image.shape[0], image.shape[1], max_pixels)


def _prepare_into(
    found: NDArray[np.float32], image: NDArray[np.uint8], recipe: Preprocess
) -> Geometry:
    """Fill ``found``, float32 [3, h, w], with the picture."""
    height, width = image.shape[:2]
    top, left, rows, columns = recipe.placed(height, width)
    if (rows, columns) == (height, width):
        resized = image
    elif recipe.antialias:
        resized = resize_averaging(image, (rows, columns))
    else:
        resized = resize_bilinear(image, (rows, columns))
    if (rows, columns) != recipe.size:
        grey = np.empty((3, 1, 1), np.float32)
        _normalise(grey, np.full((1, 1, 3), recipe.padding, np.uint8), recipe)
        for edge in (found[:, :top], found[:, top + rows :]):
            edge[...] = grey
        for edge in (
            found[:, top : top + rows, :left],
            found[:, top : top + rows, left + columns :],
        ):
            edge[...] = grey
    _normalise(found[:, top : top + rows, left : left + columns], resized, recipe)
    return Geometry((width / columns, height / rows), (float(left), float(top)), (height, width))


def _normalise(found: NDArray[np.float32], pixels: NDArray[np.uint8], recipe: Preprocess) -> None:
    """``(pixels * scale - mean) / std`` of uint8 [h, w, 3], in float32, into ``found`` [3, h, w]:
    step by step, as each rounds, and some rows at a time, so that they stay in the cache."""
    scale, mean, std = (
        np.asarray(of, np.float32) for of in (recipe.scale, recipe.mean, recipe.std)
    )
    plain = not mean.any() and bool((std == 1).all())
    at_once = max(1, VALUES_AT_ONCE // pixels.shape[1])
    for top in range(0, len(pixels), at_once):
        rows = slice(top, top + at_once)
        for channel, plane in enumerate(found):
            part = plane[rows]
            part[...] = pixels[rows, :, channel]
            part *= scale
            if not plain:
                part -= mean[channel]
                part /= std[channel]
