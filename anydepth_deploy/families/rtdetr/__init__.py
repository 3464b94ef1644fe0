"""RT-DETR, RT-DETRv2 and what DEIM trained of it: as they are, their decoder may stop early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anydepth_deploy.families.family import Family, Training
from anydepth_deploy.families.rtdetr.config import CONFIGS, RTDetrConfig, deepen
from anydepth_deploy.families.rtdetr.recognise import recognise_rtdetr
from anydepth_deploy.families.rtdetr.settle import remember_rtdetr, settle_rtdetr
from anydepth_deploy.families.shared.detr.outputs import DetrOutputs
from anydepth_deploy.families.shared.detr.settle import CHOICES, FINE_CHOICES
from anydepth_deploy.families.shared.detr.training import initialise, make_recipe

if TYPE_CHECKING:
    from anydepth_deploy.families.rtdetr.model import RTDETR

__all__ = ["FAMILY"]


def _build(config: RTDetrConfig) -> RTDETR:
    from anydepth_deploy.families.rtdetr.model import RTDETR

    return RTDETR(config)


FAMILY = Family(
    name="rt-detr",
    title="RT-DETR",
    description="RT-DETR, RT-DETRv2 and DEIM-RT-DETRv2, whose decoder stops after any layer",
    sizes=CONFIGS,
    recognise=recognise_rtdetr,
    settle=settle_rtdetr,
    choices={**CHOICES, **FINE_CHOICES},
    remember=remember_rtdetr,
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
)
