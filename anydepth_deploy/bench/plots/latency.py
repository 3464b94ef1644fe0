"""Latency itself: how it is distributed, and what throughput it comes with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anydepth_deploy.bench.plots.style import Drawn, Series, handle, lighter, log_axis, ring, tidy
from anydepth_deploy.bench.plots.tags import FAINT, INK, Tag, top_tags
from anydepth_deploy.bench.report.facts import device_name
from anydepth_deploy.bench.results import BenchResult, Latency

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_distribution", "draw_throughput"]

SWEPT = ("batch", "streams", "rate", "scenario", "duration_s", "count", "seed")
"""Settings that may differ between results whose points are joined: batch, streams or rate, and
what changes with them."""

NAMES = 0.19
"""Share of a panel of distributions that the names of the depths take."""

Point = tuple[float, float | None, float, str, bool]
"""Median and p99 in milliseconds, images a second, the depth, and whether it is valid."""


def draw_distribution(axes: Axes, series: Sequence[Series]) -> Drawn:
    """Every sample: the share of requests that took at least so long, on a logarithmic axis.

    The largest sample of n lies at 1 / n, so no tail is hidden. Percentiles are marked.
    """
    drawn = Drawn()
    tidy(
        axes,
        "Distribution of latency, every request",
        "latency of a request (ms)",
        "share of requests that took at least so long",
    )
    axes.set_yscale("log")
    largest, least = 0.0, 1.0
    smallest = np.inf
    names: list[Tag] = []
    asked: dict[float, None] = {50.0: None}
    for item in series:
        depths = sorted(item.result.depths, key=lambda depth: depth.latency.median_ms.value)
        for place, depth in enumerate(depths):
            values = np.sort(np.asarray(depth.samples.latency_ns, np.float64)) / 1e6
            values = np.maximum(values, 1e-6)  # what took no tick of the clock has no logarithm
            count = len(values)
            if not count:
                continue
            colour = lighter(item.colour, 0.6 * (1 - (place + 1) / len(depths)))
            # "pre": from one sample to the next the share is that of the next.
            share = (count - np.arange(count)) / count
            style: dict[str, Any] = {"color": colour, "drawstyle": "steps-pre", "linewidth": 1.4}
            axes.plot(values, share, label=item.label, gid="samples", zorder=3, **style)
            axes.plot(
                values[-1:], share[-1:], marker=".", markersize=5, color=colour, gid="largest"
            )
            marks = {50.0: depth.latency.median_ms.value}
            for name, value in depth.latency.percentiles_ms.items():
                if value is not None:
                    marks[float(name)] = value
            axes.plot(
                list(marks.values()),
                [1 - percent / 100 for percent in marks],
                linestyle="none",
                marker="o",
                markersize=4.5,
                markerfacecolor="white",
                markeredgecolor=colour,
                gid="percentiles",
                zorder=4,
            )
            if depth.verdict.word != "valid":
                ring(axes, [(marks[50.0], 0.5)], drawn)
            asked.update(dict.fromkeys(marks))
            names.append(Tag(float(values[0]), 1.0, depth.depth, item.colour))
            smallest, largest = min(smallest, values[0]), max(largest, values[-1])
            least = min(least, 1 / count)
    if not largest:
        drawn.missing = "No distribution to show: the results have no samples."
        return drawn
    room = max((largest / smallest) ** 0.06, 1.001)  # they may all be the same
    log_axis(axes, "x", smallest / room, largest * room**1.5)
    bottom = least / 1.7
    # The names of the depths stand above the curves.
    axes.set_ylim(bottom, bottom ** (-NAMES / (1 - NAMES)))
    axes.set_yticks([10.0**-power for power in range(math.ceil(-math.log10(bottom)))])
    drawn.finish = lambda: top_tags(axes, names, NAMES)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.10g}")
    axes.set_yticks([], minor=True)
    for percent in sorted(asked):
        share_left = 1 - percent / 100
        axes.axhline(share_left, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            f"p{percent:g}",
            (1, share_left),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=INK,
        )
    drawn.notes.append("Distributions: the darker, the slower the depth of a result.")
    return drawn


def draw_throughput(axes: Axes, series: Sequence[Series]) -> Drawn:
    """Images a second against the median (solid) and p99 (hollow) of latency.

    A point for each result and depth, or for a whole result where depths shared the time. Points of
    results that differ only in batch, streams or rate are joined.
    """
    drawn = Drawn()
    tidy(axes, "Throughput against latency", "latency of a request (ms)", "images per second")
    runs: dict[tuple[str, str], list[tuple[Point, Series]]] = {}
    for item in series:
        for point in _points(item.result):
            runs.setdefault((_family(item.result), point[3]), []).append((point, item))
    if not runs:
        drawn.missing = "No throughput to show: the results have no images per second."
        return drawn
    xs: list[float] = []
    blamed: list[tuple[float, float]] = []
    for (_, name), points in runs.items():
        points.sort(key=lambda pair: _sweep_order(pair[1].result))
        if len(points) > 1:
            axes.plot(
                [point[0] for point, _ in points],
                [point[2] for point, _ in points],
                color=FAINT,
                linewidth=1,
                zorder=2,
                gid="sweep",
            )
        for place, ((median, tail, rate, _, valid), item) in enumerate(points):
            style: dict[str, Any] = {
                "color": item.colour,
                "marker": item.marker,
                "linestyle": "none",
                "label": item.label,
                "zorder": 3,
            }
            axes.plot([median], [rate], markersize=6.5, gid="median", **style)
            if tail is not None:
                axes.plot(
                    [tail], [rate], markersize=4.5, markerfacecolor="white", gid="p99", **style
                )
                axes.hlines(rate, median, tail, color=item.colour, linewidth=0.8, alpha=0.6)
                xs.append(tail)
            if not valid:
                blamed.append((median, rate))
            if place == len(points) - 1:
                drawn.tags.append(Tag(median, rate, name, item.colour))
            xs.append(median)
    drawn.handles.append(handle("median", marker="o", markersize=6))
    if any(line.get_gid() == "p99" for line in axes.lines):
        drawn.handles.append(handle("p99", marker="o", markersize=4.5, markerfacecolor="white"))
    if any(line.get_gid() == "sweep" for line in axes.lines):
        drawn.handles.append(
            handle("the same but for batch, streams or rate", linestyle="-", color=FAINT)
        )
    ring(axes, blamed, drawn)
    rates = [point[2] for points in runs.values() for point, _ in points]
    _log_where_wide(axes, "x", xs)
    _log_where_wide(axes, "y", rates)
    return drawn


def _points(result: BenchResult) -> list[Point]:
    found = [
        _point(depth.latency, depth.images_per_second, depth.depth, depth.verdict.word == "valid")
        for depth in result.depths
        if depth.images_per_second is not None
    ]
    if not found:
        overall = result.overall
        valid = result.verdict.word == "valid"
        found = [_point(overall.latency, overall.images_per_second, result.settings.mode, valid)]
    return found


def _point(latency: Latency, rate: float, name: str, valid: bool) -> Point:
    return latency.median_ms.value, latency.percentiles_ms.get("99"), rate, name, valid


def _sweep_order(result: BenchResult) -> tuple[int, int, float]:
    settings = result.settings
    return settings.batch, settings.streams, settings.rate or 0.0


def _family(result: BenchResult) -> str:
    """The same for results that differ only in what is swept."""
    settings = result.settings.model_dump(mode="json", exclude=set(SWEPT))
    parts = [result.subject.model_dump(mode="json"), settings, result.host.model_dump(mode="json")]
    return json.dumps([*parts, device_name(result)], sort_keys=True)


def _log_where_wide(axes: Axes, name: str, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if low > 0 and high > 3 * low:
        room = (high / low) ** 0.09
        log_axis(axes, name, low / room, high * room)
    else:
        room = 0.12 * max(high - low, 0.1 * high)
        axes.set(**{f"{name}lim": (low - room, high + room)})
