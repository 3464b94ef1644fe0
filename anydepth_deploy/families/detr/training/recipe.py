"""The two passes of AnyDepth-DETR: all decoder layers, with denoising queries in both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anydepth_deploy.families.detr.config import CONFIGS
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.detr.training.denoising import make_denoising
from anydepth_deploy.families.detr.training.forward import Outputs, training_forward
from anydepth_deploy.families.detr.training.losses import detection_loss, distillation_loss
from anydepth_deploy.families.detr.training.norms import initialize, is_stored, unfreeze_norms
from anydepth_deploy.families.shared.recipe import Terms, TrainSettings, network_size
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["DetrRecipe"]


@dataclass(frozen=True)
class DetrRecipe:
    """``model`` with trainable norms, and about how many ``denoising`` queries each pass gets
    (0 for none)."""

    model: AnyDepthDETR
    denoising: int = 0

    @classmethod
    def from_settings(cls, settings: TrainSettings) -> DetrRecipe:
        """A fresh model to train from scratch, the same for the same seed: backbone norms
        trainable, channels last in memory.

        Raises :class:`UsageError` for an unknown model name.
        """
        size = network_size(settings, CONFIGS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = AnyDepthDETR(size)
            unfreeze_norms(model.backbone)
            initialize(model)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, settings.denoising)

    def stores(self, name: str) -> bool:
        """See :class:`~anydepth_deploy.families.shared.recipe.Recipe`."""
        return is_stored(name)

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
