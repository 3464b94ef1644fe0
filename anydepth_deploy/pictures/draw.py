"""Draw boxes on pictures: results that people would rather look at."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.errors import shown
from anydepth_deploy.pictures.captions import place_captions
from anydepth_deploy.pictures.fonts import CAPTION, Font, Writing

__all__ = ["draw_detections", "enlargement", "side_by_side"]

SMALLEST_DRAWING = 640
"""Small pictures are enlarged to about this many pixels before captions are put on them."""

LARGEST_LETTERS = 1000
"""Pixels; fonts refuse what the longest pictures would ask for."""

MARGIN = 2
"""Pixels between the letters of a caption and its edges."""

GOLDEN_ANGLE = 0.61803398875


def enlargement(picture: NDArray[np.uint8]) -> int:
    """How many times larger ``picture``, uint8 [H, W, 3], is to be drawn so that captions fit."""
    longest: int = max(picture.shape[:2])
    return max(1, SMALLEST_DRAWING // longest)


def draw_detections(
    picture: NDArray[np.uint8],
    found: Detections,
    classes: Sequence[str],
    *,
    enlarge: int = 1,
    font: str | None = None,
) -> Image.Image:
    """``picture`` (RGB uint8 [H, W, 3]) with the boxes of ``found`` (one image, in picture
    pixels), their class names and scores; ``enlarge`` repeats each pixel first. Places that hold no
    detection are left out.

    Captions lie inside the picture and, where there is room, not over each other; those of better
    scores are nearer to their boxes. ``font``: a file, asked before others for the letters of
    names; a class whose letters no font has is captioned without accents, or by its number.
    """
    image = Image.fromarray(picture)
    if enlarge > 1:
        size = (image.width * enlarge, image.height * enlarge)
        image = image.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    side = max(image.size)
    writing = Writing(min(max(11, side // 50), LARGEST_LETTERS), font)
    line = max(1, min(side // 320, min(image.size) // 8))  # each pixel of it is drawn by itself
    names: dict[int, tuple[str, Font]] = {}
    drawn: list[_Labelled] = []
    for label, box, score in sorted(
        zip(found.labels[0].tolist(), found.boxes[0] * enlarge, found.scores[0], strict=True),
        key=lambda item: -float(item[2]),
    ):
        if label == NOTHING:
            continue
        if label not in names:
            names[label] = writing.of(classes[label], label)
        name, letters = names[label]
        corners = [float(value) for value in box]
        text, extent = _fitting(draw, name, f"{score:.2f}", letters, image.width)
        drawn.append(_Labelled(corners, text, letters, extent, class_colour(label)))
    for item in reversed(drawn):  # the best on top
        _outline(draw, item, line)
    places = place_captions(
        [item.corners for item in drawn], [item.size for item in drawn], *image.size
    )
    for item, place in reversed([*zip(drawn, places, strict=True)]):
        _caption(draw, item, place)
    return image


@dataclass(frozen=True)
class _Labelled:
    """A box and its caption. ``extent``: of the text, as Pillow measures it from (0, 0)."""

    corners: list[float]
    text: str
    font: Font
    extent: tuple[int, int, int, int]
    colour: tuple[int, int, int]

    @property
    def size(self) -> tuple[int, int]:
        left, top, right, bottom = self.extent
        return right - left + 2 * MARGIN + 1, bottom - top + 2 * MARGIN + 1


def side_by_side(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Pictures of equal height next to each other, a title over each."""
    font = ImageFont.load_default(size=max(12, images[0].height // 28))
    bar = int(font.getbbox("Ag")[3]) + 8
    gap = 6
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images) + bar), "white")
    draw = ImageDraw.Draw(sheet)
    left = 0
    for image, title in zip(images, titles, strict=True):
        draw.text((left + 4, 4), shown(title, 2 * CAPTION), fill="black", font=font)
        sheet.paste(image, (left, bar))
        left += image.width + gap
    return sheet


def class_colour(label: int) -> tuple[int, int, int]:
    """A colour for a class; neighbours in number are far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb((label * GOLDEN_ANGLE) % 1.0, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _fitting(
    draw: ImageDraw.ImageDraw, name: str, score: str, font: Font, width: int
) -> tuple[str, tuple[int, int, int, int]]:
    """The text of a caption, cut until it is no wider than the picture, and its extent."""
    while True:
        text = f"{name} {score}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        extent = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
        if extent[2] - extent[0] + 2 * MARGIN < width or len(name) <= 1:
            return text, extent
        name = name[: len(name) * 3 // 4]


def _outline(draw: ImageDraw.ImageDraw, item: _Labelled, line: int) -> None:
    """A box in the colour of its class, between thin lines that set it off from any background."""
    x1, y1, x2, y2 = item.corners
    contrast = _contrasting(item.colour)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=contrast)
    if x2 - x1 > 4 * line and y2 - y1 > 4 * line:
        draw.rectangle((x1 + line, y1 + line, x2 - line, y2 - line), outline=contrast)
    draw.rectangle(item.corners, outline=item.colour, width=line)


def _caption(draw: ImageDraw.ImageDraw, item: _Labelled, place: tuple[int, int]) -> None:
    """A caption at ``place``; a line leads to its box where it could not stay beside it."""
    (x, y), (width, height) = place, item.size
    x1, y1, x2, y2 = item.corners
    if x > x2 + 1 or x + width < x1 - 1 or y > y2 + 2 or y + height < y1 - 2:
        start = (x + width / 2, y + height / 2)
        end = (min(max(start[0], x1), x2), min(max(start[1], y1), y2))
        draw.line((*start, *end), fill=item.colour)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=item.colour)
    left, top = x + MARGIN - item.extent[0], y + MARGIN - item.extent[1]
    draw.text((left, top), item.text, fill=_contrasting(item.colour), font=item.font)


def _contrasting(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever is easier to read on ``colour``: its contrast, as WCAG 2 defines it
    (relative luminance of sRGB), is then at least 4.5."""
    linear = [
        value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4
        for value in colour
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"
