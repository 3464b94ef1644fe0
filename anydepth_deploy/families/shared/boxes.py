"""Box arithmetic for training: conversions, intersection over union, its generalised and
its complete form.

Boxes are float tensors [..., 4]. ``cxcywh`` is centre x, centre y, width, height; ``xyxy`` is
left, top, right, bottom. Units do not matter as long as they agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["box_iou", "complete_iou", "cxcywh_to_xyxy", "generalized_iou", "xyxy_to_cxcywh"]


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre form [..., 4] to corner form [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corner form [..., 4] to centre form [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of ``xyxy`` boxes, broadcast: [..., 4], [..., 4] -> [...].

    Two boxes without area give 0.
    """
    inter, union = _inter_union(a, b)
    return inter / union.clamp(min=1e-9)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union of ``xyxy`` boxes, broadcast: [...] in -1..1.

    IoU minus the share of the smallest enclosing box that the union leaves empty
    (Rezatofighi et al., 2019).
    """
    inter, union = _inter_union(a, b)
    hull = _area(a[..., :2].minimum(b[..., :2]), a[..., 2:].maximum(b[..., 2:])).clamp(min=1e-9)
    return inter / union.clamp(min=1e-9) - (hull - union) / hull


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """Complete intersection over union of ``xyxy`` boxes, broadcast: [...], at most 1.

    IoU minus the squared distance of the centres over the squared diagonal of the enclosing box,
    minus ``v² / (1 - IoU + v)`` with ``v = 4 / π² (atan(w_b / h_b) - atan(w_a / h_a))²``, whose
    weight ``v / (1 - IoU + v)`` is a constant to the gradient (Zheng et al., 2020).
    """
    inter, union = _inter_union(a, b)
    iou = inter / union.clamp(min=1e-9)
    hull = a[..., 2:].maximum(b[..., 2:]) - a[..., :2].minimum(b[..., :2])
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = centres.square().sum(-1) / hull.square().sum(-1).clamp(min=1e-9)
    shape = 4 / math.pi**2 * (_slope(b) - _slope(a)).square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape).clamp(min=1e-9)
    return iou - distance - weight * shape


def _slope(boxes: Tensor) -> Tensor:
    """Angle of width against height, taken before broadcasting: it is the dear part."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.atan(width / height.clamp(min=1e-9))


def _inter_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inter = _area(a[..., :2].maximum(b[..., :2]), a[..., 2:].minimum(b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    return inter, union


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).clamp(min=0).unbind(-1)
    return width * height
