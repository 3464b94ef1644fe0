"""The two passes of D-FINE, DEIM-D-FINE and RT-DETRv4."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from anydepth_deploy.families.dfine.training.forward import EdgeOutputs, training_forward
from anydepth_deploy.families.dfine.training.losses import detection_loss, distillation_loss
from anydepth_deploy.families.shared.detr.training.denoising import Denoising
from anydepth_deploy.families.shared.detr.training.recipe import QueryRecipe
from anydepth_deploy.families.shared.recipe import Terms
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["DFineRecipe"]


@dataclass(frozen=True)
class DFineRecipe(QueryRecipe[EdgeOutputs]):
    """Of networks with D-FINE's decoder."""

    def forward(self, images: Tensor, denoising: Denoising | None, *, skip: bool) -> EdgeOutputs:
        return training_forward(self.model, images, skip=skip, denoising=denoising)

    def against_objects(self, outputs: EdgeOutputs, targets: Targets) -> Terms:
        return detection_loss(outputs, targets, class_loss=self.class_loss, average=self.average)

    def against_teacher(
        self, outputs: EdgeOutputs, teacher: EdgeOutputs, targets: Targets
    ) -> Terms:
        return distillation_loss(
            outputs, teacher, targets, class_loss=self.class_loss, average=self.average
        )
