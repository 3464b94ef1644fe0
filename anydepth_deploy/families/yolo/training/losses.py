"""Loss of one pass against the objects: class, box and distribution of sides.

As in YOLOv8 and later: binary cross-entropy to target scores over all cells (weight 0.5),
``1 - CIoU`` (7.5) and distribution focal loss (1.5) over assigned cells weighted by their target
scores. Every sum is divided by the sum of the batch's target scores, so a loss is a mean, and
not multiplied by the number of pictures as some implementations do: AdamW does not mind the
scale, and the clip at a gradient norm of 10 then catches outliers only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from anydepth_deploy.families.shared.boxes import complete_iou
from anydepth_deploy.families.shared.recipe import Terms, itself
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.families.yolo.head import BINS
from anydepth_deploy.families.yolo.training.assigner import Assignment
from anydepth_deploy.families.yolo.training.forward import Outputs

__all__ = ["BOX_WEIGHT", "CLASS_WEIGHT", "DFL_WEIGHT", "detection_loss", "side_loss"]

BOX_WEIGHT, CLASS_WEIGHT, DFL_WEIGHT = 7.5, 0.5, 1.5


def detection_loss(
    outputs: Outputs,
    targets: Targets,
    wanted: Tensor,
    assignment: Assignment,
    average: Callable[[Tensor], Tensor] = itself,
) -> Terms:
    """Loss against the objects: ``class``, ``box`` and ``dfl``, weighted.

    ``outputs``: of one training forward; ``targets``: the objects of its pictures; ``wanted``:
    their boxes [N, T, 4] as x1, y1, x2, y2 in pixels; ``assignment``: of cells to them.
    ``average``: see :class:`~anydepth_deploy.families.shared.recipe.RecipeSettings`.
    """
    picture, cell = assignment.foreground.nonzero(as_tuple=True)
    number = assignment.object[picture, cell]
    weight = assignment.score[picture, cell]
    count = average(weight.sum()).clamp(min=1.0)

    scores = torch.zeros_like(outputs.class_logits)
    scores[picture, cell, targets.labels[picture, number]] = weight
    classes = F.binary_cross_entropy_with_logits(outputs.class_logits, scores, reduction="sum")

    goal = wanted[picture, number]
    box = (1 - complete_iou(outputs.boxes[picture, cell], goal)) * weight
    points, strides = outputs.points[cell], outputs.strides[cell]
    distances = torch.cat([points - goal[:, :2], goal[:, 2:] - points], dim=-1) / strides
    dfl = side_loss(outputs.side_logits[picture, cell], distances).mean(-1) * weight
    return {
        "class": CLASS_WEIGHT * classes / count,
        "box": BOX_WEIGHT * box.sum() / count,
        "dfl": DFL_WEIGHT * dfl.sum() / count,
    }


def side_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss [M, 4]: cross-entropy to the two bins around each distance.

    ``logits``: [M, 4, 16]; ``distances``: [M, 4] in strides, clamped to what the bins can say.
    """
    distances = distances.clamp(0, BINS - 1 - 0.01)
    lower = distances.floor()
    share = distances - lower
    picked = logits.log_softmax(-1).gather(
        -1, torch.stack([lower, lower + 1], dim=-1).to(torch.int64)
    )
    return -(picked[..., 0] * (1 - share) + picked[..., 1] * share)
