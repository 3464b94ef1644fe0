"""A data set in COCO's format: one JSON file, and a folder of pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from anydepth_deploy.annotations.boxes import check_areas, check_boxes, check_pictures
from anydepth_deploy.annotations.coco import sift_coco
from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.errors import ImageError, shorten
from anydepth_deploy.pictures.annotated import said_size
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.names import Names
from anydepth_deploy.train.data.detection_set import DetectionSet, Objects, Size, missing_pictures

__all__ = ["read_coco_set"]


def read_coco_set(
    path: Path, images: Path | None = None, *, max_pixels: int = MAX_PIXELS
) -> DetectionSet:
    """The data set of a COCO file, whose pictures are in ``images``, or else beside it.

    Classes are the categories in the order of their ids. Annotations that cannot be used, and empty
    boxes or such outside of their pictures, are left out and counted; those of crowds are kept as
    such. Pictures without annotations stay.

    Raises :class:`ImageError` for a file that cannot be read, for categories of one name, where
    most annotations or boxes are wrong or more than 1 % of the pictures are missing, and where
    nothing is left to learn.
    """
    content, findings = sift_coco(path)
    categories = sorted(content["categories"], key=lambda item: int(item["id"]))
    _check_names(path, categories)
    listed = sorted(content["images"], key=lambda item: int(item["id"]))
    sizes = {item["id"]: _size(path, item) for item in listed}
    frames = {key: (float(size[1]), float(size[0])) for key, size in sizes.items() if all(size)}
    findings += [*check_pictures(listed), *check_boxes(path, content, frames)]
    annotations, odd = check_areas(content)
    findings += odd
    if crowds := sum(item["iscrowd"] for item in annotations):
        text = f"{crowds} of {len(annotations)} boxes {'is' if crowds == 1 else 'are'} of crowds"
        findings.append(
            Finding("crowd", crowds, len(annotations), f"{text}: nothing is trained on them")
        )

    names = Names(images if images is not None else path.parent)
    paths = [names.find(item["file_name"]) for item in listed]
    missing = missing_pictures(
        path,
        [item["file_name"] for item in listed],
        paths,
        "give their folder with --images",
    )
    pictures = [
        (place, int(item["id"]), sizes[item["id"]])
        for item, place in zip(listed, paths, strict=True)
        if place is not None
    ]
    owners = {key: index for index, (_, key, _) in enumerate(pictures)}
    annotations = [item for item in annotations if item["image_id"] in owners]
    labels = {item["id"]: label for label, item in enumerate(categories)}
    objects = Objects(
        np.array([owners[item["image_id"]] for item in annotations], np.int64),
        np.array([item["bbox"] for item in annotations], np.float64).reshape(-1, 4),
        np.array([labels[item["category_id"]] for item in annotations], np.int64),
        np.array([item["iscrowd"] for item in annotations], np.bool_),
        np.array([item["area"] for item in annotations], np.float64),
    )
    return DetectionSet.of(
        path,
        [item["name"] for item in categories],
        pictures,
        objects.chosen(_findable(objects, [size for _, _, size in pictures])),
        relative=False,
        findings=[*findings, *missing],
        max_pixels=max_pixels,
    )


def _check_names(path: Path, categories: list[dict[str, Any]]) -> None:
    twice = [name for name, n in Counter(item["name"] for item in categories).items() if n > 1]
    if twice:
        raise ImageError(
            f"annotations {path}: {len(twice)} names are those of several categories "
            f"({shorten(twice)}), expected one category for each class: give each a name of its own"
        )


def _size(path: Path, item: dict[str, Any]) -> Size:
    """What the file says, height and width; a side is 0 where it says nothing that helps."""
    height, width = (
        int(side) if side is not None and 0 < side < 1e9 else 0 for side in said_size(path, item)
    )
    return height, width


def _findable(objects: Objects, sizes: list[Size]) -> Any:
    """Bool [M]: boxes of which something is in their picture."""
    edges = np.array(sizes, np.float64).reshape(-1, 2)[objects.owner, ::-1]
    edges[edges == 0] = np.inf
    near, far = objects.boxes[:, :2], objects.boxes[:, :2] + objects.boxes[:, 2:]
    return np.all((far > near) & (near < edges) & (far > 0), axis=1)
