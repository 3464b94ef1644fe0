"""D-FINE, DEIM-D-FINE and RT-DETRv4: as they are, their decoder may stop early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anydepth_deploy.families.dfine.config import CONFIGS, DFineConfig, deepen
from anydepth_deploy.families.dfine.recognise import recognise_dfine
from anydepth_deploy.families.dfine.settle import remember_dfine, settle_dfine
from anydepth_deploy.families.family import Family, Training
from anydepth_deploy.families.shared.detr.outputs import DetrOutputs
from anydepth_deploy.families.shared.detr.settle import CHOICES
from anydepth_deploy.families.shared.detr.training import initialise

if TYPE_CHECKING:
    from anydepth_deploy.families.dfine.model import DFINE
    from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings
    from anydepth_deploy.families.shared.stages import AnyDepthModel

__all__ = ["FAMILY"]


def _build(config: DFineConfig) -> DFINE:
    from anydepth_deploy.families.dfine.model import DFINE

    return DFINE(config)


def _recipe(model: AnyDepthModel, settings: RecipeSettings) -> Recipe[Any]:
    from anydepth_deploy.families.dfine.training.recipe import DFineRecipe

    return DFineRecipe.of(model, settings)


FAMILY = Family(
    name="d-fine",
    title="D-FINE",
    description="D-FINE, DEIM-D-FINE and RT-DETRv4, whose decoder stops after any layer",
    sizes=CONFIGS,
    recognise=recognise_dfine,
    settle=settle_dfine,
    choices=CHOICES,
    remember=remember_dfine,
    outputs=DetrOutputs(),
    build=_build,
    training=Training(
        _recipe,
        initialise,
        learning_rate=1e-3,
        weight_decay=1.25e-4,
        warmup=100,
        clip=0.1,
        tuning_rate=2e-4,
        backbone_scale=0.1,
        deepen=deepen,
    ),
)
