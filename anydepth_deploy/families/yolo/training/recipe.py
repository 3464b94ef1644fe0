"""The two passes of AnyDepth-YOLO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anydepth_deploy.families.shared.recipe import RecipeSettings, Terms, itself
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.families.yolo.model import AnyDepthYOLO
from anydepth_deploy.families.yolo.training.assigner import Assignment, assign, pixel_boxes
from anydepth_deploy.families.yolo.training.distillation import (
    GROUND_TRUTH_SHARE,
    distillation_loss,
)
from anydepth_deploy.families.yolo.training.forward import Outputs, training_forward
from anydepth_deploy.families.yolo.training.losses import detection_loss

__all__ = ["Teacher", "YoloRecipe"]


@dataclass(frozen=True)
class Teacher:
    """What base sees of super: detached outputs and the assignment of its cells."""

    outputs: Outputs
    assignment: Assignment


@dataclass(frozen=True)
class YoloRecipe:
    """How ``model`` is trained; nothing in its passes is random. ``average``: see
    :class:`~anydepth_deploy.families.shared.recipe.RecipeSettings`."""

    model: AnyDepthYOLO
    average: Callable[[Tensor], Tensor] = itself

    @classmethod
    def of(cls, model: AnyDepthModel, settings: RecipeSettings) -> YoloRecipe:
        """The recipe of ``model``, an AnyDepth-YOLO; all its norms learn."""
        assert isinstance(model, AnyDepthYOLO)
        return cls(model, settings.average)

    def stores(self, name: str) -> bool:
        """A checkpoint holds everything: no module was swapped for training."""
        return True

    def super_pass(
        self, images: Tensor, targets: Targets, generator: torch.Generator | None
    ) -> tuple[Terms, Teacher]:
        """See :class:`~anydepth_deploy.families.shared.recipe.Recipe`."""
        outputs, wanted, assignment = self._forward(images, targets, skip=False)
        terms = detection_loss(outputs, targets, wanted, assignment, self.average)
        return terms, Teacher(outputs.detach(), assignment)

    def base_pass(
        self,
        images: Tensor,
        targets: Targets,
        teacher: Teacher | None,
        generator: torch.Generator | None,
    ) -> Terms:
        """See :class:`~anydepth_deploy.families.shared.recipe.Recipe`."""
        outputs, wanted, assignment = self._forward(images, targets, skip=True)
        terms = detection_loss(outputs, targets, wanted, assignment, self.average)
        if teacher is None:
            return terms
        distilled = distillation_loss(
            outputs, teacher.outputs, assignment, teacher.assignment, self.average
        )
        return {
            **{name: GROUND_TRUTH_SHARE * term for name, term in terms.items()},
            **{name: (1 - GROUND_TRUTH_SHARE) * term for name, term in distilled.items()},
        }

    def _forward(
        self, images: Tensor, targets: Targets, *, skip: bool
    ) -> tuple[Outputs, Tensor, Assignment]:
        outputs = training_forward(self.model, images, skip=skip)
        wanted = pixel_boxes(targets, (images.shape[2], images.shape[3]))
        found = outputs.class_logits.detach(), outputs.boxes.detach()
        return outputs, wanted, assign(*found, outputs.points, targets, wanted)
