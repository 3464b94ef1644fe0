"""AnyDepth-YOLO: YOLOv12 whose backbone and neck can be shortened at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anydepth_deploy.families.family import Family, Training
from anydepth_deploy.families.shared.augmentation import YOLO
from anydepth_deploy.families.yolo.config import CONFIGS, YoloConfig
from anydepth_deploy.families.yolo.outputs import YoloOutputs
from anydepth_deploy.families.yolo.recognise import recognise_yolo

if TYPE_CHECKING:
    from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings
    from anydepth_deploy.families.shared.stages import AnyDepthModel
    from anydepth_deploy.families.yolo.model import AnyDepthYOLO

__all__ = ["FAMILY"]


def _build(config: YoloConfig) -> AnyDepthYOLO:
    from anydepth_deploy.families.yolo.model import AnyDepthYOLO

    return AnyDepthYOLO(config)


def _recipe(model: AnyDepthModel, settings: RecipeSettings) -> Recipe[Any]:
    from anydepth_deploy.families.yolo.training.recipe import YoloRecipe

    return YoloRecipe.of(model, settings)


def _initialise(model: AnyDepthModel) -> None:
    """A network sets up its weights itself, the head excepted."""
    from anydepth_deploy.families.yolo.model import AnyDepthYOLO

    assert isinstance(model, AnyDepthYOLO)
    model.head.reset_parameters(model.config.input_size)


FAMILY = Family(
    name="anydepth-yolo",
    title="AnyDepth-YOLO",
    description="YOLOv12 with adaptive depth",
    sizes=CONFIGS,
    recognise=recognise_yolo,
    outputs=YoloOutputs(),
    build=_build,
    training=Training(
        _recipe,
        _initialise,
        learning_rate=1e-2,
        weight_decay=5e-4,
        warmup=200,
        clip=10.0,
        tuning_rate=1e-3,
        augmentation=YOLO,
    ),
    prefix="yolo-",
)
