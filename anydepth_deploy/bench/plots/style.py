"""What all pictures of results share: colours, marks, legends.

matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from anydepth_deploy.bench.plots.tags import FAINT, INK, Tag, plain
from anydepth_deploy.bench.report.facts import labels
from anydepth_deploy.bench.results import BenchResult, Word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = [
    "Drawn",
    "Series",
    "handle",
    "lighter",
    "log_axis",
    "ring",
    "series_of",
    "tidy",
]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b4a3f")
"""Told apart by people who do not see all colours (M. Okabe and K. Ito, 2008), without yellow."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

WORDS: dict[Word, str] = {
    "unstable": "unstable",
    "throttled": "throttled",
    "unknown": "unknown clocks",
}
"""What is written beside results that are not valid."""

NOT_VALID = "not valid"
"""Identifies the rings around such points."""


@dataclass(frozen=True)
class Series:
    """A result and how it looks on every panel of a page."""

    result: BenchResult
    label: str
    colour: str
    marker: str


@dataclass
class Drawn:
    """What a panel needs beside what is in it; ``missing``: why there is nothing in it."""

    handles: list[Line2D] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str | None = None
    finish: Callable[[], None] | None = None
    """Draws what depends on where the panel is on its page."""


def series_of(results: Sequence[BenchResult]) -> list[Series]:
    """A colour, a marker and a label for each; the label says what is not valid."""
    found = []
    for place, (result, label) in enumerate(zip(results, labels(results), strict=True)):
        word = WORDS.get(result.verdict.word)
        text = plain(f"{label} ({word})" if word else label)
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        found.append(Series(result, text, colour, marker))
    return found


def lighter(colour: str, share: float) -> str:
    """``colour`` with this share of white."""
    from matplotlib.colors import to_hex, to_rgb

    rgb = np.asarray(to_rgb(colour))
    return str(to_hex(tuple(rgb + (1 - rgb) * share)))


def handle(label: str, **style: Any) -> Line2D:
    """An entry of a legend: a marker without a line, unless ``style`` says otherwise."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **{"linestyle": "none", "color": INK, **style})


def ring(axes: Axes, points: Sequence[tuple[float, float]], drawn: Drawn) -> None:
    """Mark points whose verdict is not valid, and say so in the legend, once."""
    if not points:
        return
    style: dict[str, Any] = {
        "marker": "o",
        "markerfacecolor": "none",
        "markeredgecolor": INK,
        "markeredgewidth": 0.8,
    }
    x, y = zip(*points, strict=True)
    axes.plot(x, y, linestyle="none", markersize=13, zorder=4, gid=NOT_VALID, **style)
    label = "verdict is not valid"
    if all(item.get_label() != label for item in drawn.handles):
        drawn.handles.append(handle(label, markersize=10, **style))


def tidy(axes: Axes, title: str, x: str, y: str) -> None:
    """Title, names of the axes with units, a faint grid."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=9)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=8.5, labelcolor=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)


def log_axis(axes: Axes, name: str, low: float, high: float) -> None:
    """Make the axis ``name`` ("x" or "y") logarithmic, with ticks at 1, 2 and 5 times powers of
    ten, or closer ones where these would be fewer than three."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), [1 + k / 10 for k in range(90)]):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [10.0**power * step for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_ticks(ticks, [f"{tick:.10g}" for tick in ticks])
    axis.set_ticks([], minor=True)
