"""Statistics of latencies: guarded percentiles, confidence intervals of medians and of ratios.

No sample is ever left out. What too few samples cannot say is None, never a guess:

- A percentile p needs n samples with ``1 - p**n >= 0.95``: with fewer, the largest of them may well
  be below it (Wilks' formula for one-sided tolerance limits: S. S. Wilks, 1941).
- Intervals are those of the block bootstrap (P. Hall, J. Horowitz, B.-Y. Jing, 1995: blocks of
  about the cube root of n; circular as by D. Politis and J. Romano, 1992). Latencies that follow
  each other resemble each other; resampling them one by one would promise too much.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.results import Estimate, Latency
from anydepth_deploy.errors import ResultError

__all__ = [
    "CONFIDENCE",
    "FEWEST",
    "block_length",
    "difference_of_medians",
    "median",
    "percentile",
    "ratio_of_medians",
    "samples_needed",
    "summarise",
]

CONFIDENCE = 0.95

FEWEST = 10
"""Samples below which no interval is given."""

RESAMPLES = 1000
CHUNK = 1 << 21
"""Numbers resampled at a time."""

Floats = NDArray[np.float64]


def samples_needed(percent: float) -> int:
    """Samples that a percentile (0 to 100, exclusive) needs.

    The smallest n with ``1 - p**n >= 0.95``: 5 for the median, 29 for p90, 299 for p99, 2995 for
    p99.9.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(percent / 100))


def percentile(samples: Floats, percent: float) -> float:
    """A percentile of ``samples``, interpolated linearly (Hyndman and Fan's type 7).

    Raises :class:`ResultError` where there are too few samples.
    """
    needed = samples_needed(percent)
    if len(samples) < needed:
        raise ResultError(
            f"{len(samples)} samples are too few for percentile {percent:g}, which needs {needed}: "
            "measure for longer"
        )
    return float(np.percentile(samples, percent))


def summarise(
    samples_ns: NDArray[np.integer[Any]] | Sequence[int], percents: Sequence[float]
) -> Latency:
    """Summary of durations in nanoseconds; percentiles of too few samples are None.

    Raises :class:`ResultError` where there is no sample.
    """
    values = np.asarray(samples_ns, np.float64) / 1e6
    if not len(values):
        raise ResultError("no request was measured: measure for longer")
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return Latency(
        count=len(values),
        minimum_ms=float(values.min()),
        mean_ms=mean,
        deviation_ms=deviation,
        variation=deviation / mean if deviation is not None and mean > 0 else None,
        median_ms=median(values),
        maximum_ms=float(values.max()),
        percentiles_ms={
            f"{percent:g}": percentile(values, percent)
            if len(values) >= samples_needed(percent)
            else None
            for percent in percents
        },
    )


def median(samples: Floats, *, seed: int = 0) -> Estimate:
    """Median of samples in the order they were taken, with its interval."""
    low, high = _interval((samples,), lambda picked: _median(picked[0]), seed)
    return Estimate(value=float(np.median(samples)), low=low, high=high)


def ratio_of_medians(
    numerator: Floats, denominator: Floats, *, paired: bool, seed: int = 0
) -> Estimate:
    """How many times larger one latency is than another, with its interval.

    ``paired``: samples of the same place were taken right after each other, so that drift hits both
    alike; the estimate is the median of their ratios. Otherwise it is the ratio of the medians.
    """
    if paired:
        return median(numerator / denominator, seed=seed)
    return _of_medians(operator.truediv, numerator, denominator, seed)


def difference_of_medians(one: Floats, other: Floats, *, seed: int = 0) -> Estimate:
    """Median of ``one`` less that of ``other``, with its interval."""
    return _of_medians(operator.sub, one, other, seed)


def _of_medians(
    compare: Callable[[Any, Any], Any], one: Floats, other: Floats, seed: int
) -> Estimate:
    low, high = _interval((one, other), lambda picked: compare(*map(_median, picked)), seed)
    return Estimate(value=float(compare(_median(one), _median(other))), low=low, high=high)


def _median(samples: Floats) -> Floats:
    found: Floats = np.median(samples, axis=-1)
    return found


def _interval(
    series: Sequence[Floats],
    statistic: Callable[[Sequence[Floats]], Floats],
    seed: int,
) -> tuple[float | None, float | None]:
    """Percentile interval of ``statistic`` over ``series``, each resampled by itself."""
    if min(len(values) for values in series) < FEWEST:
        return None, None
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(len(values) for values in series))
    found = []
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        found.append(statistic([values[_places(len(values), count, rng)] for values in series]))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(found), [tail, 100 - tail])
    return float(low), float(high)


def _places(count: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places drawn in blocks that wrap around, [resamples, count]."""
    length = block_length(count)
    starts = rng.integers(0, count, (resamples, -(-count // length), 1))
    places: NDArray[np.int64] = (starts + np.arange(length)) % count
    return places.reshape(resamples, -1)[:, :count]


def block_length(count: int) -> int:
    """Samples in a block of the bootstrap."""
    return max(1, round(math.pow(count, 1 / 3)))
