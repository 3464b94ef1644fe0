"""What the pictures of a batch hold: the shared form of the ground truth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Targets"]


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded to the same number per picture.

    ``labels`` int64 [N, T], -1 where there is no object; ``boxes`` float32 [N, T, 4] as
    cx, cy, w, h in 0..1, anything where there is no object.
    """

    labels: Tensor
    boxes: Tensor

    @property
    def valid(self) -> Tensor:
        """Bool [N, T]: where there is an object."""
        return self.labels >= 0

    @property
    def count(self) -> int:
        """How many objects there are in the batch, at least 1: losses are divided by it."""
        return max(1, int(self.valid.sum()))

    def repeat(self, times: int) -> Targets:
        """The same targets ``times`` over: [times * N, T]."""
        return Targets(self.labels.repeat(times, 1), self.boxes.repeat(times, 1, 1))
