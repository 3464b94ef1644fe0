"""Exponential moving average of a model's state: the weights that get deployed.

``torch.optim.swa_utils`` does the arithmetic; its ``AveragedModel`` takes the first update whole
instead of averaging it, names the entries ``module.*`` and keeps a second copy of the network, so
that other numbers would be written under other names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["Ema"]


class Ema:
    """Averages of all floating-point parameters and buffers of a model.

    After ``n`` updates the decay is ``decay * (1 - exp(-n / warmup))``: the average follows
    fast at first and slowly later. The authors use 0.9999 and 2000; short runs need less.

    Attributes:
        state: the averages by name; entries that are not floating point are copied.
        updates: how many updates there were.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.9999, warmup: float = 2000.0) -> None:
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's current state."""
        self.updates += 1
        decay = self.decay * (1.0 - math.exp(-self.updates / self.warmup))
        current = model.state_dict()
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, average in self.state.items():
            if average.is_floating_point():
                averages.append(average)
                values.append(current[name])
            else:
                average.copy_(current[name])
        follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        follow(averages, values, self.updates)

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Continue from stored averages; entries that ``state`` lacks keep their values."""
        self.updates = updates
        for name, value in state.items():
            self.state[name].copy_(value)
