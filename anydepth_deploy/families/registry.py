"""Which family, and which size of it, a state dict belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.errors import CheckpointError, shorten
from anydepth_deploy.families.detr import CONFIGS as DETR_CONFIGS
from anydepth_deploy.families.detr import AnyDepthDETR
from anydepth_deploy.families.detr.recognise import recognise_detr
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.yolo import CONFIGS as YOLO_CONFIGS
from anydepth_deploy.families.yolo import AnyDepthYOLO
from anydepth_deploy.families.yolo.recognise import recognise_yolo

__all__ = ["FAMILIES", "Family", "recognise"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """A family of any-depth detectors.

    ``recognise`` gives the configuration whose network has keys of these shapes, or None for the
    keys of another family; it raises :class:`CheckpointError` for its own family in a size it
    does not know.
    """

    name: str
    description: str
    sizes: Mapping[str, Any]
    recognise: Callable[[Shapes], Any | None]
    build: Callable[[Any], AnyDepthModel]


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            AnyDepthDETR.family,
            "RT-DETR with adaptive depth",
            DETR_CONFIGS,
            recognise_detr,
            AnyDepthDETR,
        ),
        Family(
            AnyDepthYOLO.family,
            "YOLOv12 with adaptive depth",
            YOLO_CONFIGS,
            recognise_yolo,
            AnyDepthYOLO,
        ),
    )
}


def recognise(shapes: Shapes, origin: str) -> tuple[Family, Any]:
    """Family and configuration of a state dict with these shapes; ``origin`` is for messages.

    Raises :class:`CheckpointError`.
    """
    for family in FAMILIES.values():
        config = family.recognise(shapes)
        if config is not None:
            return family, config
    raise CheckpointError(
        f"{origin}: not the weights of a known any-depth detector (families: "
        f"{', '.join(FAMILIES)}); its {len(shapes)} keys begin with {shorten(list(shapes), 4)}"
    )
