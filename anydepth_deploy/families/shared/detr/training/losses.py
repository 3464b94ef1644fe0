"""The two losses of self-distillation: against the objects, and of base against super.

All terms are sums over pairs divided by the number of objects in the batch, weighted as in
RT-DETR (classes 1, L1 5, generalised IoU 2) and, for distillation, as the authors of
AnyDepth-DETR do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anydepth_deploy.families.shared.boxes import box_iou, cxcywh_to_xyxy, generalized_iou
from anydepth_deploy.families.shared.detr.training.forward import Outputs
from anydepth_deploy.families.shared.detr.training.matcher import Matches, match
from anydepth_deploy.families.shared.detr.training.selection import in_single
from anydepth_deploy.families.shared.recipe import Terms
from anydepth_deploy.families.shared.targets import Targets

__all__ = [
    "CLASS_WEIGHT",
    "ClassLoss",
    "box_losses",
    "box_terms",
    "detection_loss",
    "distillation_loss",
    "distillation_terms",
    "matchability_loss",
    "pairs_of_both",
    "varifocal_loss",
]

VARIFOCAL_ALPHA, VARIFOCAL_GAMMA = 0.75, 2.0
MATCHABILITY_GAMMA = 1.5
CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0
FEATURE_WEIGHT = 1.0

ClassLoss = Callable[[Tensor, Tensor, Matches, Targets, float], Tensor]
"""Of logits [N, Q, classes] of queries with boxes [N, Q, 4], pairs of query and object, the objects
of the N pictures, and what the sum over queries and classes is divided by."""


def detection_loss(
    outputs: Outputs,
    targets: Targets,
    *,
    last_layer: bool = True,
    class_loss: ClassLoss | None = None,
) -> Terms:
    """Loss against the objects, for every decoder layer, the encoder's choice and denoising:
    ``class``, ``l1``, ``giou`` and, with denoising queries, the same with ``denoising_``.

    ``outputs``: of one training forward; ``targets``: the objects of its pictures. ``last_layer``:
    whether the last decoder layer's matched queries are judged, too; false where distillation takes
    their place. ``class_loss``: :func:`varifocal_loss` by default.
    """
    judge = class_loss or varifocal_loss
    used = len(outputs.logits) if last_layer else len(outputs.logits) - 1
    logits = torch.cat([outputs.encoder_logits[None], outputs.logits[:used]]).flatten(0, 1)
    boxes = torch.cat([outputs.encoder_boxes[None], outputs.boxes[:used]]).flatten(0, 1)
    # Every layer is matched on its own: a layer is just another picture with these targets.
    repeated = targets.repeat(used + 1)
    matches = match(logits, boxes, repeated)
    terms = _against_objects(logits, boxes, matches, repeated, targets.count, judge)
    denoising = outputs.denoising
    if denoising is not None:
        layers = len(outputs.denoising_logits)
        extra = _against_objects(
            outputs.denoising_logits.flatten(0, 1),
            outputs.denoising_boxes.flatten(0, 1),
            denoising.matches.repeat(layers, len(targets.labels)),
            targets.repeat(layers),
            targets.count * denoising.groups,
            judge,
        )
        terms |= {f"denoising_{name}": term for name, term in extra.items()}
    return terms


def distillation_loss(
    student: Outputs, teacher: Outputs, targets: Targets, *, class_loss: ClassLoss | None = None
) -> Terms:
    """Loss of the base pass against the super pass of the same pictures.

    :func:`distillation_terms` for the last layer and the maps. All other outputs of the student
    (earlier layers, encoder, denoising) are judged against the objects.

    ``student``: outputs of the base pass; ``teacher``: of the super pass, detached; ``targets``:
    the objects; ``class_loss``: as for :func:`detection_loss`.
    """
    terms = detection_loss(student, targets, last_layer=False, class_loss=class_loss)
    ours, theirs = pairs_of_both(student, teacher, targets)
    return terms | distillation_terms(student, teacher, targets.count, ours, theirs)


def pairs_of_both(student: Outputs, teacher: Outputs, targets: Targets) -> tuple[Matches, Matches]:
    """The last layers of both, matched to the same objects, in the same order."""
    return (
        match(student.logits[-1], student.boxes[-1], targets),
        match(teacher.logits[-1], teacher.boxes[-1], targets),
    )


def distillation_terms(
    student: Outputs, teacher: Outputs, count: float, ours: Matches, theirs: Matches
) -> Terms:
    """What base learns from super: ``distill_`` and ``class``, ``l1``, ``giou``, ``backbone``,
    ``encoder``.

    For each object the student's query learns the teacher's class distribution and box. Global
    averages of the backbone's and the encoder's maps follow as distributions over channels.

    ``ours`` and ``theirs``: from :func:`pairs_of_both`; ``count``: of the objects.
    """
    queries = student.logits.shape[2]
    divergence = F.kl_div(
        student.logits[-1][ours.picture, ours.query].log_softmax(-1),
        teacher.logits[-1][theirs.picture, theirs.query].softmax(-1),
        reduction="none",
    )
    l1, giou = box_losses(
        student.boxes[-1][ours.picture, ours.query],
        teacher.boxes[-1][theirs.picture, theirs.query],
        count,
    )
    return {
        # Mean over classes, sum over pairs, times queries over objects (300 queries in R50).
        "distill_class": CLASS_WEIGHT * divergence.mean(-1).sum() * queries / count,
        "distill_l1": L1_WEIGHT * l1,
        "distill_giou": GIOU_WEIGHT * giou,
        "distill_backbone": FEATURE_WEIGHT
        * _feature_loss(student.backbone_maps, teacher.backbone_maps),
        "distill_encoder": FEATURE_WEIGHT
        * _feature_loss(student.encoder_maps, teacher.encoder_maps),
    }


def varifocal_loss(
    logits: Tensor, boxes: Tensor, matches: Matches, targets: Targets, count: float
) -> Tensor:
    """Varifocal loss (Zhang et al., 2021): a matched query's score should equal its IoU, with the
    IoU as weight; the others' weight is ``0.75 * score ** 2``.

    Arguments: see :data:`ClassLoss`.
    """
    with torch.no_grad():
        quality = torch.zeros_like(logits)
        weight = VARIFOCAL_ALPHA * logits.sigmoid() ** VARIFOCAL_GAMMA
        labels, overlap = _judged(boxes, matches, targets)
        quality[matches.picture, matches.query, labels] = overlap.to(quality.dtype)
        weight[matches.picture, matches.query, labels] = 0.0
        weight += quality
    loss = F.binary_cross_entropy_with_logits(logits, quality, weight=weight, reduction="sum")
    return loss / count


def matchability_loss(
    logits: Tensor, boxes: Tensor, matches: Matches, targets: Targets, count: float
) -> Tensor:
    """Matchability-aware loss (DEIM, Huang et al., 2024, section 3.3): a matched query's score
    should equal ``IoU ** 1.5``, with weight 1; the others' weight is ``score ** 1.5``.

    Arguments: see :data:`ClassLoss`.
    """
    with torch.no_grad():
        quality = torch.zeros_like(logits)
        weight = logits.sigmoid() ** MATCHABILITY_GAMMA
        labels, overlap = _judged(boxes, matches, targets)
        place = matches.picture, matches.query, labels
        quality[place] = (overlap**MATCHABILITY_GAMMA).to(quality.dtype)
        weight[place] = 1.0
    loss = F.binary_cross_entropy_with_logits(logits, quality, weight=weight, reduction="sum")
    return loss / count


def box_losses(found: Tensor, wanted: Tensor, count: float | Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance and ``1 - GIoU`` of matched boxes [M, 4] (cx, cy, w, h), over ``count``."""
    l1 = (found - wanted).abs().sum() / count
    giou = (1 - generalized_iou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted))).sum() / count
    return l1, giou


