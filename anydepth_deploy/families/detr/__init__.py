"""AnyDepth-DETR: RT-DETR whose backbone, encoder and decoder can be shortened at run time."""

from __future__ import annotations

from anydepth_deploy.families.detr.config import CONFIGS, DetrConfig
from anydepth_deploy.families.detr.model import AnyDepthDETR

__all__ = ["CONFIGS", "AnyDepthDETR", "DetrConfig"]
