"""The two losses of self-distillation: against the objects, and of base against super.

All terms are sums over pairs divided by the number of objects in the batch, weighted as in
RT-DETR (varifocal 1, L1 5, generalised IoU 2) and, for distillation, as the authors of
AnyDepth-DETR do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anydepth_deploy.families.shared.boxes import box_iou, cxcywh_to_xyxy, generalized_iou
from anydepth_deploy.families.shared.detr.training.forward import Outputs
from anydepth_deploy.families.shared.detr.training.matcher import Matches, match
from anydepth_deploy.families.shared.recipe import Terms
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["box_losses", "detection_loss", "distillation_loss", "varifocal_loss"]

VARIFOCAL_ALPHA, VARIFOCAL_GAMMA = 0.75, 2.0
CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0
FEATURE_WEIGHT = 1.0


def detection_loss(outputs: Outputs, targets: Targets, *, last_layer: bool = True) -> Terms:
    """Loss against the objects, for every decoder layer, the encoder's choice and denoising:
    ``class``, ``l1``, ``giou`` and, with denoising queries, the same with ``denoising_``.

    ``outputs``: of one training forward; ``targets``: the objects of its pictures. ``last_layer``:
    whether the last decoder layer's matched queries are judged, too; false where distillation takes
    their place.
    """
    used = len(outputs.logits) if last_layer else len(outputs.logits) - 1
    logits = torch.cat([outputs.encoder_logits[None], outputs.logits[:used]]).flatten(0, 1)
    boxes = torch.cat([outputs.encoder_boxes[None], outputs.boxes[:used]]).flatten(0, 1)
    # Every layer is matched on its own: a layer is just another picture with these targets.
    repeated = targets.repeat(used + 1)
    matches = match(logits, boxes, repeated)
    terms = _against_objects(logits, boxes, matches, repeated, targets.count)
    denoising = outputs.denoising
    if denoising is not None:
        layers = len(outputs.denoising_logits)
        repeated = targets.repeat(layers)
        pictures = len(targets.labels)
        matches = Matches(
            torch.cat([denoising.matches.picture + pictures * i for i in range(layers)]),
            denoising.matches.query.repeat(layers),
            denoising.matches.object.repeat(layers),
        )
        extra = _against_objects(
            outputs.denoising_logits.flatten(0, 1),
            outputs.denoising_boxes.flatten(0, 1),
            matches,
            repeated,
            targets.count * denoising.groups,
        )
        terms |= {f"denoising_{name}": term for name, term in extra.items()}
    return terms


def distillation_loss(student: Outputs, teacher: Outputs, targets: Targets) -> Terms:
    """Loss of the base pass against the super pass of the same pictures.

    The last layers of both are matched to the same objects; for each object the student's
    query learns the teacher's class distribution and box. Global averages of the backbone's
    and the encoder's maps follow as distributions over channels. All other outputs of the
    student (earlier layers, encoder, denoising) are judged against the objects.

    ``student``: outputs of the base pass; ``teacher``: of the super pass, detached; ``targets``:
    the objects.
    """
    terms = detection_loss(student, targets, last_layer=False)
    ours = match(student.logits[-1], student.boxes[-1], targets)
    theirs = match(teacher.logits[-1], teacher.boxes[-1], targets)
    count, queries = targets.count, student.logits.shape[2]
    divergence = F.kl_div(
        student.logits[-1][ours.picture, ours.query].log_softmax(-1),
        teacher.logits[-1][theirs.picture, theirs.query].softmax(-1),
        reduction="none",
    )
    # Mean over classes, sum over pairs, times queries over objects (300 queries in R50).
    terms["distill_class"] = CLASS_WEIGHT * divergence.mean(-1).sum() * queries / count
    l1, giou = box_losses(
        student.boxes[-1][ours.picture, ours.query],
        teacher.boxes[-1][theirs.picture, theirs.query],
        count,
    )
    terms["distill_l1"], terms["distill_giou"] = L1_WEIGHT * l1, GIOU_WEIGHT * giou
    terms["distill_backbone"] = FEATURE_WEIGHT * _feature_loss(
        student.backbone_maps, teacher.backbone_maps
    )
    terms["distill_encoder"] = FEATURE_WEIGHT * _feature_loss(
        student.encoder_maps, teacher.encoder_maps
    )
    return terms


def varifocal_loss(
    logits: Tensor, boxes: Tensor, matches: Matches, targets: Targets, count: float
) -> Tensor:
    """Varifocal loss (Zhang et al., 2021): a matched query's score should equal its IoU.

    ``logits``: [N, Q, classes]; ``boxes``: [N, Q, 4] as cx, cy, w, h. ``matches``: pairs of query
    and object; ``targets``: the objects of the N pictures. ``count``: what the sum over queries and
    classes is divided by.
    """
    labels = targets.labels[matches.picture, matches.object]
    with torch.no_grad():
        found = cxcywh_to_xyxy(boxes[matches.picture, matches.query])
        wanted = cxcywh_to_xyxy(targets.boxes[matches.picture, matches.object])
        quality = torch.zeros_like(logits)
        quality[matches.picture, matches.query, labels] = box_iou(found, wanted)
        weight = VARIFOCAL_ALPHA * logits.sigmoid() ** VARIFOCAL_GAMMA
        weight[matches.picture, matches.query, labels] = 0.0
        weight += quality
    loss = F.binary_cross_entropy_with_logits(logits, quality, weight=weight, reduction="sum")
    return loss / count


def box_losses(found: Tensor, wanted: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """L1 distance and ``1 - GIoU`` of matched boxes [M, 4] (cx, cy, w, h), over ``count``."""
    l1 = (found - wanted).abs().sum() / count
    giou = (1 - generalized_iou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted))).sum() / count
    return l1, giou


def _against_objects(
    logits: Tensor, boxes: Tensor, matches: Matches, targets: Targets, count: float
) -> Terms:
    l1, giou = box_losses(
        boxes[matches.picture, matches.query],
        targets.boxes[matches.picture, matches.object],
        count,
    )
    return {
        "class": CLASS_WEIGHT * varifocal_loss(logits, boxes, matches, targets, count),
        "l1": L1_WEIGHT * l1,
        "giou": GIOU_WEIGHT * giou,
    }


def _feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    ours = torch.cat([level.mean((2, 3)) for level in student], dim=1)
    theirs = torch.cat([level.mean((2, 3)) for level in teacher], dim=1)
    return F.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="batchmean")
