"""What the pictures of a batch hold: the shared form of the ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Targets"]


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded to the same number per picture.

    ``labels`` int64 [N, T], -1 where there is no object; ``boxes`` float32 [N, T, 4] as
    cx, cy, w, h in 0..1, anything where there is no object. ``counted``: what losses are divided
    by where it is not the number of objects here: their mean over the batches that are added up to
    one step, in this process and in others, of which all together have one at least.
    """

    labels: Tensor
    boxes: Tensor
    counted: float | None = None

    @property
    def valid(self) -> Tensor:
        """Bool [N, T]: where there is an object."""
        return self.labels >= 0

    @property
    def count(self) -> float:
        """What losses are divided by: the objects of the batch, at least 1, or ``counted``."""
        return max(1.0, float(self.valid.sum())) if self.counted is None else self.counted

    def to(self, device: torch.device) -> Targets:
        """The same on ``device``."""
        labels = self.labels.to(device, non_blocking=True)
        return Targets(labels, self.boxes.to(device, non_blocking=True), self.counted)

    def repeat(self, times: int) -> Targets:
        """The same targets ``times`` over: [times * N, T]."""
        boxes = self.boxes.repeat(times, 1, 1)
        return Targets(self.labels.repeat(times, 1), boxes, self.counted)
