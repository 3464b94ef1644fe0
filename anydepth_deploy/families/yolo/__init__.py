"""AnyDepth-YOLO: YOLOv12 whose backbone and neck can be shortened at run time."""

from __future__ import annotations

from anydepth_deploy.families.yolo.config import CONFIGS, YoloConfig
from anydepth_deploy.families.yolo.model import AnyDepthYOLO

__all__ = ["CONFIGS", "AnyDepthYOLO", "YoloConfig"]
