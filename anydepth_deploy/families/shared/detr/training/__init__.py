"""Training of the DETRs: matching, denoising, losses, and the two passes of a step.

What a family's :class:`~anydepth_deploy.families.family.Training` names is here; neither function
imports torch before it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings
    from anydepth_deploy.families.shared.stages import AnyDepthModel

__all__ = ["initialise", "make_recipe"]


def make_recipe(model: AnyDepthModel, settings: RecipeSettings) -> Recipe[Any]:
    """The recipe of a network with RT-DETR's decoder."""
    from anydepth_deploy.families.shared.detr.training.recipe import DetrRecipe

    return DetrRecipe.of(model, settings)


def initialise(model: AnyDepthModel) -> None:
    """Weights of any DETR to train from nothing with, in place."""
    from anydepth_deploy.families.shared.detr.training.norms import initialize

    initialize(model)
