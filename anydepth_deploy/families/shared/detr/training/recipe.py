"""The two passes of a DETR: all decoder layers, with denoising queries in both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.detr.training.denoising import Denoising, make_denoising
from anydepth_deploy.families.shared.detr.training.forward import Outputs, training_forward
from anydepth_deploy.families.shared.detr.training.losses import (
    ClassLoss,
    detection_loss,
    distillation_loss,
    matchability_loss,
    varifocal_loss,
)
from anydepth_deploy.families.shared.detr.training.norms import unfreeze_norms
from anydepth_deploy.families.shared.recipe import RecipeSettings, Terms, itself
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["DetrRecipe", "QueryRecipe", "class_loss_of"]

MATCHABLE = ("deim", "v4")
"""Releases that were trained with the matchability-aware loss."""

Found = TypeVar("Found", bound=Outputs)
Own = TypeVar("Own", bound="QueryRecipe[Any]")


def class_loss_of(model: AnyDepthModel) -> ClassLoss:
    """How the scores of the network were trained: DEIM and RT-DETRv4 with the matchability-aware
    loss, all others with the varifocal loss."""
    release = getattr(model.config, "release", "")
    return matchability_loss if release in MATCHABLE else varifocal_loss


@dataclass(frozen=True)
class QueryRecipe(ABC, Generic[Found]):
    """What the recipes have in common.

    ``model``; the ``class_loss`` of its release; about how many ``denoising`` queries each pass
    gets (0 for none); the norms that learn here and that a checkpoint holds ``frozen``;
    ``average``: see :class:`~anydepth_deploy.families.shared.recipe.RecipeSettings`.
    """

    model: DetrModel
    class_loss: ClassLoss = varifocal_loss
    denoising: int = 0
    frozen: frozenset[str] = frozenset()
    average: Callable[[Tensor], Tensor] = itself

    @classmethod
    def of(cls: type[Own], model: AnyDepthModel, settings: RecipeSettings) -> Own:
        """The recipe of ``model``, whose frozen norms it turns into such that learn: all, or, by
        ``settings``, those of second sets."""
        assert isinstance(model, DetrModel)
        frozen = unfreeze_norms(model, second_sets_only=not settings.train_norms)
        return cls(
            model, class_loss_of(model), settings.denoising, frozenset(frozen), settings.average
        )

    def stores(self, name: str) -> bool:
        """All but the counters of norms that a checkpoint holds frozen. They are of no use here
        either, as the momentum of running statistics is fixed."""
        norm, _, entry = name.rpartition(".")
        return entry != "num_batches_tracked" or norm not in self.frozen

    def super_pass(
        self, images: Tensor, targets: Targets, generator: torch.Generator | None
    ) -> tuple[Terms, Found]:
        """See :class:`~anydepth_deploy.families.shared.recipe.Recipe`."""
        outputs = self.forward(images, self._noise(targets, generator), skip=False)
        return self.against_objects(outputs, targets), outputs.detach()

    def base_pass(
        self,
        images: Tensor,
        targets: Targets,
        teacher: Found | None,
        generator: torch.Generator | None,
    ) -> Terms:
        """See :class:`~anydepth_deploy.families.shared.recipe.Recipe`."""
        outputs = self.forward(images, self._noise(targets, generator), skip=True)
        if teacher is None:
            return self.against_objects(outputs, targets)
        return self.against_teacher(outputs, teacher, targets)

    @abstractmethod
    def forward(self, images: Tensor, denoising: Denoising | None, *, skip: bool) -> Found:
        """All decoder layers of super or, with ``skip``, of base."""

    @abstractmethod
    def against_objects(self, outputs: Found, targets: Targets) -> Terms:
        """Loss of one pass against the objects."""

    @abstractmethod
    def against_teacher(self, outputs: Found, teacher: Found, targets: Targets) -> Terms:
        """Loss of base against super's detached outputs."""

    def _noise(self, targets: Targets, generator: torch.Generator | None) -> Denoising | None:
        decoder = self.model.decoder
        return make_denoising(
            targets,
            decoder.denoising_class_embed,
            classes=decoder.classes,
            queries=decoder.queries,
            wanted=self.denoising,
            generator=generator,
        )


@dataclass(frozen=True)
class DetrRecipe(QueryRecipe[Outputs]):
    """Of networks with RT-DETR's decoder; sums over queries are divided by the objects, whose
    number the targets know."""

    def forward(self, images: Tensor, denoising: Denoising | None, *, skip: bool) -> Outputs:
        return training_forward(self.model, images, skip=skip, denoising=denoising)

    def against_objects(self, outputs: Outputs, targets: Targets) -> Terms:
        return detection_loss(outputs, targets, class_loss=self.class_loss)

    def against_teacher(self, outputs: Outputs, teacher: Outputs, targets: Targets) -> Terms:
        return distillation_loss(outputs, teacher, targets, class_loss=self.class_loss)
