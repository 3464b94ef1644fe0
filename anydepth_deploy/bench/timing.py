"""Interleaved timing: what is compared is run in turn, so that drift hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["interleave", "median_ratio"]

Key = TypeVar("Key")


def interleave(
    calls: Mapping[Key, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 2,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[Key, NDArray[np.float64]]:
    """Seconds of each call in each round, float64 [repeats].

    A round makes every call once, in an order drawn anew each time; ``warmup`` rounds come first
    and are not kept. Sample i of all calls belongs to round i, so ratios can be taken in pairs.
    """
    keys = list(calls)
    order = random.Random(seed)
    samples: dict[Key, list[float]] = {key: [] for key in keys}
    for number in range(-warmup, repeats):
        if progress is not None:
            progress("timing", number + warmup, repeats + warmup)
        for key in order.sample(keys, len(keys)):
            began = time.perf_counter()
            calls[key]()
            took = time.perf_counter() - began
            if number >= 0:
                samples[key].append(took)
    return {key: np.asarray(values) for key, values in samples.items()}


def median_ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Median of the ratios of paired samples."""
    return float(np.median(one / other))
