"""Accuracy without labels: what super finds stands for what there is to find.

A depth that agrees with super finds the same objects; how well it does is COCO's average precision
against super's own detections. It says nothing of super itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anydepth_deploy.errors import ImageError
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.train.data.detection_set import DetectionSet, Objects

__all__ = ["THRESHOLD", "found_by_super"]

THRESHOLD = 0.4
"""Score of what super is believed to have found."""

BATCH = 8


@torch.no_grad()
def found_by_super(
    model: AnyDepthModel,
    source: Path,
    paths: Sequence[Path],
    classes: Sequence[str],
    size: tuple[int, int],
) -> DetectionSet:
    """The pictures ``paths`` (of ``source``, for messages) with what ``model``, which is in
    evaluation mode, finds in them at super.

    Raises :class:`ImageError` where it finds nothing in any of them.
    """
    recipe = Preprocess.of(model.resize, size)
    owner, boxes, labels = [], [], []
    for start in range(0, len(paths), BATCH):
        pictures = [load_image(path) for path in paths[start : start + BATCH]]
        prepared, geometries = prepare_batch(pictures, recipe)
        found = model.detect(torch.from_numpy(prepared), "super")
        for place, geometry in enumerate(geometries):
            scores = found["scores"][place].numpy()
            kept = (scores >= THRESHOLD) & (found["labels"][place].numpy() >= 0)
            corners = geometry.to_picture(found["boxes"][place].numpy()[kept]).astype(np.float64)
            corners[:, 2:] -= corners[:, :2]
            real = (corners[:, 2:] > 0).all(axis=1)
            boxes.append(corners[real])
            labels.append(found["labels"][place].numpy()[kept][real])
            owner.append(np.full(len(corners[real]), start + place, np.int64))
    joined = np.concatenate([np.zeros((0, 4)), *boxes])
    if not len(joined):
        raise ImageError(
            f"pictures in {source}: super finds nothing in {len(paths)} of them with a score of "
            f"{THRESHOLD:g}; give pictures like those that the network is for, or --data"
        )
    objects = Objects(
        np.concatenate(owner),
        joined,
        np.concatenate(labels).astype(np.int64),
        np.zeros(len(joined), np.bool_),
        joined[:, 2] * joined[:, 3],
    )
    pictures_of = [(path, place + 1, (0, 0)) for place, path in enumerate(paths)]
    return DetectionSet.of(source, classes, pictures_of, objects, relative=False, findings=())
