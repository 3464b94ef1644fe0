"""A generated detection set: shapes on cluttered, noisy pictures, in COCO format.

The set exists so that a detector can be trained, exported, calibrated and measured
anywhere, with no download. It is made hard on purpose (small, rotated, crowded,
look-alike classes): on an easy set every depth scores the same and a broken export
hides behind saturation.

Picture ``index`` of a ``(seed, split)`` is drawn from a random generator of its own, so
it never depends on how many pictures are drawn, in what order, or by how many processes.

Only numpy and Pillow are imported here; the demo and the calibration use this module in
places where torch is not installed.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.errors import UsageError
from anydepth_deploy.pictures.paint import (
    CLASS_NAMES,
    PICTURE_SIZE,
    background,
    degrade,
    draw_clutter,
    paint,
    place_objects,
    visible,
)

__all__ = [
    "CLASS_NAMES",
    "PICTURE_SIZE",
    "SPLITS",
    "Picture",
    "PictureSet",
    "render",
    "render_many",
    "write_coco",
]

# Part of each picture's seed: the same seed never gives the same picture in two splits.
SPLITS: tuple[str, ...] = ("train", "val", "calib")

_CHUNK = 250  # pictures a worker process renders per task


@dataclass(frozen=True)
class Picture:
    """One picture: ``image`` uint8 [S, S, 3] RGB, ``boxes`` float32 [n, 4] as x1, y1, x2, y2
    in pixels, ``labels`` int64 [n] as indices into ``CLASS_NAMES``."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class PictureSet:
    """Many pictures: ``images`` uint8 [n, S, S, 3] and, per picture, boxes and labels as in
    :class:`Picture`."""

    images: NDArray[np.uint8]
    boxes: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.boxes)


def render(index: int, seed: int, split: str = "train", *, size: int = PICTURE_SIZE) -> Picture:
    """Draw one picture.

    Args:
        index: which picture of the set, from 0.
        seed: which set.
        split: one of ``SPLITS``.
        size: side of the square picture in pixels; object sizes scale with it.

    Returns:
        The picture with 1 to 8 objects in drawing order (later ones cover earlier ones).
        A box is tight around the whole shape, cut at the picture's edge; what other objects
        cover still counts. Objects that would be mostly hidden are not drawn.

    Raises:
        UsageError: for an unknown split, a negative index or seed, or a size below 32.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if index < 0 or seed < 0:
        raise UsageError(f"index and seed must not be negative, found {index} and {seed}")
    if size < 32:
        raise UsageError(f"a picture needs at least 32 pixels a side, found {size}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    canvas = background(rng, size)
    draw_clutter(rng, canvas)
    objects = visible(place_objects(rng, size), size)
    for item in objects:
        paint(rng, canvas, item)
    image = degrade(rng, canvas)
    return Picture(
        image=image,
        boxes=np.stack([item.box for item in objects]).astype(np.float32),
        labels=np.array([item.label for item in objects], dtype=np.int64),
    )


def render_many(
    count: int,
    seed: int,
    split: str = "train",
    *,
    start: int = 0,
    size: int = PICTURE_SIZE,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PictureSet:
    """Draw pictures ``start`` to ``start + count - 1`` of a set into memory.

    Args:
        count: how many pictures; each takes ``3 * size ** 2`` bytes.
        seed, split, size: as for :func:`render`.
        start: index of the first picture.
        processes: how many processes draw; the pictures are the same for any number.
        progress: called with (pictures done, count) now and then.

    Raises:
        UsageError: as for :func:`render`, and for a negative count.
    """
    if count < 0:
        raise UsageError(f"count must not be negative, found {count}")
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    boxes: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    chunks = [
        range(first, min(first + _CHUNK, start + count))
        for first in range(start, start + count, _CHUNK)
    ]
    for part in _render_chunks(chunks, seed, split, size, processes):
        images[len(boxes) : len(boxes) + len(part)] = part.images
        boxes += part.boxes
        labels += part.labels
        if progress is not None:
            progress(len(boxes), count)
    return PictureSet(images, boxes, labels)


def write_coco(
    folder: str | Path,
    count: int,
    seed: int,
    split: str = "val",
    *,
    size: int = PICTURE_SIZE,
    processes: int = 1,
) -> Path:
    """Write pictures as PNG files with their annotations in COCO format.

    Args:
        folder: created if needed; gets ``000000.png`` and so on beside ``annotations.json``,
            whose ``file_name`` entries are relative to this folder.
        count, seed, split, size, processes: as for :func:`render_many`.

    Returns:
        The path of ``annotations.json``. Category ids count from 1 in the order of
        ``CLASS_NAMES``, picture ids from 1; boxes are x, y, width, height in pixels.

    Raises:
        UsageError: as for :func:`render_many`.
        OSError: if the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = render_many(count, seed, split, size=size, processes=processes)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        name = f"{index:06d}.png"
        Image.fromarray(pictures.images[index]).save(folder / name, compress_level=1)
        images.append({"id": index + 1, "file_name": name, "width": size, "height": size})
        for box, label in zip(pictures.boxes[index], pictures.labels[index], strict=True):
            x1, y1, x2, y2 = (round(float(side), 3) for side in box)
            width, height = round(x2 - x1, 3), round(y2 - y1, 3)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, width, height],
                    "area": round(width * height, 3),
                    "iscrowd": 0,
                }
            )
    document = {
        "info": {"description": "anydepth-deploy shapes", "seed": seed, "split": split},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return path


def _render_chunks(
    chunks: Sequence[range], seed: int, split: str, size: int, processes: int
) -> Iterator[PictureSet]:
    draw = partial(_render_chunk, seed=seed, split=split, size=size)
    if processes <= 1 or len(chunks) <= 1:
        yield from map(draw, chunks)
        return
    # Spawned, not forked: the caller may hold threads (torch) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(chunks)), mp_context=context) as pool:
        yield from pool.map(draw, chunks)


def _render_chunk(indices: range, *, seed: int, split: str, size: int) -> PictureSet:
    pictures = [render(index, seed, split, size=size) for index in indices]
    return PictureSet(
        images=np.stack([picture.image for picture in pictures]),
        boxes=[picture.boxes for picture in pictures],
        labels=[picture.labels for picture in pictures],
    )
