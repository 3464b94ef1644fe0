"""AnyDepth-YOLO: YOLOv12 whose backbone and neck can be shortened at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anydepth_deploy.families.family import Family, Training
from anydepth_deploy.families.yolo.config import CONFIGS, YoloConfig
from anydepth_deploy.families.yolo.outputs import YoloOutputs
from anydepth_deploy.families.yolo.recognise import recognise_yolo

if TYPE_CHECKING:
    from anydepth_deploy.families.shared.recipe import TrainSettings
    from anydepth_deploy.families.yolo.model import AnyDepthYOLO
    from anydepth_deploy.families.yolo.training.recipe import YoloRecipe

__all__ = ["FAMILY"]


def _build(config: YoloConfig) -> AnyDepthYOLO:
    from anydepth_deploy.families.yolo.model import AnyDepthYOLO

    return AnyDepthYOLO(config)


def _recipe(settings: TrainSettings) -> YoloRecipe:
    from anydepth_deploy.families.yolo.training.recipe import YoloRecipe

    return YoloRecipe.from_settings(settings)


FAMILY = Family(
    name="anydepth-yolo",
    title="AnyDepth-YOLO",
    description="YOLOv12 with adaptive depth",
    sizes=CONFIGS,
    recognise=recognise_yolo,
    outputs=YoloOutputs(),
    build=_build,
    training=Training(_recipe, learning_rate=1e-2, weight_decay=5e-4, warmup=200, clip=10.0),
    prefix="yolo-",
)
