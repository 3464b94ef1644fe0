"""What a generated picture is drawn from: outlines, their places, and paint.

Every function draws its randomness from the generator it is given, in a fixed order: a change
here changes all pictures, and with them what a trained checkpoint was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = [
    "CLASS_NAMES",
    "PICTURE_SIZE",
    "PlacedObject",
    "background",
    "degrade",
    "draw_clutter",
    "paint",
    "place_objects",
    "visible",
]

CLASS_NAMES: tuple[str, ...] = (
    "triangle",
    "square",
    "rectangle",
    "pentagon",
    "hexagon",
    "circle",
    "star",
    "cross",
)
PICTURE_SIZE = 160

_MAX_OBJECTS = 8
_SMALLEST, _LARGEST = 12.0, 70.0  # longer side in pixels of a 160-pixel picture
_MAX_OVERLAP = 0.45  # intersection over the smaller of two boxes
_MIN_VISIBLE = 0.35  # share of an object's pixels that later objects must leave uncovered
_OUTSIDE = 0.12  # share of a side that may lie outside the picture
_PLACEMENT_TRIES = 12
_OVERSAMPLING = 4

Points = NDArray[np.float64]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class PlacedObject:
    """A placed object: its outline in pixels, how it is painted, and where it shows."""

    label: int
    outline: Points
    box: NDArray[np.float64]
    border: float  # scale of the inner part painted in a second colour, 0 for none
    corner: tuple[int, int]
    mask: Mask  # alpha inside the window that starts at ``corner``


def _regular(corners: int) -> Points:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _star(inner: float) -> Points:
    radii: Points = np.where(np.arange(10) % 2, inner, 1.0)
    return _regular(10) * radii[:, None]


def _cross(arm: float) -> Points:
    quarter = np.array([[-arm, -1.0], [arm, -1.0], [arm, -arm]])
    turns = [quarter]
    for _ in range(3):
        turns.append(turns[-1] @ np.array([[0.0, 1.0], [-1.0, 0.0]]))
    return np.concatenate(turns)


def _outline(rng: np.random.Generator, label: int) -> Points:
    """Outline of a class around the origin, before rotation; any scale."""
    name = CLASS_NAMES[label]
    if name == "triangle":
        return _regular(3)
    if name == "square":
        return _regular(4)
    if name == "rectangle":
        aspect = rng.uniform(1.5, 2.4)
        return np.array([[-aspect, -1.0], [aspect, -1.0], [aspect, 1.0], [-aspect, 1.0]])
    if name == "pentagon":
        return _regular(5)
    if name == "hexagon":
        return _regular(6)
    if name == "circle":
        return _regular(48)
    if name == "star":
        return _star(rng.uniform(0.42, 0.55))
    return _cross(rng.uniform(0.28, 0.42))


def _rotate(points: Points, angle: float) -> Points:
    cos, sin = math.cos(angle), math.sin(angle)
    turn: Points = np.array([[cos, sin], [-sin, cos]])
    turned: Points = points @ turn
    return turned


def _clip(points: Points, size: int) -> Points:
    """Cut a polygon at the picture's four edges (Sutherland and Hodgman, 1974)."""
    for axis in (0, 1):
        for sign, limit in ((1.0, 0.0), (-1.0, -float(size))):
            inside = sign * points[:, axis] >= limit
            if inside.all():
                continue
            kept: list[Points] = []
            for i in range(len(points)):
                here, there = points[i - 1], points[i]
                if inside[i - 1] != inside[i]:
                    part = (limit * sign - here[axis]) / (there[axis] - here[axis])
                    kept.append(here + part * (there - here))
                if inside[i]:
                    kept.append(there)
            points = np.array(kept).reshape(-1, 2)
    return points


def place_objects(rng: np.random.Generator, size: int) -> list[PlacedObject]:
    scale = size / PICTURE_SIZE
    wanted = int(rng.integers(1, _MAX_OBJECTS + 1))
    crowded = rng.random() < 0.4
    placed: list[PlacedObject] = []
    for _ in range(wanted):
        label = int(rng.integers(len(CLASS_NAMES)))
        outline = _rotate(_outline(rng, label), rng.uniform(0, 2 * math.pi))
        low, high = outline.min(axis=0), outline.max(axis=0)
        side = scale * math.exp(rng.uniform(math.log(_SMALLEST), math.log(_LARGEST)))
        factor = side / (high - low).max()
        outline, extent = (outline - (low + high) / 2) * factor, (high - low) * factor
        for _ in range(_PLACEMENT_TRIES):
            centre = _centre(rng, size, extent, placed if crowded else [])
            box = np.concatenate([centre - extent / 2, centre + extent / 2]).clip(0, size)
            if all(_overlap(box, other.box) <= _MAX_OVERLAP for other in placed):
                placed.append(_object(rng, label, outline + centre, side, size))
                break
    return placed


def _centre(
    rng: np.random.Generator, size: int, extent: Points, crowd: Sequence[PlacedObject]
) -> Points:
    """Where to try an object: anywhere, or close to one that is already there."""
    least = extent * (0.5 - _OUTSIDE)
    if crowd and rng.random() < 0.7:
        other = crowd[int(rng.integers(len(crowd)))].box
        reach = (other[2:] - other[:2] + extent) / 2
        centre = (other[2:] + other[:2]) / 2 + reach * rng.uniform(-1.1, 1.1, 2)
        return np.clip(centre, least, size - least)
    anywhere: Points = rng.uniform(least, size - least)
    return anywhere


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Intersection over the area of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return float(width * height / smaller)


