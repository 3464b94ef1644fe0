"""What a smaller depth buys: measured speed-up beside multiply-adds, and AP beside latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anydepth_deploy.annotations.evaluations import DataSet, labels
from anydepth_deploy.bench.plots.published import draw_published
from anydepth_deploy.bench.plots.style import Drawn, Series, handle, log_axis, ring, tidy
from anydepth_deploy.bench.plots.tags import FAINT, Tag
from anydepth_deploy.bench.report.accuracies import (
    average_precision,
    data_of,
    data_sets,
    main_data_set,
)
from anydepth_deploy.bench.report.facts import macs_ratio
from anydepth_deploy.bench.report.published import Published, load_published
from anydepth_deploy.bench.results import BenchResult, DepthResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_accuracy", "draw_speedup"]

DIAGONAL = "time follows multiply-adds"
DASHES = (0, (5, 3))


def draw_speedup(axes: Axes, series: Sequence[Series]) -> Drawn:
    """Speed-up of the median over the largest depth against the ratio of multiply-adds.

    A line for each result with at least two depths; published points of the networks among them.
    """
    drawn = Drawn()
    title = "Measured speed-up against multiply-adds saved"
    tidy(
        axes,
        title,
        "multiply-adds of the largest depth over this depth's (ratio)",
        "speed-up of the median latency over the largest depth (ratio)",
    )
    xs, ys, blamed = [1.0], [1.0], []
    for item in series:
        points = _speedups(item.result)
        if len(points) < 2:
            continue
        x = [ratio for ratio, _ in points]
        y = [depth.speedup.value for _, depth in points if depth.speedup]
        axes.plot(
            x,
            y,
            color=item.colour,
            marker=item.marker,
            markersize=6,
            linewidth=1.5,
            label=item.label,
            gid="measured",
            zorder=3,
        )
        for ratio, depth in points:
            assert depth.speedup is not None
            at = depth.speedup.value
            low, high = depth.speedup.low, depth.speedup.high
            if low is not None and high is not None:
                axes.vlines(ratio, low, high, color=item.colour, linewidth=1.2, zorder=2.9)
                ys += [low, high]
            if depth.verdict.word != "valid":
                blamed.append((ratio, at))
            if ratio > 1.005:
                drawn.tags.append(Tag(ratio, at, depth.depth, item.colour))
        xs += x
        ys += y
    if len(xs) == 1:
        drawn.missing = (
            "No speed-up to show: it takes a result with two depths or more, their multiply-adds "
            "and their medians."
        )
        return drawn
    ring(axes, blamed, drawn)
    points_published = draw_published(axes, series, drawn)
    xs += [x for x, _ in points_published]
    ys += [y for _, y in points_published]
    _limits(axes, xs, ys)
    drawn.handles.append(handle(DIAGONAL, linestyle=DASHES, color=FAINT))
    drawn.notes.append("Bars: 95 % confidence intervals of the ratio of medians.")
    return drawn


def draw_accuracy(axes: Axes, series: Sequence[Series]) -> Drawn:
    """AP against median latency: measured of the artifact (solid), or published (hollow).

    Measured AP is of one data set, that of the most depths; lines join what is measured, or what is
    published, and never one with the other.
    """
    drawn = Drawn()
    title = "Accuracy against latency"
    tidy(axes, title, "median latency of a request (ms)", "AP, IoU 0.50:0.95 (%)")
    published = load_published()
    latencies, values = [], []
    results = [item.result for item in series]
    data = main_data_set(results)
    blamed = []
    eight_bits = False
    for item in series:
        solid, hollow = _accuracies(item.result, published, data)
        eight_bits = eight_bits or (item.result.subject.precision == "int8" and not solid)
        for rows, style in ((solid, "-"), (hollow, (0, (3, 2.5)))):
            if rows:
                axes.plot(
                    *zip(*sorted((d.latency.median_ms.value, ap) for d, ap in rows), strict=True),
                    color=item.colour,
                    linewidth=1.1,
                    linestyle=style,
                    zorder=2,
                    gid="line",
                )
        for rows, kind in ((solid, "measured"), (hollow, "published")):
            if rows:
                axes.plot(
                    [depth.latency.median_ms.value for depth, _ in rows],
                    [ap for _, ap in rows],
                    linestyle="none",
                    color=item.colour,
                    marker=item.marker,
                    markersize=7,
                    markerfacecolor=item.colour if kind == "measured" else "white",
                    markeredgewidth=1.4,
                    label=item.label,
                    gid=kind,
                    zorder=3,
                )
        for depth, ap in solid + hollow:
            median = depth.latency.median_ms
            if median.low is not None and median.high is not None:
                axes.hlines(ap, median.low, median.high, color=item.colour, linewidth=1.2)
                latencies += [median.low, median.high]
            if depth.verdict.word != "valid":
                blamed.append((median.value, ap))
            drawn.tags.append(Tag(median.value, ap, depth.depth, item.colour))
            latencies.append(median.value)
            values.append(ap)
    if not latencies:
        drawn.missing = (
            "No accuracy to show: AP of none of these artifacts was measured (anydepth-deploy "
            "eval), nor is any published for their networks, depths and input sizes."
        )
        return drawn
    if any(line.get_gid() == "measured" for line in axes.lines):
        drawn.handles.append(handle("AP and latency measured here", marker="o", markersize=6))
    if any(line.get_gid() == "published" for line in axes.lines):
        drawn.handles.append(
            handle(
                "AP published, latency measured here",
                marker="o",
                markersize=6,
                markerfacecolor="white",
            )
        )
        drawn.notes.append(
            "Published AP is of the authors' weights on COCO val2017, not of the artifacts timed"
            f"{'; it does not hold for int8, which has no point' if eight_bits else ''}."
        )
    if data is not None:
        drawn.notes.append(f"AP measured on {data.name}, {data.pictures} pictures.")
        named = labels(data_sets(results))
        others = [name for one, name in named.items() if one != data]
        if others:
            drawn.notes.append(f"AP measured on other data is left out: {'; '.join(others)}.")
    ring(axes, blamed, drawn)
    _time_axis(axes, latencies)
    spread = max(max(values) - min(values), 1.0)
    axes.set_ylim(min(values) - 0.12 * spread, max(values) + 0.12 * spread)
    return drawn


def _speedups(result: BenchResult) -> list[tuple[float, DepthResult]]:
    """Depths with a speed-up by how many times fewer multiply-adds they have, in that order."""
    found = [(macs_ratio(result, depth), depth) for depth in result.depths if depth.speedup]
    known = [(ratio, depth) for ratio, depth in found if ratio is not None]
    return sorted(known, key=lambda pair: pair[0])


def _limits(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Room around the points, and the diagonal with its label."""
    right = 1 + 1.14 * max(max(xs) - 1, 0.1)
    bottom, top = min(*ys, 1.0), max(*ys, 1.1)
    pad = 0.08 * (top - bottom)
    bottom, top = bottom - pad, top + 1.4 * pad
    left = 1 - 0.06 * (right - 1)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    low, high = max(left, bottom), min(right, top)
    axes.plot(
        [low, high],
        [low, high],
        color=FAINT,
        linewidth=1.1,
        linestyle=DASHES,
        zorder=1.5,
        gid="diagonal",
        label=DIAGONAL,
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2f}".rstrip("0").rstrip(".") + "x")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2f}".rstrip("0").rstrip(".") + "x")


def _accuracies(
    result: BenchResult, published: Published, data: DataSet | None
) -> tuple[list[tuple[DepthResult, float]], list[tuple[DepthResult, float]]]:
    """Depths with AP that was measured of the artifact on ``data``, and with AP that is only
    published.

    Published AP holds for its own input size, and not for weights in 8 bits.
    """
    subject = result.subject
    solid, hollow = [], []
    for depth in result.depths:
        if data_of(depth) is not None:
            ap = average_precision(depth, data)
            if ap is not None:
                solid.append((depth, ap))
        elif subject.precision != "int8":
            point = published.accuracy(
                subject.family, subject.config, depth.depth, subject.input_size
            )
            if point is not None and point.ap is not None:
                hollow.append((depth, point.ap))
    return solid, hollow


def _time_axis(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic where latencies differ by much."""
    low, high = min(values), max(values)
    if high > 3 * low:
        room = (high / low) ** 0.12
        log_axis(axes, "x", low / room, high * room)
    else:
        room = 0.15 * max(high - low, 0.1 * math.fabs(high))
        axes.set_xlim(low - room, high + room)
