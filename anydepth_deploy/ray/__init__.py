"""Very many pictures, on Ray: a stage of Ray Data, and the whole job around it.

Importing this imports neither Ray nor pyarrow, which the extra ``ray`` brings::

    from anydepth_deploy.ray import Detect, predict_many
"""

from __future__ import annotations

from anydepth_deploy.ray.coco import write_coco
from anydepth_deploy.ray.job import Report, predict_many
from anydepth_deploy.ray.stage import Detect

__all__ = ["Detect", "Report", "predict_many", "write_coco"]
