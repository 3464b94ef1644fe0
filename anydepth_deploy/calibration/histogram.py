"""A histogram that does not know its range beforehand, and is exact all the same.

The bins are uniform over [-R, R], R a power of two. When a larger value comes, R doubles and
neighbouring bins are added up in pairs: no count is ever split or moved to a wrong bin. So a
histogram depends only on the set of values it has seen, not on their order, on how they were cut
into batches, or on interruptions; and two histograms can be merged without loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Histogram"]

BINS = 8192
"""Number of bins, half of them for each sign."""

HALF = BINS // 2

SMALLEST_EXPONENT = -100
"""R is never below 2**-100: the factor that turns values into bins must be a float32."""

BLOCK = 1 << 16
"""Values counted at once: what is needed meanwhile stays in the processor's cache."""


class Histogram:
    """Counts of one tensor's values at one depth.

    ``minimum``, ``maximum``: exact; inf and -inf as long as nothing was added. ``count``: of all
    values. ``zeros``: values that are exactly 0, which quantisation keeps exactly; they are in no
    bin. ``counts``: int64 [BINS]; positive values x are in bin ``BINS / 2 + floor(x / width)``,
    negative ones in its mirror image. ``exponent``: R = 2**exponent is the smallest power of two
    above every |x|, but at least 2**-100.
    """

    def __init__(self) -> None:
        self.minimum = math.inf
        self.maximum = -math.inf
        self.count = 0
        self.zeros = 0
        self.exponent = SMALLEST_EXPONENT
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} values in [{self.minimum}, {self.maximum}]>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        mine, theirs = self.to_arrays(), other.to_arrays()
        return all(np.array_equal(mine[name], theirs[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent) / HALF

    @property
    def edges(self) -> NDArray[np.float64]:
        """Borders of the bins, float64 [BINS + 1]."""
        return np.asarray(np.arange(-HALF, HALF + 1) * self.width)

    def add(self, values: NDArray[np.generic]) -> None:
        """Count ``values``: float32 or float16, of any shape.

        Raises :class:`FloatingPointError` when one is not finite, :class:`TypeError` for another
        dtype; the histogram is unchanged then.
        """
        if values.dtype not in (np.float32, np.float16):
            raise TypeError(f"histograms are of float32 or float16 values, found {values.dtype}")
        if not values.size:
            return
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN shows in both
            raise FloatingPointError(f"values that are not finite: from {low} to {high}")
        self._cover(max(-low, high))
        # A power of two: the product is exact, and its integer part is the bin.
        scale = np.float32(math.ldexp(1.0, -self.exponent) * HALF)
        scaled = np.empty(min(BLOCK, flat.size), np.float32)
        bins = np.empty(scaled.size, np.int32)
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK].astype(np.float32, copy=False)
            size = block.size
            np.multiply(block, scale, out=scaled[:size])
            np.copyto(bins[:size], scaled[:size], casting="unsafe")  # truncates: towards zero
            bins[:size] += HALF
            if low < 0:
                bins[:size] -= block < 0  # of the bins either side of zero, the left one
            zeros = size - np.count_nonzero(block)
            self.counts += np.bincount(bins[:size], minlength=BINS)
            self.counts[HALF] -= zeros
            self.zeros += zeros
            self.count += size
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def merge(self, other: Histogram) -> None:
        """Add what ``other`` has counted, as if its values had been added here."""
        exponent = max(self.exponent, other.exponent)
        self.counts = self._at(exponent) + other._at(exponent)
        self.exponent = exponent
        self.count += other.count
        self.zeros += other.zeros
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def copy(self) -> Histogram:
        """An independent copy."""
        found = Histogram()
        found.minimum, found.maximum = self.minimum, self.maximum
        found.count, found.zeros, found.exponent = self.count, self.zeros, self.exponent
        found.counts = self.counts.copy()
        return found

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything, as arrays of fixed shapes: ``counts`` int64 [BINS], ``totals`` int64 [3]
        (count, zeros, exponent) and ``limits`` float64 [2] (minimum, maximum)."""
        return {
            "counts": self.counts.copy(),
            "totals": np.array([self.count, self.zeros, self.exponent], np.int64),
            "limits": np.array([self.minimum, self.maximum], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Histogram:
        """What :meth:`to_arrays` gave; raises :class:`ValueError` for anything else."""
        found = cls()
        for name, expected in found.to_arrays().items():
            array = arrays.get(name)
            if array is None or array.dtype != expected.dtype or array.shape != expected.shape:
                raise ValueError(f"a histogram needs '{name}', {expected.dtype} {expected.shape}")
        found.counts = np.array(arrays["counts"], np.int64)
        found.count, found.zeros, found.exponent = (int(value) for value in arrays["totals"])
        found.minimum, found.maximum = (float(value) for value in arrays["limits"])
        found._check()
        return found

    def _check(self) -> None:
        if self.zeros < 0 or self.counts.min() < 0:
            raise ValueError("a histogram with negative counts")
        if int(self.counts.sum()) + self.zeros != self.count:
            raise ValueError("a histogram whose counts do not add up")
        empty = (math.inf, -math.inf, SMALLEST_EXPONENT)
        if self.count:
            largest = max(abs(self.minimum), abs(self.maximum))
            if not self.minimum <= self.maximum or self.exponent != _exponent(largest):
                raise ValueError("a histogram whose limits do not fit its range")
        elif (self.minimum, self.maximum, self.exponent) != empty:
            raise ValueError("a histogram of nothing that has limits")

    def _cover(self, largest: float) -> None:
        exponent = max(self.exponent, _exponent(largest))
        self.counts, self.exponent = self._at(exponent), exponent

    def _at(self, exponent: int) -> NDArray[np.int64]:
        """The counts for R = 2**exponent, which is not below the present one."""
        if exponent == self.exponent:
            return self.counts
        joined = min(1 << (exponent - self.exponent), HALF)  # bins that become one
        kept = HALF // joined
        found = np.zeros(BINS, np.int64)
        found[HALF : HALF + kept] = self.counts[HALF:].reshape(kept, joined).sum(1)
        found[HALF - kept : HALF] = self.counts[:HALF].reshape(kept, joined).sum(1)
        return found


def _exponent(largest: float) -> int:
    """The exponent of the smallest power of two above ``largest``; raises ValueError."""
    if not math.isfinite(largest):
        raise ValueError(f"no power of two covers {largest}")
    return max(SMALLEST_EXPONENT, math.frexp(largest)[1]) if largest else SMALLEST_EXPONENT
