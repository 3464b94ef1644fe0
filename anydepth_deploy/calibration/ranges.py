"""From a histogram to the range that 8 bits are spread over, and the error that this makes."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.calibration.histogram import BINS, Histogram
from anydepth_deploy.errors import UsageError

__all__ = ["METHODS", "PERCENTILE", "Method", "choose_range", "relative_error"]

Method = Literal["percentile", "minmax", "entropy"]

METHODS: tuple[Method, ...] = get_args(Method)

PERCENTILE = 99.99
"""Per cent of the values that the range keeps, by default."""

LEVELS = 128
"""Of |x| in symmetric int8: what :func:`_entropy` judges thresholds by."""

HALF = BINS // 2


def choose_range(
    histogram: Histogram, method: Method = "percentile", percentile: float = PERCENTILE
) -> tuple[float, float]:
    """The range (low, high) to quantise a tensor with; low <= 0 <= high.

    - ``minmax``: all values that were seen.
    - ``percentile``: all but the outermost ``100 - percentile`` per cent of the values, rounded
      down to whole values. Half of these are cut off at either end; an end that has fewer values
      on its side of zero leaves the rest to the other, so that all of a ReLU's are cut off at the
      top. Exact to one bin.
    - ``entropy``: the threshold on |x| of :func:`_entropy`, for both sides.

    No range is wider than what was seen. A tensor that is always zero has the range (0, 0).
    Raises :class:`UsageError` for an unknown method or a percentile that is not in (0, 100].
    """
    low, high = min(histogram.minimum, 0.0) + 0.0, max(histogram.maximum, 0.0) + 0.0  # no -0.0
    if method == "minmax":
        return low, high
    if method == "percentile":
        if not 0 < percentile <= 100:
            raise UsageError(f"percentile {percentile}: expected more than 0 and at most 100")
        return _percentile(histogram, percentile, low, high)
    if method == "entropy":
        threshold = _entropy(histogram)
        return max(low, -threshold), min(high, threshold)
    raise UsageError(f"unknown method '{method}': expected one of {', '.join(METHODS)}")


def relative_error(
    histogram: Histogram, low: float, high: float, *, symmetric: bool = False
) -> float:
    """||x - Q(x)|| / ||x|| over all values, Q being quantisation to 8 bits with range [low, high].

    Asymmetric: uint8, 255 steps from ``low`` to ``high``, the zero point rounded to an integer.
    ``symmetric``: int8, 127 steps to max(|low|, |high|) (values below reach step -128, as
    ONNX's QuantizeLinear has it).

    Estimated from the histogram: values are taken as spread evenly over their bin, and
    (x - Q(x))**2 is integrated over it, rounding and clipping alike; exact zeros stay exact. So a
    tensor of few distinct values may do better or worse. Where a range is empty, Q is 0. The
    error of values that are all zero is 0.
    """
    if low > 0 or high < 0:
        raise ValueError(f"a range must hold zero, found [{low}, {high}]")
    left, right, counts = _occupied(histogram)
    energy = float(counts @ ((left**2 + left * right + right**2) / 3))
    if energy == 0:
        return 0.0
    step = max(-low, high) / 127 if symmetric else (high - low) / 255
    first = -128 if symmetric else (-round(-low / step) if step else 0)
    if step == 0:
        return 1.0
    error = float(counts @ _mean_square(left, right, step, first, first + 255))
    return float(np.sqrt(error / energy))


def _mean_square(
    left: NDArray[np.float64], right: NDArray[np.float64], step: float, first: int, last: int
) -> NDArray[np.float64]:
    """Mean of (x - Q(x))**2 over [left, right], Q(x) = n * step with n rounded to first..last.

    From 0 to x the integral is n * step**3 / 12 + (x - Q(x))**3 / 3: each whole step adds its
    twelfth, and beyond the last step the cube goes on as the clipping error.
    """

    def parts(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        with np.errstate(over="ignore"):  # far beyond a tiny range
            n = np.clip(np.rint(x / step), first, last)
        return n, x - n * step

    n0, e0 = parts(left)
    n1, e1 = parts(right)
    width = right - left
    # Within one step, the mean of the square is a polynomial: no difference of near-equal cubes.
    inside = (e0 * e0 + e0 * e1 + e1 * e1) / 3
    with np.errstate(divide="ignore", invalid="ignore"):
        across = ((n1 - n0) * step**3 / 12 + (e1**3 - e0**3) / 3) / width
    return np.where(n0 == n1, inside, np.maximum(across, 0))


def _occupied(
    histogram: Histogram,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Borders and counts of the bins that hold values, cut to what was seen."""
    (found,) = np.nonzero(histogram.counts)
    edges = histogram.edges
    left = np.maximum(edges[found], histogram.minimum)
    right = np.minimum(edges[found + 1], histogram.maximum)
    return left, right, histogram.counts[found].astype(np.float64)


def _percentile(
    histogram: Histogram, percentile: float, low: float, high: float
) -> tuple[float, float]:
    counts = histogram.counts
    negative, positive = counts[:HALF][::-1], counts[HALF:]  # from zero outwards
    # The small share makes up for 100 - 99.99 being a little less than 0.01.
    cut = int(histogram.count * (100 - percentile) / 100 * (1 + 1e-9) + 1e-9)
    totals = int(negative.sum()), int(positive.sum())
    below = min(cut // 2, totals[0])
    above = min(cut - below, totals[1])
    below = min(cut - above, totals[0])
    width = histogram.width
    return 0.0 - _outermost(negative, below, width, -low), _outermost(positive, above, width, high)


def _outermost(counts: NDArray[np.int64], cut: int, width: float, limit: float) -> float:
    """The distance from zero that ``cut`` values lie beyond, none of them beyond ``limit``.

    ``counts``: of bins from zero outwards. Within a bin values are taken as evenly spread.
    """
    if cut == 0:
        return limit
    beyond = np.cumsum(counts[::-1])[::-1]  # in this bin and further out
    (more,) = np.nonzero(beyond > cut)
    if not more.size:
        return 0.0
    index = int(more[-1])  # holds the outermost of the values that are kept
    further = int(beyond[index] - counts[index])
    outer, inner = min((index + 1) * width, limit), index * width
    return outer - (cut - further) / int(counts[index]) * (outer - inner)


def _entropy(histogram: Histogram) -> float:
    """The threshold on |x| whose 128 levels lose least information.

    After S. Migacz, "8-bit Inference with TensorRT", GTC 2017. For every threshold, P is the
    histogram of |x| up to it, with all that lies beyond added to the last bin; Q is the same
    without what lies beyond, averaged within each of 128 levels over the bins where P is not
    empty. The threshold with the smallest Kullback-Leibler divergence from Q to P wins, the
    largest of equals. Exact zeros are left out, for they cost nothing at any threshold.

    All thresholds at once: within a level Q is constant, so that sums over bins are differences
    of running sums at the borders of levels.
    """
    counts = (histogram.counts[HALF:] + histogram.counts[:HALF][::-1]).astype(np.float64)
    total = counts.sum()
    if total == 0:
        return 0.0
    last = int(np.nonzero(counts)[0][-1]) + 1
    thresholds = np.arange(min(LEVELS, last), last + 1)
    borders = np.arange(LEVELS + 1) * thresholds[:, None] // LEVELS
    inside = _running(counts)
    occupied = _running(counts > 0)
    entropy = _running(_xlogx(counts))

    within = inside[borders[:, 1:]] - inside[borders[:, :-1]]
    bins = occupied[borders[:, 1:]] - occupied[borders[:, :-1]]
    outside = total - inside[thresholds]
    final = counts[thresholds - 1]  # the last bin, before and after what lies beyond joins it
    bins[:, -1] += (final == 0) & (outside > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logq = np.where(within > 0, np.log(within / bins), -np.inf)
        # sum P log P - sum P log Q, both scaled to 1 in the end
        cross = np.where(within > 0, within * logq, 0).sum(1)
        cross += np.where(outside > 0, outside * logq[:, -1], 0)
        plogp = entropy[thresholds] - _xlogx(final) + _xlogx(final + outside)
        divergence = (plogp - cross) / total + np.log(inside[thresholds] / total)
    divergence = np.where(np.isfinite(divergence), divergence, np.inf)
    best = len(divergence) - 1 - int(np.argmin(divergence[::-1]))
    return float(thresholds[best] * histogram.width)


def _running(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _xlogx(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(np.where(values > 0, values, 1))
