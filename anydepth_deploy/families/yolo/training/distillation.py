"""Loss of base against super, on the same pictures.

Terms and weights are those of the authors' recipe, which leaves their scale open. Here the three
terms over cells are means weighted by super's target scores, hence of the size of a detection
loss before its weights; the feature term is a mean over pictures and layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from anydepth_deploy.families.shared.boxes import complete_iou
from anydepth_deploy.families.shared.recipe import Terms, itself
from anydepth_deploy.families.yolo.training.assigner import Assignment
from anydepth_deploy.families.yolo.training.forward import Outputs

__all__ = ["GROUND_TRUTH_SHARE", "distillation_loss", "feature_loss"]

TEMPERATURE = 2.0
CLASS_WEIGHT, BOX_WEIGHT, DFL_WEIGHT, FEATURE_WEIGHT = 0.4, 1.2, 0.8, 0.4
GROUND_TRUTH_SHARE = 0.2  # of base's loss once super teaches; the rest is distillation


def distillation_loss(
    student: Outputs,
    teacher: Outputs,
    ours: Assignment,
    theirs: Assignment,
    average: Callable[[Tensor], Tensor] = itself,
) -> Terms:
    """Loss of the base pass against the super pass: ``distill_class`` over super's foreground;
    ``distill_box`` and ``distill_dfl`` over the cells that both assign to the same object;
    ``distill_features``; weighted.

    ``student``: outputs of the base pass; ``teacher``: of the super pass, detached. ``ours`` and
    ``theirs``: the assignments of the student's and of the teacher's cells. ``average``: see
    :class:`~anydepth_deploy.families.shared.recipe.RecipeSettings`.
    """
    picture, cell = theirs.foreground.nonzero(as_tuple=True)
    divergence = F.kl_div(
        (student.class_logits[picture, cell] / TEMPERATURE).log_softmax(-1),
        (teacher.class_logits[picture, cell] / TEMPERATURE).log_softmax(-1),
        reduction="none",
        log_target=True,
    ).sum(-1) * (TEMPERATURE**2)
    classes = _weighted_mean(divergence, theirs.score[picture, cell], average)

    common = theirs.foreground & ours.foreground & (theirs.object == ours.object)
    picture, cell = common.nonzero(as_tuple=True)
    weight = theirs.score[picture, cell]
    box = 1 - complete_iou(student.boxes[picture, cell], teacher.boxes[picture, cell])
    sides = F.kl_div(
        student.side_logits[picture, cell].log_softmax(-1),
        teacher.side_logits[picture, cell].log_softmax(-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    return {
        "distill_class": CLASS_WEIGHT * classes,
        "distill_box": BOX_WEIGHT * _weighted_mean(box, weight, average),
        "distill_dfl": DFL_WEIGHT * _weighted_mean(sides.mean(-1), weight, average),
        "distill_features": FEATURE_WEIGHT * feature_loss(student.features, teacher.features),
    }


def feature_loss(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """Squared distance of the unit vectors of two networks' global averages, [N, C] per layer:
    mean over pictures and layers, in 0..4."""
    distances = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1)
        for a, b in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).mean()


def _weighted_mean(values: Tensor, weight: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
    """Divided by at least 1, so that a hardly assigned batch does not weigh like a full one."""
    return (values * weight).sum() / average(weight.sum()).clamp(min=1.0)
