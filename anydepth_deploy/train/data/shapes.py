"""Generated training pictures in memory, and batches of them with random flips and colours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anydepth_deploy.errors import ImageError
from anydepth_deploy.families.shared.boxes import xyxy_to_cxcywh
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.families.shared.usual_state import usual_state

__all__ = ["TrainingPictures", "augment"]

_CHANNEL_ORDERS = tuple(itertools.permutations(range(3)))


@dataclass(frozen=True)
class TrainingPictures:
    """Pictures and their objects: ``images`` uint8 [n, H, W, 3], ``targets`` of all n."""

    images: Tensor
    targets: Targets

    @classmethod
    @usual_state()
    def from_arrays(
        cls,
        images: NDArray[np.uint8],
        boxes: Sequence[NDArray[np.float32]],
        labels: Sequence[NDArray[np.int64]],
    ) -> TrainingPictures:
        """Pad the objects of all pictures to the same number.

        ``images``: uint8 [n, H, W, 3]; the memory is shared, not copied. Per picture, ``boxes``
        float32 [k, 4] as x1, y1, x2, y2 in pixels and ``labels`` int64 [k].

        Raises :class:`ImageError` if there are no pictures, or the three do not have the same
        length.
        """
        if len(images) == 0:
            raise ImageError("the training set is empty: give at least one picture")
        if not len(images) == len(boxes) == len(labels):
            raise ImageError(
                f"found {len(images)} pictures, boxes of {len(boxes)} and labels of "
                f"{len(labels)}: give one entry of each per picture"
            )
        height, width = images.shape[1:3]
        longest = max(1, max(len(entry) for entry in labels))
        padded_labels = torch.full((len(images), longest), -1, dtype=torch.int64)
        padded_boxes = torch.zeros(len(images), longest, 4)
        for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            padded_labels[index, : len(label)] = torch.from_numpy(label)
            padded_boxes[index, : len(label)] = torch.from_numpy(box)
        padded_boxes = xyxy_to_cxcywh(padded_boxes) / torch.tensor([width, height] * 2)
        return cls(torch.from_numpy(images), Targets(padded_labels, padded_boxes))

    def __len__(self) -> int:
        return len(self.images)

    def batch(
        self, indices: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Targets]:
        """Pictures by index, augmented if a generator is given: float32 [N, 3, H, W] in 0..1,
        channels last in memory, and their objects."""
        images = self.images[indices]
        targets = Targets(self.targets.labels[indices], self.targets.boxes[indices])
        if generator is not None:
            images, targets = augment(images, targets, generator)
        return images.permute(0, 3, 1, 2).float() / 255.0, targets


def augment(images: Tensor, targets: Targets, generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Mirror, transpose (square pictures only) and recolour each picture at random.

    ``images``: uint8 [N, H, W, 3]; ``targets``: their objects; ``generator``: source of the
    choices.
    """
    count, height, width = images.shape[:3]
    boxes = targets.boxes
    flip_x, flip_y, swap = (torch.rand(3, count, generator=generator) < 0.5).unbind()
    if height != width:
        swap = torch.zeros_like(swap)
    images = _choose(flip_x, images.flip(2), images)
    images = _choose(flip_y, images.flip(1), images)
    if height == width:
        images = _choose(swap, images.transpose(1, 2), images)
    orders = torch.tensor(_CHANNEL_ORDERS)[
        torch.randint(len(_CHANNEL_ORDERS), (count,), generator=generator)
    ]
    images = images.gather(3, orders[:, None, None].expand(-1, height, width, -1))
    x, y, w, h = boxes.unbind(-1)
    x = _choose(flip_x, 1 - x, x)
    y = _choose(flip_y, 1 - y, y)
    boxes = torch.stack([x, y, w, h], dim=-1)
    boxes = _choose(swap, boxes[..., [1, 0, 3, 2]], boxes)
    return images, Targets(targets.labels, boxes)


def _choose(flags: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Per picture ``yes`` or ``no``: flags bool [N], values [N, ...]."""
    return torch.where(flags.view(-1, *[1] * (no.ndim - 1)), yes, no)