def _object(
    rng: np.random.Generator, label: int, outline: Points, side: float, size: int
) -> PlacedObject:
    clipped = _clip(outline, size)
    # Rounding may leave an intersection a hair outside.
    box = np.concatenate([clipped.min(axis=0), clipped.max(axis=0)]).clip(0, size)
    kind = rng.random()
    stroke = max(2.0, side * rng.uniform(0.08, 0.16))  # pixels; thinner would vanish in noise
    inner = max(0.0, 1.0 - 2.0 * stroke / side)
    hole = inner if kind < 0.3 else 0.0
    border = inner if kind > 0.8 else 0.0
    corner, mask = _mask(outline, hole, size)
    return PlacedObject(label, outline, box, border, corner, mask)


def _mask(outline: Points, hole: float, size: int) -> tuple[tuple[int, int], Mask]:
    """Antialiased alpha of a polygon in the smallest window of whole pixels around it."""
    low = np.floor(outline.min(axis=0)).clip(0, size - 1).astype(int)
    high = np.ceil(outline.max(axis=0)).clip(1, size).astype(int)
    width, height = (int(n) for n in high - low)
    image = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    draw = ImageDraw.Draw(image)
    # Pillow's coordinates name pixel centres, ours pixel edges: half a fine pixel apart.
    centre = (outline.min(axis=0) + outline.max(axis=0)) / 2
    draw.polygon(_flat((outline - low) * _OVERSAMPLING - 0.5), fill=255)
    if hole > 0:
        inside = centre + (outline - centre) * hole
        draw.polygon(_flat((inside - low) * _OVERSAMPLING - 0.5), fill=0)
    return (int(low[0]), int(low[1])), np.asarray(image.reduce(_OVERSAMPLING))


def _flat(points: Points) -> list[float]:
    return [float(value) for value in points.ravel()]


def visible(objects: Sequence[PlacedObject], size: int) -> list[PlacedObject]:
    """Leave out objects that those drawn after them would mostly cover."""
    covered = np.zeros((size, size), dtype=bool)
    kept: list[PlacedObject] = []
    for item in reversed(objects):
        x, y = item.corner
        height, width = item.mask.shape
        window = covered[y : y + height, x : x + width]
        own = item.mask > 127
        if (own & ~window).sum() >= _MIN_VISIBLE * own.sum():
            window |= own
            kept.append(item)
    return kept[::-1]


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def background(rng: np.random.Generator, size: int) -> Image.Image:
    """A smooth coloured field: a few random colours, enlarged; 2 x 2 is a plain gradient."""
    cells = int(rng.integers(2, 7))
    field = rng.uniform(20, 235, 3) + rng.uniform(15, 70) * rng.standard_normal((cells, cells, 3))
    small = Image.fromarray(field.clip(0, 255).astype(np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def draw_clutter(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Lines, specks smaller than any object, and blobs that are none of the classes."""
    size = canvas.width
    scale = size / PICTURE_SIZE
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 3))):
        turns = np.sort(rng.uniform(0, 2 * math.pi, 9))
        radius = scale * rng.uniform(6, 20) * rng.uniform(0.4, 1.0, 9)
        blob = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radius[:, None]
        draw.polygon(_flat(blob + rng.uniform(0, size, 2)), fill=_colour(rng))
    for _ in range(int(rng.integers(2, 9))):
        ends = [float(value) for value in rng.uniform(0, size, 4)]
        draw.line(ends, fill=_colour(rng), width=int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(2, 13))):
        x, y = (float(value) for value in rng.uniform(0, size, 2))
        w, h = (float(value) for value in scale * rng.uniform(1, 4, 2))
        draw.ellipse((x - w, y - h, x + w, y + h), fill=_colour(rng))


def paint(rng: np.random.Generator, canvas: Image.Image, item: PlacedObject) -> None:
    (x, y), (height, width) = item.corner, item.mask.shape
    window = (x, y, x + width, y + height)
    behind = np.asarray(canvas.crop(window)).mean(axis=(0, 1))
    colour = _contrasting(rng, behind)
    canvas.paste(colour, window, Image.fromarray(item.mask))
    if item.border > 0:
        centre = (item.outline.min(axis=0) + item.outline.max(axis=0)) / 2
        inside = centre + (item.outline - centre) * item.border
        corner, mask = _mask(inside, 0.0, canvas.width)
        window = (*corner, corner[0] + mask.shape[1], corner[1] + mask.shape[0])
        canvas.paste(_colour(rng), window, Image.fromarray(mask))


def _contrasting(rng: np.random.Generator, behind: NDArray[np.float64]) -> tuple[int, int, int]:
    """A colour that differs visibly, if not much, from the mean of what lies behind."""
    colour = _colour(rng)
    for _ in range(8):
        if np.abs(np.array(colour) - behind).max() >= 45:
            break
        colour = _colour(rng)
    return colour


def degrade(rng: np.random.Generator, canvas: Image.Image) -> NDArray[np.uint8]:
    """Blur two pictures in five and add noise to all."""
    if rng.random() < 0.4:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))
    pixels = np.asarray(canvas, dtype=np.float32)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    noisy = pixels + np.float32(rng.uniform(2, 16)) * noise
    return np.asarray(np.rint(noisy).clip(0, 255), dtype=np.uint8)
