"""AnyDepth-DETR: RT-DETR whose backbone, encoder and decoder can be shortened at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anydepth_deploy.families.detr.config import CONFIGS, DetrConfig, deepen
from anydepth_deploy.families.detr.recognise import recognise_detr
from anydepth_deploy.families.detr.settle import remember_detr, settle_detr
from anydepth_deploy.families.family import Family, Training
from anydepth_deploy.families.shared.detr.outputs import DetrOutputs

if TYPE_CHECKING:
    from anydepth_deploy.families.detr.model import AnyDepthDETR
    from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings
    from anydepth_deploy.families.shared.stages import AnyDepthModel

__all__ = ["FAMILY"]


def _build(config: DetrConfig) -> AnyDepthDETR:
    from anydepth_deploy.families.detr.model import AnyDepthDETR

    return AnyDepthDETR(config)


def _recipe(model: AnyDepthModel, settings: RecipeSettings) -> Recipe[Any]:
    from anydepth_deploy.families.shared.detr.training.recipe import DetrRecipe

    return DetrRecipe.of(model, settings)


def _initialise(model: AnyDepthModel) -> None:
    from anydepth_deploy.families.shared.detr.training.norms import initialize

    initialize(model)


FAMILY = Family(
    name="anydepth-detr",
    title="AnyDepth-DETR",
    description="RT-DETR with adaptive depth",
    sizes=CONFIGS,
    recognise=recognise_detr,
    settle=settle_detr,
    remember=remember_detr,
    outputs=DetrOutputs(),
    build=_build,
    training=Training(
        _recipe,
        _initialise,
        learning_rate=1e-3,
        weight_decay=1e-4,
        warmup=100,
        clip=0.1,
        tuning_rate=1e-4,
        backbone_scale=0.1,
        deepen=deepen,
    ),
    prefix="",
)
