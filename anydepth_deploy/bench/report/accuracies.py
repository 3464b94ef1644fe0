"""Accuracy beside what was timed: by the data it was measured on, never mixed."""

from __future__ import annotations

from collections.abc import Sequence

from anydepth_deploy.annotations.evaluations import DataSet, fullest
from anydepth_deploy.bench.report.facts import when
from anydepth_deploy.bench.results import BenchResult, DepthResult

__all__ = ["average_precision", "data_of", "data_sets", "main_data_set"]


def data_of(depth: DepthResult) -> DataSet | None:
    """What the AP of a depth was measured on; None where there is no AP."""
    found = depth.accuracy
    if found is None or found.ap < 0:
        return None
    return DataSet(found.data, found.pictures, found.data_sha256)


def average_precision(depth: DepthResult, data: DataSet | None = None) -> float | None:
    """AP in percent, of ``data`` alone if that is given; -1 stands for data without such
    objects."""
    mine = data_of(depth)
    if mine is None or depth.accuracy is None or data not in (None, mine):
        return None
    return depth.accuracy.ap


def data_sets(results: Sequence[BenchResult]) -> list[DataSet]:
    """All data that AP of these results was measured on, in their order."""
    found = [data_of(depth) for result in results for depth in result.depths]
    return list(dict.fromkeys(data for data in found if data is not None))


def main_data_set(results: Sequence[BenchResult]) -> DataSet | None:
    """The one with AP of the most depths, of the newest result among several; None without AP."""
    counts: dict[DataSet, int] = {}
    for result in sorted(results, key=when, reverse=True):
        for data in map(data_of, result.depths):
            if data is not None:
                counts[data] = counts.get(data, 0) + 1
    return fullest(counts)
