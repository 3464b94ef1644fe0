"""Non-maximum suppression as a stage of a network.

torch has no such operator, so one is registered: torch runs it with the host's implementation,
and the exporter turns it into ONNX's NonMaxSuppression.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anydepth_deploy.detections import NOTHING
from anydepth_deploy.suppression import Suppression
from anydepth_deploy.suppression import kept_scores as kept_scores_numpy

__all__ = ["Suppress", "kept_scores"]


@torch.library.custom_op("anydepth::kept_scores", mutates_args=())
def kept_scores(boxes: Tensor, scores: Tensor, iou: float, score: float, limit: int) -> Tensor:
    """See :func:`anydepth_deploy.suppression.kept_scores`."""
    kept = kept_scores_numpy(
        boxes.numpy(force=True), scores.numpy(force=True), iou=iou, score=score, limit=limit
    )
    return torch.from_numpy(kept).to(scores.device)


@kept_scores.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, score: float, limit: int) -> Tensor:
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


class Suppress(nn.Module):
    """Predictions [N, 4 + classes, A] (cx, cy, w, h in input pixels, then scores) -> the best
    ``count`` detections of all classes after suppression: labels int64 [N, K], boxes float32
    [N, K, 4] (x1, y1, x2, y2) and scores float32 [N, K]; label -1 where there are fewer."""

    def __init__(self, rule: Suppression, count: int) -> None:
        super().__init__()
        self.rule, self.count = rule, count

    def forward(self, predictions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centre, half = predictions[:, :2], predictions[:, 2:4] * 0.5
        boxes = torch.cat([centre - half, centre + half], 1).transpose(1, 2)
        scores = predictions[:, 4:]
        kept = kept_scores(
            boxes, scores, self.rule.iou_threshold, self.rule.score_threshold, self.count
        )
        classes, anchors = scores.shape[1:]
        values, index = kept.flatten(1).topk(min(self.count, classes * anchors), dim=1)
        labels = torch.div(index, anchors, rounding_mode="trunc")  # exports as one node
        anchor = index - labels * anchors
        corners = boxes.gather(1, anchor[..., None].expand(-1, -1, 4))
        found = values > 0
        return (
            torch.where(found, labels, NOTHING),
            torch.where(found[..., None], corners, 0.0),
            values,
        )