def box_terms(boxes: Tensor, matches: Matches, targets: Targets, count: float | Tensor) -> Terms:
    """``l1`` and ``giou`` of matched boxes [N, Q, 4], weighted, over ``count``."""
    l1, giou = box_losses(
        boxes[matches.picture, matches.query],
        targets.boxes[matches.picture, matches.object],
        count,
    )
    return {"l1": L1_WEIGHT * l1, "giou": GIOU_WEIGHT * giou}


def _judged(boxes: Tensor, matches: Matches, targets: Targets) -> tuple[Tensor, Tensor]:
    """Labels of the pairs' objects, and how far their boxes overlap."""
    found = cxcywh_to_xyxy(boxes[matches.picture, matches.query])
    wanted = cxcywh_to_xyxy(targets.boxes[matches.picture, matches.object])
    return targets.labels[matches.picture, matches.object], box_iou(found, wanted)


def _against_objects(
    logits: Tensor,
    boxes: Tensor,
    matches: Matches,
    targets: Targets,
    count: float,
    class_loss: ClassLoss,
) -> Terms:
    return {
        "class": CLASS_WEIGHT * class_loss(logits, boxes, matches, targets, count),
        **box_terms(boxes, matches, targets, count),
    }


def _feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    ours = torch.cat([in_single(level).mean((2, 3)) for level in student], dim=1)
    theirs = torch.cat([in_single(level).mean((2, 3)) for level in teacher], dim=1)
    return F.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="batchmean")
