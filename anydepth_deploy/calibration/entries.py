"""From histograms to the entries of the range table: ranges, and what they cost each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anydepth_deploy.calibration.collect import Histograms
from anydepth_deploy.calibration.histogram import Histogram
from anydepth_deploy.calibration.ranges import Method, choose_range, relative_error
from anydepth_deploy.calibration.table import Entry

__all__ = ["table_entries"]


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    error: float


def table_entries(
    found: Mapping[str, Histograms], method: Method, percentile: float
) -> dict[str, dict[str, Entry]]:
    """Entries by tensor, in alphabetical order, and depth."""
    ranges: dict[int, _Range] = {}  # by histogram: a join has the one of what feeds it

    def range_of(histogram: Histogram) -> _Range:
        if id(histogram) not in ranges:
            low, high = choose_range(histogram, method, percentile)
            ranges[id(histogram)] = _Range(low, high, relative_error(histogram, low, high))
        return ranges[id(histogram)]

    tensors = sorted({name for histograms in found.values() for name in histograms})
    entries: dict[str, dict[str, Entry]] = {}
    for tensor in tensors:
        seen = {depth: found[depth][tensor] for depth in found if tensor in found[depth]}
        own = {depth: range_of(histogram) for depth, histogram in seen.items()}
        low = min(item.low for item in own.values())
        high = max(item.high for item in own.values())
        entries[tensor] = {
            depth: Entry(
                low=item.low,
                high=item.high,
                minimum=seen[depth].minimum,
                maximum=seen[depth].maximum,
                error_own=item.error,
                error_merged=item.error
                if (item.low, item.high) == (low, high)
                else relative_error(seen[depth], low, high),
            )
            for depth, item in own.items()
        }
    return entries
