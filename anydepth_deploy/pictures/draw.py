"""Draw boxes on pictures: results that people would rather look at."""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.errors import shown

__all__ = ["draw_detections", "enlargement", "side_by_side"]

SMALLEST_DRAWING = 640
"""Small pictures are enlarged to about this many pixels before captions are put on them."""

LARGEST_LETTERS = 1000
"""Pixels; fonts refuse what the longest pictures would ask for."""

CAPTION = 60
"""Letters of a class's name at most: more would cover the picture."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

LACKING = "\U0010ffff"
"""No font has a letter of this number: Unicode gives it to none."""

GOLDEN_ANGLE = 0.61803398875


def enlargement(picture: NDArray[np.uint8]) -> int:
    """How many times larger ``picture``, uint8 [H, W, 3], is to be drawn so that captions fit."""
    longest: int = max(picture.shape[:2])
    return max(1, SMALLEST_DRAWING // longest)


def draw_detections(
    picture: NDArray[np.uint8], found: Detections, classes: Sequence[str], *, enlarge: int = 1
) -> Image.Image:
    """``picture`` (RGB uint8 [H, W, 3]) with the boxes of ``found`` (one image, in picture
    pixels), their class names and scores; ``enlarge`` repeats each pixel first. Places that hold no
    detection are left out. A class whose name the font cannot draw is captioned without accents, or
    by its number."""
    image = Image.fromarray(picture)
    if enlarge > 1:
        size = (image.width * enlarge, image.height * enlarge)
        image = image.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    side = max(image.size)
    font = ImageFont.load_default(size=min(max(11, side // 50), LARGEST_LETTERS))
    line = max(1, min(side // 320, min(image.size) // 8))  # each pixel of it is drawn by itself
    names: dict[np.int64, str] = {}
    for label, box, score in sorted(
        zip(found.labels[0], found.boxes[0] * enlarge, found.scores[0], strict=True),
        key=lambda item: float(item[2]),
    ):
        if label == NOTHING:
            continue
        colour = class_colour(int(label))
        corners = [float(value) for value in box]
        draw.rectangle(corners, outline=colour, width=line)
        if label not in names:
            names[label] = _drawable(classes[int(label)], int(label), font)
        _caption(draw, image, corners, f"{names[label]} {score:.2f}", colour, font)
    return image


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


def _drawable(name: str, label: int, font: Font) -> str:
    """``name`` as far as ``font`` has its letters, or without accents, or the class's number."""
    letters = unicodedata.normalize("NFKD", name)
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    for text in (name, bare):
        if len(text) > CAPTION:
            text = text[: CAPTION - 3] + "..."
        if text.strip() and all(_has(font, letter) for letter in text):
            return text
    return f"class {label}"


def _has(font: Font, letter: str) -> bool:
    """Whether ``font`` draws ``letter``, and not the box that stands for what it lacks."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return letter.isprintable() and ord(letter) < 256  # Pillow's own, of Latin-1
    if letter == " ":
        return True
    return letter.isprintable() and _shape(font, letter) != _shape(font, LACKING)


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[object, bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


def _caption(
    draw: ImageDraw.ImageDraw,
    image: Image.Image,
    corners: Sequence[float],
    text: str,
    colour: tuple[int, int, int],
    font: Font,
) -> None:
    """The caption sits on the box's upper edge, or inside where there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, corners[0]), image.width - width)
    y = corners[1] - height if corners[1] >= height else corners[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    dark = sum(colour) > 3 * 128
    draw.text((x + 2 - left, y + 2 - top), text, fill="black" if dark else "white", font=font)
