"""AnyDepth-DETR: RT-DETR whose backbone, encoder and decoder can be shortened at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anydepth_deploy.families.detr.config import CONFIGS, DetrConfig, deepen
from anydepth_deploy.families.detr.recognise import recognise_detr
from anydepth_deploy.families.detr.settle import remember_detr, settle_detr
from anydepth_deploy.families.family import Family, Training
from anydepth_deploy.families.shared.detr.outputs import DetrOutputs
from anydepth_deploy.families.shared.detr.training import initialise, make_recipe

if TYPE_CHECKING:
    from anydepth_deploy.families.detr.model import AnyDepthDETR

__all__ = ["FAMILY"]


def _build(config: DetrConfig) -> AnyDepthDETR:
    from anydepth_deploy.families.detr.model import AnyDepthDETR

    return AnyDepthDETR(config)


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
        make_recipe,
        initialise,
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
