"""Interleaved timing of any calls: what is compared runs in turn, so that drift hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.timing import plans
from anydepth_deploy.bench.timing.clock import Clock, MonotonicClock
from anydepth_deploy.bench.timing.loops import Log, closed_loop

__all__ = ["interleave", "median_ratio"]

Key = TypeVar("Key")


def interleave(
    calls: Mapping[Key, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 2,
    seed: int = 0,
    clock: Clock | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[Key, NDArray[np.float64]]:
    """Seconds of each call in each round, float64 [repeats]; by the system's clock where none is
    given.

    A round makes every call once, in an order drawn anew each time; ``warmup`` rounds come first
    and are not kept. Sample i of all calls belongs to round i, so ratios can be taken in pairs.
    """

    def goes_on(number: int) -> bool:
        if progress is not None:
            progress("timing", number, repeats + warmup)
        return number < repeats + warmup

    def timed(call: Callable[[], object]) -> Callable[[int], object]:
        return lambda item: call()

    log = Log()
    closed_loop(
        [timed(call) for call in calls.values()],
        plans.interleaved(len(calls), seed),
        1,
        goes_on,
        MonotonicClock() if clock is None else clock,
        log,
        lambda slack: None,
    )
    rows = log.rows[log.rows[:, 1] >= warmup]
    took = (rows[:, 4] - rows[:, 3]) / 1e9
    return {key: took[rows[:, 0] == index] for index, key in enumerate(calls)}


def median_ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Median of the ratios of paired samples."""
    return float(np.median(one / other))
