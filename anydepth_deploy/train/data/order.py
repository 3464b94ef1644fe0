"""Which pictures a step sees, and where its randomness comes from.

Both are functions of the seed and of the place in the run alone: a run that was interrupted goes on
as if it had not been, and any number of processes see what one would.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

__all__ = ["Order", "epoch_order", "picture_randomness", "size_randomness", "step_generator"]


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of all pictures in an epoch: int64 [count]."""
    return torch.randperm(count, generator=_generator(seed, 0, epoch))


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Randomness of one step in the process ``rank``. It depends on nothing before, so a run
    resumes exactly."""
    return _generator(seed, 1, step, *([rank] if rank else []))


def picture_randomness(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Randomness of what is done to a picture in an epoch."""
    return np.random.default_rng([seed, 2, epoch, index])


def size_randomness(seed: int, step: int) -> np.random.Generator:
    """Randomness of the size of a step's pictures, the same in all processes."""
    return np.random.default_rng([seed, 3, step])


class Order:
    """All pictures in a new random order every epoch, ``batch`` of them a step; a step may reach
    into the next epoch."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count = count
        self.batch = batch
        self.seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Int64 [batch]: the pictures of a step."""
        places = range(step * self.batch, (step + 1) * self.batch)
        return torch.tensor([self.at(place)[1] for place in places])

    def epoch(self, step: int) -> int:
        """The epoch that holds the first picture of a step."""
        return step * self.batch // self.count

    def at(self, place: int) -> tuple[int, int]:
        """The epoch and the picture at a place of the whole run."""
        epoch, index = divmod(place, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.count, self.seed, epoch)
        return epoch, int(self._order[index])


def _generator(*entropy: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mix(entropy))


def _mix(entropy: Iterable[int]) -> int:
    return int(np.random.SeedSequence(tuple(entropy)).generate_state(1, np.uint64)[0]) >> 1
