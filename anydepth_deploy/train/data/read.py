"""A data set by the file that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.train.data.coco_files import read_coco_set
from anydepth_deploy.train.data.detection_set import DetectionSet
from anydepth_deploy.train.data.yolo_files import read_yolo_set

__all__ = ["read_data_set"]


def read_data_set(
    path: str | Path,
    images: str | Path | None = None,
    *,
    which: Literal["train", "val"] = "train",
    max_pixels: int = MAX_PIXELS,
) -> DetectionSet:
    """A data set in COCO's format, or in the YOLO format where ``path`` ends in .yaml or .yml.

    ``images``: the folder of the pictures that a COCO file names, by default its own. ``which``:
    the part of a YOLO data set; a COCO file is one part. ``max_pixels``: of each picture. Raises
    :class:`ImageError`, as both do, and :class:`MissingExtraError` where YAML cannot be read.
    """
    source = Path(path)
    if source.suffix.lower() in (".yaml", ".yml"):
        return read_yolo_set(source, which, max_pixels=max_pixels)
    folder = None if images is None else Path(images)
    return read_coco_set(source, folder, max_pixels=max_pixels)
