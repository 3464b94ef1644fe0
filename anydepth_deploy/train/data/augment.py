"""One training picture: what is drawn for it, and what it then looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.families.shared.augmentation import Augmentation
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.train.data.colours import recolour
from anydepth_deploy.train.data.placing import Boxes, Place, Rect, kept_objects, paint, place_window

__all__ = ["Annotated", "Example", "make_example", "step_size", "step_sizes"]

Annotated = tuple[NDArray[np.uint8], Boxes, NDArray[np.int64]]
"""A picture uint8 [H, W, 3], boxes [n, 4] as x1, y1, x2, y2 in its pixels, labels [n]."""

TRIALS, ROUNDS = 40, 20
"""Windows that are drawn of which the first that suits the objects is taken, and how often."""

OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Of which one is asked of a window: its intersection over union with the object that fits best;
with the last, nothing is cut."""

ASPECTS = (0.5, 2.0)
"""Width over height that a window may have."""


@dataclass(frozen=True)
class Example:
    """What a network is trained on: ``image`` uint8 [H, W, 3]; ``boxes`` float32 [n, 4] as cx, cy,
    w, h in shares of it; ``labels`` int64 [n]."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def step_sizes(size: tuple[int, int], shares: tuple[float, float]) -> list[tuple[int, int]]:
    """Heights and widths that a step's pictures may have, the smallest first: ``size`` times a
    share within ``shares``, heights being multiples of 32, widths in proportion."""
    least, most = -(-int(size[0] * shares[0]) // 32), int(size[0] * shares[1]) // 32
    if shares == (1.0, 1.0) or most < max(1, least):
        return [size]
    heights = [32 * number for number in range(max(1, least), most + 1)]
    return [(height, max(32, 32 * round(size[1] * height / size[0] / 32))) for height in heights]


def step_size(sizes: Sequence[tuple[int, int]], randomness: np.random.Generator) -> tuple[int, int]:
    """The size of a step's pictures, one of ``sizes``."""
    return sizes[int(randomness.integers(len(sizes)))]


def make_example(
    load: Callable[[], Annotated],
    others: Callable[[int], Annotated],
    augmentation: Augmentation,
    recipe: Preprocess,
    randomness: np.random.Generator,
) -> Example:
    """A picture as it is trained on, prepared as ``recipe`` does where ``augmentation`` leaves it
    alone.

    ``load`` gives the picture, ``others`` three more for a mosaic by their number.
    """
    pieces = [load()]
    height, width = recipe.size
    if randomness.random() < augmentation.mosaic:
        pieces += [others(number) for number in range(3)]
        places = _mosaic([image.shape[:2] for image, _, _ in pieces], recipe, randomness)
    else:
        image, boxes, _ = pieces[0]
        window = _window(boxes, image.shape[:2], augmentation, randomness)
        places = [place_window(window, image.shape[:2], recipe)]
    places = _scaled(places, augmentation, (height, width), randomness)

    canvas = np.full((height, width, 3), augmentation.fill, np.uint8)
    found: list[tuple[Boxes, NDArray[np.int64]]] = []
    for (image, boxes, labels), place in zip(pieces, places, strict=True):
        part = paint(canvas, image, place, antialias=recipe.antialias)
        moved, kept = kept_objects(
            boxes,
            image.shape[:2],
            place,
            (height, width),
            least_left=augmentation.least_left,
            centre_stays=augmentation.centre_stays,
        )
        found.append((moved[kept], labels[kept]))
    if randomness.random() < augmentation.colour:
        # What lies around a single picture stays as grey as it is later.
        where = part if len(pieces) == 1 else (slice(None), slice(None))
        canvas[where] = recolour(canvas[where], augmentation, randomness)
    boxes = np.concatenate([item for item, _ in found])
    if randomness.random() < augmentation.flip:
        canvas = np.ascontiguousarray(canvas[:, ::-1])
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return Example(canvas, _shares(boxes, width, height), np.concatenate([got for _, got in found]))


def _shares(boxes: Boxes, width: int, height: int) -> NDArray[np.float32]:
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return (np.concatenate([centres, sides], axis=1) / ([width, height] * 2)).astype(np.float32)


