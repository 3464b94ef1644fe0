"""All settings of a sweep: pictures a second against latency, a panel a depth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anydepth_deploy.bench.plots.style import COLOURS, log_axis, tidy
from anydepth_deploy.bench.plots.tags import FAINT, INK, Tag, place_tags
from anydepth_deploy.errors import ResultError
from anydepth_deploy.pictures.figures import empty_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from anydepth_deploy.bench.sweep import Sweep

__all__ = ["draw_sweep", "sweep_figure"]

PANEL = (4.6, 4.0)
"""Inches."""


def draw_sweep(found: Sweep, path: str | Path, title: str) -> None:
    """Draw ``found`` into a .png, .pdf or .svg.

    Raises :class:`MissingExtraError` without the extra ``plot``, :class:`UsageError` for another
    kind of file, and :class:`ResultError` where the picture cannot be written.
    """
    write_figure(Path(path), lambda: sweep_figure(found, title), "picture", ResultError)


def sweep_figure(found: Sweep, title: str) -> Figure:
    """The page that :func:`draw_sweep` writes."""
    depths = list(found.usual.rates)
    figure = empty_figure(
        "drawing results", figsize=(PANEL[0] * len(depths), PANEL[1]), layout="constrained"
    )
    panels = figure.subplots(1, len(depths), squeeze=False)[0]
    runs = [item for item in found.tried if item.problem is None]
    batches = sorted({item.setting.batch for item in runs})
    for axes, depth in zip(panels, depths, strict=True):
        tidy(axes, depth, "95th percentile of latency, ms", "pictures a second")
        for item in runs:
            rate = item.rates[depth]
            chosen = item is found.best
            colour = COLOURS[batches.index(item.setting.batch) % len(COLOURS)]
            axes.scatter(
                rate.tail_ms,
                rate.images_per_second,
                s=70 if chosen else 26,
                color=colour,
                edgecolor=INK if chosen else "none",
                alpha=1.0 if item.finalist else 0.55,
                zorder=3 if chosen else 2,
            )
        tails = [item.rates[depth].tail_ms for item in runs]
        log_axis(axes, "x", 0.85 * min(tails), 1.2 * max(tails))
        axes.set_ylim(bottom=0)
    for place, batch in enumerate(batches):
        panels[-1].scatter([], [], color=COLOURS[place % len(COLOURS)], label=f"batch {batch}")
    panels[-1].legend(loc="lower right", fontsize=8, frameon=False, labelcolor=INK)
    figure.suptitle(f"{title}: faint points were measured for a moment", color=FAINT, fontsize=9)
    figure.draw_without_rendering()  # gives the panels their places
    figure.set_layout_engine("none")
    for axes, depth in zip(panels, depths, strict=True):
        tags = [
            Tag(item.rates[depth].tail_ms, item.rates[depth].images_per_second, word, INK, False)
            for item, word in {found.usual: "usual", found.best: "deploy"}.items()
        ]
        place_tags(axes, tags, fontsize=8)
    return figure
