"""How far a run is, and what its last steps lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from anydepth_deploy.train.config import Progress, TrainConfig
from anydepth_deploy.train.step import StepLosses

__all__ = ["Clock", "Recent", "progress_of"]


class Clock:
    """How far a run is, in steps or in minutes."""

    def __init__(self, config: TrainConfig, steps: int, step: int, earlier: float) -> None:
        self.step = step
        self.steps = None if config.minutes is not None else steps
        self._config = config
        self._earlier = earlier
        self._start = time.monotonic()

    def advance(self) -> None:
        self.step += 1

    @property
    def seconds(self) -> float:
        """Of training, those before an interruption included."""
        return self._earlier + time.monotonic() - self._start

    @property
    def fraction(self) -> float:
        if self.steps is None:
            assert self._config.minutes is not None
            return min(1.0, self.seconds / (60 * self._config.minutes))
        return min(1.0, self.step / self.steps)

    @property
    def finished(self) -> bool:
        return self.fraction >= 1.0

    @property
    def pictures_per_second(self) -> float:
        """Over the whole run, as its seconds are."""
        return self.step * self._config.batch / max(self.seconds, 1e-9)


class Recent:
    """Mean losses of the last steps, those before an interruption (``losses``) included."""

    def __init__(self, losses: Sequence[tuple[float, float]] = (), keep: int = 100) -> None:
        self._last = deque(losses, keep)

    def add(self, report: StepLosses | Progress) -> None:
        self._last.append((report.super_loss, report.base_loss))

    @property
    def losses(self) -> tuple[tuple[float, float], ...]:
        """Super's and base's of each step."""
        return tuple(self._last)

    @property
    def super_loss(self) -> float:
        return sum(pair[0] for pair in self._last) / max(1, len(self._last))

    @property
    def base_loss(self) -> float:
        return sum(pair[1] for pair in self._last) / max(1, len(self._last))


def progress_of(
    steps: int, clock: Clock, learning_rate: float, losses: StepLosses, waited: float
) -> Progress:
    """What is told after a step: ``waited`` seconds of all were spent waiting for pictures."""
    return Progress(
        step=clock.step,
        steps=None if clock.steps is None else steps,
        fraction=clock.fraction,
        seconds=clock.seconds,
        learning_rate=learning_rate,
        super_loss=losses.super_loss,
        base_loss=losses.base_loss,
        super_terms={name: float(term) for name, term in losses.super_terms.items()},
        base_terms={name: float(term) for name, term in losses.base_terms.items()},
        pictures_per_second=clock.pictures_per_second,
        waited=waited / max(clock.seconds, 1e-9),
    )