def _window(
    boxes: Boxes,
    size: tuple[int, int],
    augmentation: Augmentation,
    randomness: np.random.Generator,
) -> Rect:
    """The part of a picture that is shown, which may reach beyond it."""
    window: Rect = (0.0, 0.0, float(size[1]), float(size[0]))
    if randomness.random() < augmentation.zoom_out:
        factor = randomness.uniform(1, augmentation.zoom_out_most)
        left, top = (randomness.uniform(0, 1, 2) * (factor - 1)) * (size[1], size[0])
        window = (-left, -top, size[1] * factor - left, size[0] * factor - top)
    if randomness.random() < augmentation.crop:
        window = _cut(boxes, window, augmentation.crop_least, randomness)
    return window


def _cut(boxes: Boxes, window: Rect, least: float, randomness: np.random.Generator) -> Rect:
    """A part of ``window`` with the centre of an object in it that overlaps it enough; all of it
    where that is drawn, or where none is found. How much is enough is drawn anew each round: a
    window around small objects overlaps none of them much."""
    for _ in range(ROUNDS):
        overlap = OVERLAPS[randomness.integers(len(OVERLAPS))]
        if overlap >= 1:
            break
        found = _suiting(boxes, window, least, overlap, randomness)
        if found is not None:
            return found
    return window


def _suiting(
    boxes: Boxes, window: Rect, least: float, overlap: float, randomness: np.random.Generator
) -> Rect | None:
    """The first of :data:`TRIALS` parts of ``window`` that suits, if one does."""
    shares = randomness.uniform(least, 1, (TRIALS, 2))
    places = randomness.uniform(0, 1, (TRIALS, 2)) * (1 - shares)
    corner = np.array(window[:2])
    whole = np.array(window[2:]) - corner
    near, sides = corner + places * whole, shares * whole
    far = near + sides
    aspect = sides[:, 0] / sides[:, 1]
    suits = (aspect >= ASPECTS[0]) & (aspect <= ASPECTS[1]) & (sides >= 1).all(axis=1)
    if len(boxes):
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres > near[:, None]) & (centres < far[:, None])).all(axis=2)
        common = np.minimum(boxes[:, 2:], far[:, None]) - np.maximum(boxes[:, :2], near[:, None])
        shared = np.prod(np.clip(common, 0, None), axis=2)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        union = areas + np.prod(sides, axis=1)[:, None] - shared
        suits &= (inside & (shared >= overlap * union)).any(axis=1)
    if not suits.any():
        return None
    chosen = int(np.argmax(suits))
    left, top = map(float, near[chosen])
    right, bottom = map(float, far[chosen])
    return left, top, right, bottom


def _mosaic(
    sizes: Sequence[tuple[int, int]], recipe: Preprocess, randomness: np.random.Generator
) -> list[Place]:
    """The places of four pictures around a point, on a canvas of twice the sides whose middle is
    shown: each is resized to fit into the canvas that is shown, and touches the point."""
    height, width = recipe.size
    x, y = randomness.uniform(0.5, 1.5, 2) * (width, height) - (width / 2, height / 2)
    clips: list[Rect] = [
        (-width / 2, -height / 2, x, y),
        (x, -height / 2, 1.5 * width, y),
        (-width / 2, y, x, 1.5 * height),
        (x, y, 1.5 * width, 1.5 * height),
    ]
    places = []
    for number, (size, clip) in enumerate(zip(sizes, clips, strict=True)):
        ratio = min(height / size[0], width / size[1])
        tall, wide = size[0] * ratio, size[1] * ratio
        left, top = x - wide * (number % 2 == 0), y - tall * (number < 2)
        places.append(Place((left, top, left + wide, top + tall), clip))
    return places


def _scaled(
    places: Sequence[Place],
    augmentation: Augmentation,
    size: tuple[int, int],
    randomness: np.random.Generator,
) -> list[Place]:
    if not augmentation.scale and not augmentation.translate:
        return list(places)
    height, width = size
    factor = 1 + augmentation.scale * randomness.uniform(-1, 1)
    across, down = augmentation.translate * randomness.uniform(-1, 1, 2)
    return [
        place.scaled((width / 2, height / 2), factor, (across * width, down * height))
        for place in places
    ]
