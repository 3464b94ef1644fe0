"""Curves of a page: places and words of an SVG picture, which the template draws.

What a point says appears where it is pointed at or reached by keyboard: a rule of CSS, no script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from anydepth_deploy.annotations.evaluations import DataSet
from anydepth_deploy.bench.report.accuracies import average_precision, main_data_set
from anydepth_deploy.bench.report.facts import labels, macs_ratio, printable
from anydepth_deploy.bench.report.merge import interval
from anydepth_deploy.bench.results import BenchResult, DepthResult
from anydepth_deploy.console import giga

__all__ = ["Chart", "Line", "Point", "Tick", "charts", "ticks"]

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 18, 52
COLOURS = 7
LETTER = 6.7
"""Pixels of a letter of a tip, whose letters are all as wide."""
LINE = 16
LABEL = 34
"""Letters of the longest line of a tip, about."""


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """``low`` and ``high``: ends of the interval of what is across; ``tip``: where its frame is."""

    x: float
    y: float
    low: float | None
    high: float | None
    valid: bool
    lines: list[str]
    tip: tuple[float, float, float, float]


@dataclass(frozen=True)
class Line:
    label: str
    colour: int
    points: list[Point]

    @property
    def path(self) -> str:
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True)
class Chart:
    title: str
    across: str
    up: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    note: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = field(default=WIDTH - RIGHT)
    top: int = TOP
    bottom: int = field(default=HEIGHT - BOTTOM)


Figure = Callable[[DepthResult], "float | None"]


def charts(results: Sequence[BenchResult]) -> list[Chart]:
    """AP and multiply-adds against latency, each where it is known of two depths of a result."""
    data = main_data_set(results)
    found = []
    accuracy = _chart(
        results,
        "Accuracy against latency",
        "AP in %",
        lambda depth: average_precision(depth, data),
        ""
        if data is None
        else f"AP on {printable(data.name)}, {data.pictures} pictures. Bars: "
        "95 % intervals. Hollow points: not valid.",
    )
    work = _chart(
        results,
        "Latency against work",
        "10⁹ multiply-adds",
        lambda depth: None if depth.macs is None else depth.macs / 1e9,
        "Where latency follows the work alone, it rises in proportion. Bars: 95 % intervals. "
        "Hollow points: not valid.",
    )
    found += [chart for chart in (accuracy, work) if chart is not None]
    return found


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, equally far apart: 1, 2 or 5 times a
    power of ten, about ``most`` of them."""
    span = high - low or abs(high) or 1.0
    raw = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _chart(
    results: Sequence[BenchResult],
    title: str,
    up: str,
    y_of: Figure,
    note: str,
) -> Chart | None:
    """None where no result has two points."""
    series = []
    for place, (result, label) in enumerate(zip(results, labels(results), strict=True)):
        points = [
            (depth, depth.latency.median_ms.value, y)
            for depth in result.depths
            if (y := y_of(depth)) is not None
        ]
        series.append((place, result, label, sorted(points, key=lambda item: item[1])))
    series = [item for item in series if len(item[3]) > 1]
    if not series:
        return None
    medians = [depth.latency.median_ms for item in series for depth, *_ in item[3]]
    xs = [x for item in medians for x in (item.value, item.low, item.high) if x is not None]
    ys = [y for item in series for *_, y in item[3]]
    x_marks, y_marks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))

    def place_x(value: float) -> float:
        share = (value - x_marks[0]) / (x_marks[-1] - x_marks[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def place_y(value: float) -> float:
        share = (value - y_marks[0]) / (y_marks[-1] - y_marks[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    lines, data = [], main_data_set(results)
    for place, result, label, points in series:
        drawn = []
        for depth, x, y in points:
            middle = depth.latency.median_ms
            words = _words(result, depth, label, data)
            drawn.append(
                Point(
                    place_x(x),
                    place_y(y),
                    None if middle.low is None else place_x(middle.low),
                    None if middle.high is None else place_x(middle.high),
                    depth.verdict.word == "valid",
                    words,
                    _tip(place_x(x), place_y(y), words),
                )
            )
        lines.append(Line(label, place % COLOURS, drawn))
    return Chart(
        title,
        "median latency in ms",
        up,
        [Tick(place_x(value), f"{value:g}") for value in x_marks],
        [Tick(place_y(value), f"{value:g}") for value in y_marks],
        lines,
        note,
    )


def _words(result: BenchResult, depth: DepthResult, label: str, data: DataSet | None) -> list[str]:
    """What a point says: the same texts as the table has; AP of ``data`` alone."""
    ratio = macs_ratio(result, depth)
    ap = None if data is None else average_precision(depth, data)
    head = printable(depth.depth)
    found = [
        label if len(label) <= LABEL else f"{label[: LABEL - 1]}…",
        head,
        f"{interval(depth.latency.median_ms)} ms",
        "" if depth.speedup is None else f"speed-up {interval(depth.speedup, '{:.2f}', 'x')}",
        "" if depth.macs is None else f"{giga(depth.macs)} multiply-adds",
        "" if ratio is None else f"{ratio:.2f}x fewer than the largest",
        "" if ap is None else f"AP {ap:.1f}",
        depth.verdict.word,
    ]
    return [text for text in found if text]


def _tip(x: float, y: float, words: Sequence[str]) -> tuple[float, float, float, float]:
    """Left, top, width and height of the frame of a tip, inside the picture and off its point."""
    width = LETTER * max(map(len, words)) + 16
    height = LINE * len(words) + 10
    left = x + 12 if x + 12 + width < WIDTH else x - 12 - width
    top = min(max(2.0, y - height / 2), HEIGHT - height - 2)
    return max(2.0, left), top, width, height
