"""Detections of an evaluation in COCO's results format, one file a depth.

The format is described at https://cocodataset.org/#format-results. Numbers are written as exactly
as they were scored, so that other tools come to the same figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import ImageError

__all__ = ["write_results"]


def write_results(
    folder: Path, found: Mapping[Depth, Sequence[NDArray[np.float64]]], precision: str
) -> list[Path]:
    """Write ``PRECISION-DEPTH.json`` into ``folder`` for each depth; returns their paths.

    ``found``: an array a picture, [K, 7] of image id, x, y, width, height, score, category id. Each
    file is written whole or not at all. Raises :class:`ImageError` where one cannot be written.
    """
    paths = []
    for depth, pictures in found.items():
        path = folder / f"{precision}-{depth}.json"
        write_or_refuse(path, _writer(pictures), "detections", ImageError)
        paths.append(path)
    return paths


def _writer(pictures: Sequence[NDArray[np.float64]]) -> Callable[[BinaryIO], None]:
    return lambda file: file.writelines(_lines(pictures))


def _lines(pictures: Sequence[NDArray[np.float64]]) -> Iterator[bytes]:
    """A JSON array, one detection a line."""
    start = "[\n"
    for rows in pictures:
        for image, x, y, width, height, score, category in rows.tolist():
            entry: dict[str, Any] = {
                "image_id": int(image),
                "category_id": int(category),
                "bbox": [x, y, width, height],
                "score": score,
            }
            yield (start + json.dumps(entry)).encode()
            start = ",\n"
    yield b"[]\n" if start == "[\n" else b"\n]\n"
