"""The forward pass of training: class logits, side distributions, boxes and maps of one depth.

A cell's box is given by its distances to the four sides, each a distribution over 16 bins (in
strides) whose expectation is the distance (Generalized Focal Loss, Li et al., 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from anydepth_deploy.families.yolo.head import BINS, distances, grid
from anydepth_deploy.families.yolo.model import OUTPUTS, AnyDepthYOLO

__all__ = ["Outputs", "decode", "training_forward"]

FEATURE_LAYERS = (6, 8, *OUTPUTS)


@dataclass(frozen=True)
class Outputs:
    """What one training forward gives, for N pictures, A cells of all strides, fine to coarse.

    ``class_logits`` [N, A, classes]; ``side_logits`` [N, A, 4, 16], sides left, top, right,
    bottom; ``boxes`` [N, A, 4] as x1, y1, x2, y2 in pixels; ``features``, the global averages
    [N, C] of layers 6, 8, 14, 17, 20; ``points`` [A, 2], the cells' centres in pixels;
    ``strides`` [A, 1] in pixels.
    """

    class_logits: Tensor
    side_logits: Tensor
    boxes: Tensor
    features: tuple[Tensor, ...]
    points: Tensor
    strides: Tensor

    def detach(self) -> Outputs:
        """The same values without their history."""
        return Outputs(
            self.class_logits.detach(),
            self.side_logits.detach(),
            self.boxes.detach(),
            tuple(feature.detach() for feature in self.features),
            self.points,
            self.strides,
        )


def training_forward(model: AnyDepthYOLO, images: Tensor, *, skip: bool) -> Outputs:
    """Run super (``skip`` false) or base (``skip`` true: all eight blocks are skipped).

    ``model`` is in training mode, unless norms should keep their statistics. ``images``: float32
    [N, 3, H, W] in 0..1; H and W multiples of 32. ``skip``: whether every refinement is skipped.
    """
    maps = model.features(images, (skip,) * 8)
    box_logits, class_logits = model.head(tuple(maps[layer] for layer in OUTPUTS))
    points, strides = _grid((images.shape[2], images.shape[3]), images.device)
    return Outputs(
        class_logits=class_logits.transpose(1, 2),
        side_logits=box_logits.unflatten(1, (4, BINS)).permute(0, 3, 1, 2),
        boxes=decode(box_logits, points, strides, model.head.dfl.bins),
        features=tuple(maps[layer].mean((2, 3)) for layer in FEATURE_LAYERS),
        points=points,
        strides=strides,
    )


def decode(box_logits: Tensor, points: Tensor, strides: Tensor, bins: Tensor) -> Tensor:
    """Boxes [N, A, 4] as x1, y1, x2, y2 in pixels of the head's logits [N, 4 * 16, A]."""
    sides = distances(box_logits, bins).transpose(1, 2) * strides
    return torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=-1)


@lru_cache(maxsize=16)
def _grid(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    return grid(size, device)
