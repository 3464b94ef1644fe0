"""YOLOv12's detection head: boxes as distributions over distances, classes by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anydepth_deploy.families.yolo.blocks import Conv

__all__ = ["BINS", "STRIDES", "Detect", "decode", "distances", "grid"]

STRIDES = (8, 16, 32)
BINS = 16
"""Bins of the distribution of one side's distance, in units of the stride."""
BIN_SLOPE = 0.5
"""By how much the first bias of each bin is below that of the bin before."""


def grid(size: tuple[int, int], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cell centres of all levels for an input of ``size`` (height, width).

    Returns float32 [A, 2] (x, y in input pixels), fine to coarse and row by row, and the stride of
    each cell, float32 [A, 1].
    """
    points, strides = [], []
    for stride in STRIDES:
        rows, columns = torch.meshgrid(
            torch.arange(size[0] // stride, dtype=torch.float32, device=device),
            torch.arange(size[1] // stride, dtype=torch.float32, device=device),
            indexing="ij",
        )
        cells = torch.stack([columns, rows], -1).reshape(-1, 2)
        points.append((cells + 0.5) * stride)
        strides.append(torch.full_like(cells[:, :1], float(stride)))
    return torch.cat(points), torch.cat(strides)


def distances(box_logits: Tensor, bins: Tensor) -> Tensor:
    """Distances [N, 4, A] to a box's sides (left, top, right, bottom), in units of the stride.

    ``box_logits`` [N, 4 * 16, A] as :class:`Detect` gives them, ``bins`` [16], the distance each
    bin stands for. A side's distance is the expectation of its distribution (Generalized Focal
    Loss, Li et al. 2020, equation 4).
    """
    count = box_logits.shape[-1]
    distribution = box_logits.reshape(-1, 4, BINS, count).softmax(2)
    return (distribution * bins.view(BINS, 1)).sum(2)


def decode(
    box_logits: Tensor, class_logits: Tensor, points: Tensor, strides: Tensor, bins: Tensor
) -> Tensor:
    """Head outputs -> predictions [N, 4 + classes, A]: cx, cy, w, h in input pixels, then scores.

    ``box_logits`` [N, 4 * 16, A] and ``class_logits`` [N, classes, A] as :class:`Detect` gives
    them, ``points`` and ``strides`` of :func:`grid`, ``bins`` as in :func:`distances`.
    """
    sides = distances(box_logits, bins) * strides.T
    near, far = sides[:, :2], sides[:, 2:]
    boxes = torch.cat([points.T + (far - near) * 0.5, near + far], 1)
    return torch.cat([boxes, class_logits.sigmoid()], 1)


class _Expectation(nn.Module):
    """Holds the distances of the bins, 0..15, under the authors' key ``dfl.conv.weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False)
        self.conv.weight.requires_grad_(False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.conv.weight.copy_(torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1))

    @property
    def bins(self) -> Tensor:
        return self.conv.weight.view(BINS)


class Detect(nn.Module):
    """Per level a box branch ``cv2`` and a class branch ``cv3``; shared by all depths."""

    def __init__(self, in_channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.classes = classes
        box_width = max(16, in_channels[0] // 4, 4 * BINS)
        class_width = max(in_channels[0], min(classes, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(
                Conv(channels, box_width, 3),
                Conv(box_width, box_width, 3),
                nn.Conv2d(box_width, 4 * BINS, 1),
            )
            for channels in in_channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(
                _depthwise(channels, class_width),
                _depthwise(class_width, class_width),
                nn.Conv2d(class_width, classes, 1),
            )
            for channels in in_channels
        )
        self.dfl = _Expectation()

    @torch.no_grad()
    def reset_parameters(self, size: tuple[int, int]) -> None:
        """Biases to train from scratch with: boxes of about 3 strides, and five objects in an input
        of ``size`` (height, width), of any class and on any level.

        Alike bins would mean boxes of 15 strides, 120 pixels and more: their overlap to the sixth
        power leaves the assigner of training no signal. So they fall.
        """
        falling = -BIN_SLOPE * torch.arange(BINS, dtype=torch.float32)
        for box, scores, stride in zip(self.cv2, self.cv3, STRIDES, strict=True):
            cells = size[0] * size[1] / stride**2
            box[2].bias.copy_(falling.repeat(4))  # type: ignore[index]
            nn.init.constant_(scores[2].bias, math.log(5 / self.classes / cells))  # type: ignore[index]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [N, C, H/s, W/s] of the three strides -> logits of the sides' distributions
        [N, 4 * 16, A] (left, top, right, bottom) and of the classes [N, classes, A]."""
        boxes = [branch(x).flatten(2) for branch, x in zip(self.cv2, maps, strict=True)]
        scores = [branch(x).flatten(2) for branch, x in zip(self.cv3, maps, strict=True)]
        return torch.cat(boxes, 2), torch.cat(scores, 2)


def _depthwise(in_channels: int, out_channels: int) -> nn.Sequential:
    """A depthwise 3x3 convolution and a 1x1 convolution."""
    return nn.Sequential(
        Conv(in_channels, in_channels, 3, groups=in_channels), Conv(in_channels, out_channels)
    )
