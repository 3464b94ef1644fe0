"""D-FINE's losses: those of RT-DETR, and of the distributions that its boxes are read off.

Classes are judged on each layer's own matching, boxes and edges on the union of all layers'
matchings (D-FINE, section 4.2). What sums over the union, and means over queries, are divided by is
averaged over the processes that train together; sums over objects know their number themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anydepth_deploy.families.dfine.training.edges import (
    Shares,
    by_edge,
    carried_over,
    decoupled_loss,
    edges_between,
    fine_grained_loss,
)
from anydepth_deploy.families.dfine.training.forward import EdgeOutputs, Edges
from anydepth_deploy.families.shared.boxes import box_iou, cxcywh_to_xyxy
from anydepth_deploy.families.shared.detr.training.losses import (
    CLASS_WEIGHT,
    ClassLoss,
    box_terms,
    distillation_terms,
    pairs_of_both,
)
from anydepth_deploy.families.shared.detr.training.matcher import Matches, match, united
from anydepth_deploy.families.shared.recipe import Terms, itself
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["detection_loss", "distillation_loss"]

FGL_WEIGHT, DDF_WEIGHT = 0.15, 1.5
EDGE_WEIGHT = DDF_WEIGHT
"""Of super's distributions in base's loss."""

Average = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Judged:
    """Queries [N, K] that are judged together: logits and boxes of L layers, their edges, the pairs
    of query and object that boxes are judged on, and by what their sums are divided: ``count``, and
    for means over queries the ``counts`` of those in a pair and of all others."""

    logits: Tensor
    boxes: Tensor
    edges: Edges
    matches: Matches
    count: float | Tensor
    counts: tuple[Tensor, Tensor]


def detection_loss(
    outputs: EdgeOutputs,
    targets: Targets,
    *,
    class_loss: ClassLoss,
    average: Average = itself,
    last_layer: bool = True,
) -> Terms:
    """Loss against the objects: ``class``, ``l1``, ``giou``, ``fgl``, ``ddf`` and, with denoising
    queries, the same with ``denoising_``.

    Classes and boxes of every decoder layer, of ``pre`` and, but for denoising, of the encoder's
    choice; FGL of every decoder layer; DDF of all but the last, which teaches the others.
    ``last_layer``: false where the matched queries of the last layer learn from a teacher instead.

    ``outputs``: of one training forward; ``targets``: the objects of its pictures; ``average``: as
    :class:`~anydepth_deploy.families.shared.recipe.RecipeSettings` has it, called equally often
    whatever the pictures hold.
    """
    layers, pictures, queries = outputs.logits.shape[:3]
    first = outputs.edges.pre_logits[None], outputs.edges.pre_boxes[None]
    logits = torch.cat([outputs.encoder_logits[None], first[0], outputs.logits])
    boxes = torch.cat([outputs.encoder_boxes[None], first[1], outputs.boxes])
    matches = match(logits.flatten(0, 1), boxes.flatten(0, 1), targets.repeat(len(logits)))
    pairs = united(matches, pictures, queries, targets.labels.shape[1])
    denoising = outputs.denoising
    noisy = 0 if denoising is None else len(denoising.matches)
    numbers = (
        len(pairs),
        pictures * queries - len(pairs),
        noisy,
        0 if denoising is None else pictures * denoising.size - noisy,
    )
    counts = [average(outputs.boxes.new_tensor(float(number))) for number in numbers]
    shares = Shares.of(*counts[:2])
    at_least_one = [count.clamp(min=1.0) for count in counts]

    own = _Judged(
        outputs.logits,
        outputs.boxes,
        outputs.edges,
        pairs,
        at_least_one[0],
        (at_least_one[0], at_least_one[1]),
    )
    used = len(logits) if last_layer else len(logits) - 1
    repeated = targets.repeat(used)
    answers = logits[:used].flatten(0, 1), boxes[:used].flatten(0, 1)
    judged = matches.before(used * pictures)
    terms = {
        "class": CLASS_WEIGHT * class_loss(*answers, judged, repeated, targets.count),
        **box_terms(answers[1], pairs.repeat(used, pictures), repeated, own.count),
        **_edge_terms(own, outputs, targets, shares, layers if last_layer else layers - 1),
    }
    if denoising is None or outputs.denoising_edges is None:
        return terms
    divisor = targets.count * denoising.groups
    noise = _Judged(
        outputs.denoising_logits,
        outputs.denoising_boxes,
        outputs.denoising_edges,
        denoising.matches,
        divisor,
        (at_least_one[2], at_least_one[3]),
    )
    logits = torch.cat([noise.edges.pre_logits[None], noise.logits]).flatten(0, 1)
    boxes = torch.cat([noise.edges.pre_boxes[None], noise.boxes]).flatten(0, 1)
    matches = noise.matches.repeat(layers + 1, pictures)
    repeated = targets.repeat(layers + 1)
    extra = {
        "class": CLASS_WEIGHT * class_loss(logits, boxes, matches, repeated, divisor),
        **box_terms(boxes, matches, repeated, divisor),
        # The authors weigh denoising queries as they weigh the matching ones.
        **_edge_terms(noise, outputs, targets, shares, layers),
    }
    return terms | {f"denoising_{name}": term for name, term in extra.items()}


def _edge_terms(
    judged: _Judged, outputs: EdgeOutputs, targets: Targets, shares: Shares, used: int
) -> Terms:
    """``fgl`` of the first ``used`` layers, and ``ddf``."""
    matches = judged.matches
    objects = targets.boxes[matches.picture, matches.object]
    with torch.no_grad():
        found = judged.boxes[:, matches.picture, matches.query]
        overlap = box_iou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(objects))
        anchors = judged.edges.anchors[matches.picture, matches.query]
        wanted = edges_between(anchors, objects, outputs.reach)
        paired = torch.zeros_like(judged.logits[0, :, :, 0], dtype=torch.bool)
        paired[matches.picture, matches.query] = True
        # Queries that answer for nothing count as far as the last layer takes them for something.
        weights = judged.logits[-1].sigmoid().amax(-1).expand_as(judged.logits[..., 0])[:-1].clone()
        weights[:, matches.picture, matches.query] = overlap[:-1]
    fgl = fine_grained_loss(
        judged.edges.logits[:used, matches.picture, matches.query],
        wanted,
        overlap[:used],
        outputs.distances,
        judged.count,
    )
    ddf = decoupled_loss(
        judged.edges.logits[:-1],
        judged.edges.logits[-1],
        weights,
        paired,
        judged.counts,
        shares,
    )
    return {"fgl": FGL_WEIGHT * fgl, "ddf": DDF_WEIGHT * ddf}


def distillation_loss(
    student: EdgeOutputs,
    teacher: EdgeOutputs,
    targets: Targets,
    *,
    class_loss: ClassLoss,
    average: Average = itself,
) -> Terms:
    """Loss of the base pass against the super pass of the same pictures.

    As RT-DETR's, and ``distill_edges``: for each object the student's query learns the four
    distributions of the teacher's (KL, weighted by the overlap of the teacher's box and the object,
    mean over edges, over the number of objects). Both are relative to boxes of their own, since
    the two may have chosen different tokens for one object, so the teacher's are carried over to
    the student's box first (:func:`~anydepth_deploy.families.dfine.training.edges.carried_over`);
    without that bins would stand for different places. The temperature is 1, not DDF's 5: what is
    carried over is where an edge is, and raised temperatures fill the outer bins, which other boxes
    push over the end. Weighted like DDF.

    Arguments are those of :func:`detection_loss` and of RT-DETR's.
    """
    terms = detection_loss(
        student, targets, class_loss=class_loss, average=average, last_layer=False
    )
    ours, theirs = pairs_of_both(student, teacher, targets)
    count = targets.count
    terms |= distillation_terms(student, teacher, count, ours, theirs)
    with torch.no_grad():
        objects = targets.boxes[theirs.picture, theirs.object]
        boxes = teacher.boxes[-1, theirs.picture, theirs.query]
        overlap = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(objects))
        edges = teacher.edges.logits[-1, theirs.picture, theirs.query]
        wanted = carried_over(
            by_edge(edges).softmax(-1),
            teacher.edges.anchors[theirs.picture, theirs.query],
            student.edges.anchors[ours.picture, ours.query],
            student.distances,
            student.reach,
        )
    edges = student.edges.logits[-1, ours.picture, ours.query]
    found = by_edge(edges).log_softmax(-1)
    divergence = F.kl_div(found, wanted, reduction="none").sum(-1).mean(-1)
    terms["distill_edges"] = EDGE_WEIGHT * (overlap * divergence).sum() / count
    return terms
