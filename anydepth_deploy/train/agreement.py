"""What super finds in pictures, as a data set that depths are held against; see
:mod:`anydepth_deploy.annotations.believed`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anydepth_deploy.annotations.believed import believed, nothing_found
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.train.data.detection_set import DetectionSet, Objects

__all__ = ["found_by_super"]

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
            corners = geometry.to_picture(found["boxes"][place].numpy())
            kept, names = believed(
                found["labels"][place].numpy(), found["scores"][place].numpy(), corners
            )
            boxes.append(kept)
            labels.append(names)
            owner.append(np.full(len(kept), start + place, np.int64))
    joined = np.concatenate([np.zeros((0, 4)), *boxes])
    if not len(joined):
        raise nothing_found(source, len(paths))
    objects = Objects(
        np.concatenate(owner),
        joined,
        np.concatenate(labels).astype(np.int64),
        np.zeros(len(joined), np.bool_),
        joined[:, 2] * joined[:, 3],
    )
    pictures_of = [(path, place + 1, (0, 0)) for place, path in enumerate(paths)]
    return DetectionSet.of(source, classes, pictures_of, objects, relative=False, findings=())
