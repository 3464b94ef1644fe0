"""Small data sets in files: solid rectangles on black, so that pixels tell where objects are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["COLOURS", "drawn", "pixel_box", "write_coco_set", "write_yolo_set"]

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
"""Of classes; between each of them and black no other is nearer."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def drawn(size: tuple[int, int], objects: Sequence[tuple[int, Box]]) -> NDArray[np.uint8]:
    """A picture of `size` (height, width) with a rectangle for each class and box."""
    image = np.zeros((*size, 3), np.uint8)
    for label, (left, top, right, bottom) in objects:
        image[top:bottom, left:right] = COLOURS[label]
    return image


def pixel_box(image: NDArray[np.uint8], label: int) -> Box | None:
    """The rectangle around the pixels that are nearer to the colour of a class than to others."""
    corner = np.array(COLOURS[label]) > 127  # they are corners of the cube of all colours
    rows, columns = np.nonzero(((image > 127) == corner).all(axis=2))
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def pictures(count: int, seed: int = 0) -> list[tuple[NDArray[np.uint8], list[tuple[int, Box]]]]:
    """Pictures of several sizes with one to three objects, each in a third of its own."""
    draw = np.random.default_rng(seed)
    found = []
    for index in range(count):
        height, width = int(draw.integers(70, 110)), int(draw.integers(90, 150))
        objects: list[tuple[int, Box]] = []
        for place in range(int(draw.integers(1, 4))):
            left = place * width // 3 + 4
            top = int(draw.integers(2, 20))
            right, bottom = left + int(draw.integers(12, 22)), top + int(draw.integers(16, 40))
            objects.append(((index + place) % 3, (left, top, right, bottom)))
        found.append((drawn((height, width), objects), objects))
    return found


def write_coco_set(folder: Path, count: int = 6, seed: int = 0, **changes: Any) -> Path:
    """`annotations.json` beside its pictures; `changes` of the content, by list."""
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (image, objects) in enumerate(pictures(count, seed)):
        name = f"{index}.png"
        Image.fromarray(image).save(folder / name)
        images.append(
            {
                "id": 10 + index,
                "file_name": name,
                "height": image.shape[0],
                "width": image.shape[1],
            }
        )
        for label, (left, top, right, bottom) in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + index,
                    "category_id": 5 + 2 * label,
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    categories = [
        {"id": 5 + 2 * k, "name": name} for k, name in enumerate(("red", "green", "blue"))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories, **changes}
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_yolo_set(folder: Path, count: int = 6, seed: int = 0, **changes: Any) -> Path:
    """The same pictures as `data.yaml`, `images/train` and `labels/train`; `changes` of the YAML's
    keys, which is written as JSON."""
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True, exist_ok=True)
    for index, (image, objects) in enumerate(pictures(count, seed)):
        height, width = image.shape[:2]
        Image.fromarray(image).save(folder / "images" / "train" / f"{index}.png")
        lines = [
            f"{label} {(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f} "
            f"{(right - left) / width:.6f} {(bottom - top) / height:.6f}"
            for label, (left, top, right, bottom) in objects
        ]
        path = folder / "labels" / "train" / f"{index}.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {
        "train": "images/train",
        "val": "images/train",
        "nc": 3,
        "names": ["red", "green", "blue"],
        **changes,
    }
    path = folder / "data.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
