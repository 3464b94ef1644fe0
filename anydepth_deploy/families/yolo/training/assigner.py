"""Which cell answers for which object: task-aligned assignment (TOOD, Feng et al., 2021).

A cell is as good for an object as its prediction is: alignment = score^alpha * CIoU^beta, score
being that of the object's class. The best cells inside each object are its positives. All
pictures of a batch are handled at once, on padded objects; nothing here has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anydepth_deploy.families.shared.boxes import complete_iou, cxcywh_to_xyxy
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["Assignment", "assign", "pixel_boxes"]

ALPHA, BETA, TOP = 0.5, 6.0, 10


@dataclass(frozen=True)
class Assignment:
    """What each of A cells of N pictures should answer.

    ``foreground`` bool [N, A]: whether it answers for an object; ``object`` int64 [N, A]: which,
    as index into the picture's targets; ``score`` float [N, A]: the score its class should get,
    0 in the background. Where a cell is background, ``object`` has no meaning.
    """

    foreground: Tensor
    object: Tensor
    score: Tensor


def pixel_boxes(targets: Targets, size: tuple[int, int]) -> Tensor:
    """The objects' boxes [N, T, 4] as x1, y1, x2, y2 in pixels of a picture (height, width)."""
    height, width = size
    return cxcywh_to_xyxy(targets.boxes) * targets.boxes.new_tensor([width, height, width, height])


@torch.no_grad()
def assign(
    class_logits: Tensor, boxes: Tensor, points: Tensor, targets: Targets, wanted: Tensor
) -> Assignment:
    """Assign cells to objects.

    The ``TOP`` best aligned cells whose centre lies inside an object's box are its own; a cell
    that several objects claim goes to the one it overlaps most. Target scores are the alignments
    of an object's cells, scaled so that the largest is the best overlap among them.

    ``class_logits``: [N, A, classes]; ``boxes``: [N, A, 4] as x1, y1, x2, y2 in pixels; ``points``:
    [A, 2], the cells' centres in pixels. ``targets``: the objects of the N pictures; ``wanted``:
    their boxes [N, T, 4] as x1, y1, x2, y2 in pixels.
    """
    cells = points.shape[0]
    offsets = torch.cat([points - wanted[..., None, :2], wanted[..., None, 2:] - points], dim=-1)
    candidate = (offsets.amin(-1) > 1e-9) & targets.valid[..., None]  # [N, T, A]
    labels = targets.labels.clamp(min=0)[..., None].expand(-1, -1, cells)
    score = class_logits.sigmoid().transpose(1, 2).gather(1, labels)
    overlap = complete_iou(boxes[:, None], wanted[:, :, None]).clamp(min=0)
    alignment = score.pow(ALPHA) * overlap.pow(BETA)

    # Cells that may not answer sort behind those that may, even where all alignments are zero.
    best = alignment.masked_fill(~candidate, -1.0).topk(min(TOP, cells), dim=-1).indices
    claimed = torch.zeros_like(candidate).scatter_(-1, best, True) & candidate
    owner = overlap.masked_fill(~claimed, -1.0).argmax(1)  # [N, A]
    foreground = claimed.any(1)
    own = torch.zeros_like(claimed).scatter_(1, owner[:, None], foreground[:, None])

    alignment, overlap = alignment * own, overlap * own
    scale = overlap.amax(-1, keepdim=True) / alignment.amax(-1, keepdim=True).clamp(min=1e-9)
    return Assignment(foreground, owner, (alignment * scale).amax(1))
