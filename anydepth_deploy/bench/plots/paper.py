"""The same figures for a paper: of a size in inches, without title and caption, told apart without
colours."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.bench.plots.page import FIGURES, caption_of, chosen, entries_per_line
from anydepth_deploy.bench.plots.style import MARKERS, Drawn, Series, handle, series_of
from anydepth_deploy.bench.plots.tags import INK, place_tags
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.errors import ResultError, UsageError
from anydepth_deploy.pictures.figures import DPI, empty_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "SIZES", "draw_paper", "paper_figure", "size_of_figure"]

SIZES = {"column": (3.5, 2.8), "page": (7.16, 3.0)}
"""Inches: a column and the width of a page of two columns, as IEEE's templates have them."""

SMALLEST, LARGEST = 1.5, 40.0

NARROWEST_PANEL = 2.2
"""Inches; panels that would be narrower stand below each other."""

COLOURS = ("#000000", "#0072b2", "#009e73", "#d55e00", "#cc79a7")
"""Of Okabe and Ito (2008), from dark to light: they stay apart in grey."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1)))

NAMES = {
    "speedup": ("multiply-adds saved (ratio)", "speed-up of the median"),
    "accuracy": ("median latency (ms)", "AP (%)"),
    "distribution": ("latency (ms)", "share of requests"),
    "throughput": ("latency (ms)", "images per second"),
}
"""Of the axes."""

TEXT, TICKS, LABELS = 8.0, 7.0, 6.0
"""Points: names of axes, ticks and legends, depths beside their points."""

CHARACTER = 0.056
"""Inches of a letter of the legend, about."""

SMALLER, THINNER = 0.68, 0.75
"""Of marks and of lines, against those of a page."""

PAPER_DPI = 600


def size_of_figure(text: str) -> tuple[float, float]:
    """Width and height in inches from ``3.5x2.4``, or from a word of :data:`SIZES`.

    Raises :class:`UsageError`.
    """
    if text in SIZES:
        return SIZES[text]
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)x([0-9]{1,3}(?:\.[0-9]{1,4})?)", text)
    if match is None:
        raise UsageError(
            f"figure size '{text}' is not WIDTHxHEIGHT in inches, e.g. 3.5x2.4, nor "
            f"{' or '.join(SIZES)}"
        )
    width, height = float(match[1]), float(match[2])
    if not all(SMALLEST <= side <= LARGEST for side in (width, height)):
        raise UsageError(
            f"figure size '{text}': expected sides of {SMALLEST:g} to {LARGEST:g} inches"
        )
    return width, height


def draw_paper(
    results: Sequence[BenchResult],
    path: str | Path,
    figures: Sequence[str] | None = None,
    size: tuple[float, float] | None = None,
) -> list[str]:
    """Draw ``figures`` of ``results`` into a .png, .pdf or .svg of ``size`` (width and height in
    inches; by default a column, or a page's width for several); what belongs into the caption, in
    sentences.

    Raises what :func:`~anydepth_deploy.bench.plots.page.draw` raises.
    """
    said: list[str] = []

    def make() -> Figure:
        page, texts = paper_figure(results, figures, size)
        said.extend(texts)
        return page

    write_figure(Path(path), make, "picture", ResultError, dpi=PAPER_DPI)
    return said


def paper_figure(
    results: Sequence[BenchResult],
    figures: Sequence[str] | None = None,
    size: tuple[float, float] | None = None,
) -> tuple[Figure, list[str]]:
    """The figure that :func:`draw_paper` writes, and its caption; raises the same but for what is
    about the file."""
    names = chosen(results, figures)
    width, height = size or SIZES["column" if len(names) == 1 else "page"]
    series = [
        replace(item, colour=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)])
        for place, item in enumerate(series_of(results))
    ]
    page = empty_figure("drawing results", dpi=DPI, figsize=(width, height), layout="constrained")
    wide = width / len(names) >= NARROWEST_PANEL
    shape = (1, len(names)) if wide else (len(names), 1)
    panels = list(page.subplots(*shape, squeeze=False).flat)
    drawn = [FIGURES[name](axes, series) for name, axes in zip(names, panels, strict=True)]
    missing = [f"{item.missing}" for item in drawn if item.missing]
    if missing:
        raise ResultError(f"a figure cannot be drawn for a paper: {' '.join(missing)}")
    for name, axes in zip(names, panels, strict=True):
        _restyle(axes, name, series)
    _legend(page, drawn, series, width)
    page.draw_without_rendering()  # gives everything its place
    page.set_layout_engine("none")
    for axes, item in zip(panels, drawn, strict=True):
        if item.finish:
            item.finish()
        place_tags(axes, item.tags, fontsize=LABELS)
    return page, caption_of(series, drawn)


def _restyle(axes: Axes, name: str, series: Sequence[Series]) -> None:
    """Smaller letters and marks, and a kind of line for each result."""
    axes.set_title("", loc="left")
    for text, which in zip(NAMES[name], ("x", "y"), strict=True):
        axes.set(**{f"{which}label": text})
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.label.set_fontsize(TEXT)
    axes.tick_params(which="both", labelsize=TICKS, pad=2)
    dashes = {item.colour: DASHES[place % len(DASHES)] for place, item in enumerate(series)}
    for line in axes.lines:
        line.set_markersize(SMALLER * line.get_markersize())
        line.set_markeredgewidth(THINNER * line.get_markeredgewidth())
        line.set_linewidth(THINNER * line.get_linewidth())
        if line.get_gid() in ("measured", "line") and line.get_linestyle() != "None":
            line.set_linestyle(dashes.get(str(line.get_color()), "-"))
    for bars in axes.collections:
        bars.set_linewidth(THINNER * bars.get_linewidth())  # type: ignore[arg-type]
    for text in axes.texts:
        text.set_fontsize(LABELS)


def _legend(page: Figure, drawn: Sequence[Drawn], series: Sequence[Series], width: float) -> None:
    """One for all panels, above them: the results, then what marks mean."""
    entries = [
        handle(
            textwrap.fill(item.label, max(12, int((width - 0.8) / CHARACTER))),
            marker=item.marker,
            color=item.colour,
            linestyle=DASHES[place % len(DASHES)],
            markersize=4,
            linewidth=1.1,
        )
        for place, item in enumerate(series)
    ]
    meanings = {str(item.get_label()): item for one in drawn for item in one.handles}
    for item in meanings.values():
        item.set_markersize(SMALLER * item.get_markersize())
        item.set_linewidth(THINNER * item.get_linewidth())
    entries += meanings.values()
    names = [str(entry.get_label()) for entry in entries]
    page.legend(
        handles=entries,
        loc="outside upper left",
        ncols=entries_per_line(names, width, CHARACTER),
        fontsize=TICKS - 0.5,
        frameon=False,
        borderpad=0.0,
        labelspacing=0.3,
        columnspacing=1.0,
        handlelength=3.0,
        handletextpad=0.5,
        labelcolor=INK,
    )
