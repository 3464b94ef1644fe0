"""The two passes of a DETR: all decoder layers, with denoising queries in both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.detr.training.denoising import make_denoising
from anydepth_deploy.families.shared.detr.training.forward import Outputs, training_forward
from anydepth_deploy.families.shared.detr.training.losses import detection_loss, distillation_loss
from anydepth_deploy.families.shared.detr.training.norms import unfreeze_norms
from anydepth_deploy.families.shared.recipe import RecipeSettings, Terms
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["DetrRecipe"]


@dataclass(frozen=True)
class DetrRecipe:
    """``model``, about how many ``denoising`` queries each pass gets (0 for none), and the norms
    that learn here and that a checkpoint holds ``frozen``."""

    model: DetrModel
    denoising: int = 0
    frozen: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: AnyDepthModel, settings: RecipeSettings) -> DetrRecipe:
        """The recipe of ``model``, whose frozen norms it turns into such that learn."""
        assert isinstance(model, DetrModel)
        return cls(model, settings.denoising, frozenset(unfreeze_norms(model)))

    def stores(self, name: str) -> bool:
        """All but the counters of norms that a checkpoint holds frozen. They are of no use here
        either, as the momentum of running statistics is fixed."""
        norm, _, entry = name.rpartition(".")
        return entry != "num_batches_tracked" or norm not in self.frozen

    def super_pass(
        self, images: Tensor, targets: Targets, generator: torch.Generator | None
    ) -> tuple[Terms, Outputs]:
        """See :class:`~anydepth_deploy.families.shared.recipe.Recipe`."""
        outputs = self._forward(images, targets, generator, skip=False)
        return detection_loss(outputs, targets), outputs.detach()

    def base_pass(
        self,
        images: Tensor,
        targets: Targets,
        teacher: Outputs | None,
        generator: torch.Generator | None,
    ) -> Terms:
        """See :class:`~anydepth_deploy.families.shared.recipe.Recipe`."""
        outputs = self._forward(images, targets, generator, skip=True)
        if teacher is None:
            return detection_loss(outputs, targets)
        return distillation_loss(outputs, teacher, targets)

    def _forward(
        self, images: Tensor, targets: Targets, generator: torch.Generator | None, *, skip: bool
    ) -> Outputs:
        decoder = self.model.decoder
        noise = make_denoising(
            targets,
            decoder.denoising_class_embed,
            classes=decoder.classes,
            queries=decoder.queries,
            wanted=self.denoising,
            generator=generator,
        )
        return training_forward(self.model, images, skip=skip, denoising=noise)
