"""YOLOv12 without any-depth, a family of one depth: the layers of AnyDepth-YOLO with one norm set.

It is a family of its own, though its network is AnyDepth-YOLO's at super. Families are what
manifests, results and published figures are compared by, and sizes of the same name are other
networks here: they have other scales, and an accuracy of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anydepth_deploy.families.family import Family
from anydepth_deploy.families.yolo.config import ONE_DEPTH_CONFIGS, YoloConfig
from anydepth_deploy.families.yolo.outputs import YoloOutputs
from anydepth_deploy.families.yolo.recognise import recognise_yolov12

if TYPE_CHECKING:
    from anydepth_deploy.families.yolo.model import YOLOv12

__all__ = ["FAMILY"]


def _build(config: YoloConfig) -> YOLOv12:
    from anydepth_deploy.families.yolo.model import YOLOv12

    return YOLOv12(config)


FAMILY = Family(
    name="yolov12",
    title="YOLOv12",
    description="YOLOv12 without adaptive depth",
    sizes=ONE_DEPTH_CONFIGS,
    recognise=recognise_yolov12,
    outputs=YoloOutputs(),
    build=_build,
)
