"""Pictures of results: several figures as panels of one page, with what they are of below."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anydepth_deploy.bench.plots.depths import draw_accuracy, draw_speedup
from anydepth_deploy.bench.plots.latency import draw_distribution, draw_throughput
from anydepth_deploy.bench.plots.style import Drawn, Series, handle, series_of
from anydepth_deploy.bench.plots.tags import FAINT, INK, place_tags, plain
from anydepth_deploy.bench.report.facts import common, facts, printable, when
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.errors import ResultError, UsageError
from anydepth_deploy.pictures.figures import DPI, empty_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DEFAULT_FIGURES",
    "FIGURES",
    "ONE_DEPTH_FIGURES",
    "caption_of",
    "chosen",
    "draw",
    "entries_per_line",
    "figure",
]

FIGURES: dict[str, Callable[[Axes, Sequence[Series]], Drawn]] = {
    "speedup": draw_speedup,
    "accuracy": draw_accuracy,
    "distribution": draw_distribution,
    "throughput": draw_throughput,
}
"""Panels by name."""

DEFAULT_FIGURES = ("speedup", "accuracy")
ONE_DEPTH_FIGURES = ("distribution", "accuracy")
"""Where no result has two depths, so that there is no speed-up."""

PANEL = (5.15, 4.3)
LEFT, BETWEEN, RIGHT = 0.85, 1.05, 0.45
TOP, PANEL_TITLE, AXIS_NAME = 0.5, 0.35, 0.62
LEGEND_LINE, CAPTION_LINE, GAP = 0.2, 0.165, 0.12
"""Inches."""

CHARACTER, LEGEND_CHARACTER = 0.064, 0.07
"""Inches that a character of a caption and of a legend takes, about."""


def draw(
    results: Sequence[BenchResult], path: str | Path, figures: Sequence[str] | None = None
) -> None:
    """Draw ``figures`` (names of :data:`FIGURES`) of ``results`` into a .png, .pdf or .svg.

    By default :data:`DEFAULT_FIGURES`, or :data:`ONE_DEPTH_FIGURES`.

    Raises :class:`MissingExtraError` without the extra ``plot``, :class:`UsageError` for another
    kind of file or an unknown figure, and :class:`ResultError` where there is nothing to draw or
    the picture cannot be written.
    """
    write_figure(Path(path), lambda: figure(results, figures), "picture", ResultError)


def chosen(results: Sequence[BenchResult], figures: Sequence[str] | None) -> list[str]:
    """Names of the figures to draw. Raises :class:`UsageError` for an unknown one, and
    :class:`ResultError` without results."""
    if figures is None:
        curves = any(len(result.depths) > 1 for result in results)
        figures = DEFAULT_FIGURES if curves or not results else ONE_DEPTH_FIGURES
    names = list(dict.fromkeys(figures))
    unknown = [name for name in names if name not in FIGURES]
    if unknown or not names:
        what = f"unknown figure '{unknown[0]}'" if unknown else "no figure is named"
        raise UsageError(f"{what}: expected {' or '.join(FIGURES)}")
    if not results:
        raise ResultError("no results to draw: name at least one file that bench wrote")
    return names


def figure(results: Sequence[BenchResult], figures: Sequence[str] | None = None) -> Figure:
    """The page that :func:`draw` writes; raises the same but for what is about the file."""
    names = chosen(results, figures)
    series = series_of(results)
    columns = 1 if len(names) == 1 else 2
    page = empty_figure("drawing results", dpi=DPI)
    panels = [page.add_axes((0, 0, 1, 1), label=name) for name in names]
    drawn = [FIGURES[name](axes, series) for name, axes in zip(names, panels, strict=True)]
    missing = [item.missing for item in drawn]
    if all(missing):
        raise ResultError(f"nothing to draw: {' '.join(text for text in missing if text)}")
    _arrange(page, panels, drawn, series, columns)
    for axes, item in zip(panels, drawn, strict=True):
        if item.missing:
            _say(axes, item.missing)
            continue
        if item.finish:
            item.finish()
        place_tags(axes, item.tags)
    return page


def _arrange(
    page: Figure,
    panels: Sequence[Axes],
    drawn: Sequence[Drawn],
    series: Sequence[Series],
    columns: int,
) -> None:
    """Give everything its place, from the top: title, rows of panels with their legends, the
    results' legend, the caption."""
    width = LEFT + columns * PANEL[0] + (columns - 1) * BETWEEN + RIGHT
    inner = width - LEFT - RIGHT
    rows = [
        range(start, min(start + columns, len(panels))) for start in range(0, len(panels), columns)
    ]
    per_line = [
        entries_per_line([str(h.get_label()) for h in item.handles], PANEL[0]) for item in drawn
    ]
    lines = [-(-len(item.handles) // count) for item, count in zip(drawn, per_line, strict=True)]
    below = [LEGEND_LINE * max(lines[place] for place in row) for row in rows]
    names = [textwrap.fill(item.label, int((inner - 0.6) / LEGEND_CHARACTER)) for item in series]
    across = entries_per_line(names, inner)
    tallest = max(name.count("\n") + 1 for name in names)
    legend = LEGEND_LINE * tallest * -(-len(series) // across)
    caption = [
        line
        for text in caption_of(series, drawn)
        for line in textwrap.wrap(plain(text), int(inner / CHARACTER))
    ]
    height = (
        TOP
        + sum(PANEL_TITLE + PANEL[1] + AXIS_NAME + extra for extra in below)
        + GAP
        + legend
        + GAP
        + CAPTION_LINE * len(caption)
        + GAP
    )
    page.set_size_inches(width, height)
    page.text(
        LEFT / width,
        1 - 0.32 / height,
        _title(series),
        fontsize=13,
        fontweight="bold",
        color=INK,
        va="center",
    )
    y = height - TOP
    for row, extra in zip(rows, below, strict=True):
        y -= PANEL_TITLE + PANEL[1]
        for column, place in enumerate(row):
            x = LEFT + column * (PANEL[0] + BETWEEN)
            panels[place].set_position((x / width, y / height, PANEL[0] / width, PANEL[1] / height))
            if drawn[place].handles and not drawn[place].missing:
                panels[place].legend(
                    handles=drawn[place].handles,
                    loc="upper left",
                    bbox_to_anchor=(-0.02, -AXIS_NAME / PANEL[1] + 0.02),
                    ncols=per_line[place],
                    **LEGEND_STYLE,
                )
        y -= AXIS_NAME + extra
    y -= GAP
    entries = [
        handle(name, marker=item.marker, color=item.colour, linestyle="-", markersize=6)
        for name, item in zip(names, series, strict=True)
    ]
    page.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=((LEFT - 0.1) / width, y / height),
        ncols=across,
        **LEGEND_STYLE,
    )
    y -= legend + GAP
    for line in caption:
        page.text(
            LEFT / width, y / height, line, fontsize=8, color="#57606a", va="top", gid="caption"
        )
        y -= CAPTION_LINE


LEGEND_STYLE = {
    "fontsize": 8.5,
    "frameon": False,
    "borderpad": 0.0,
    "borderaxespad": 0.0,
    "labelspacing": 0.45,
    "columnspacing": 1.6,
    "handlelength": 2.0,
    "labelcolor": INK,
}


def entries_per_line(
    texts: Sequence[str], inches: float, character: float = LEGEND_CHARACTER
) -> int:
    """How many entries of a legend fit beside each other, whose letters take ``character``
    inches."""
    longest = max((len(text) for text in texts), default=1)
    return max(1, min(len(texts) or 1, int(inches / (0.6 + character * longest))))


def _title(series: Sequence[Series]) -> str:
    networks = dict.fromkeys(facts(item.result)["network"] for item in series)
    name = next(iter(networks)) if len(networks) == 1 else "Any-depth detectors"
    return plain(f"{name}: latency by depth")


def caption_of(series: Sequence[Series], drawn: Sequence[Drawn]) -> list[str]:
    """What the figures are of, and what a reader has to know, in sentences."""
    results = [item.result for item in series]
    moments = sorted(results, key=when)
    first, last = (printable(result.when[:10]) for result in (moments[0], moments[-1]))
    days = first if first == last else f"{first} to {last}"
    texts = [f"Measured {days}: {', '.join(common(results))}."]
    differ = [r for r in results if r.verdict.word != "valid"]
    if differ:
        reasons = dict.fromkeys(reason for r in differ for reason in r.verdict.reasons)
        shown = list(reasons)[:3] + ([f"and {len(reasons) - 3} more"] if len(reasons) > 3 else [])
        unknown = all(result.verdict.word == "unknown" for result in differ)
        told = "Not known to be valid" if unknown else "Not valid"
        texts.append(f"{told}: {'; '.join(shown) or 'no reason given'}.")
    notes = [note for item in drawn if not item.missing for note in item.notes]
    return texts + list(dict.fromkeys(notes))


def _say(axes: Axes, text: str) -> None:
    """A panel with nothing in it says why."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("")
    axes.set_ylabel("")
    axes.text(
        0.5,
        0.5,
        textwrap.fill(plain(text), 46),
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=10,
        color=FAINT,
    )
