"""All depths of a network: what they take, how good they are, and the ladder among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anydepth_deploy.bench.plots.style import COLOURS, tidy
from anydepth_deploy.bench.plots.tags import FAINT, INK, Tag, place_tags
from anydepth_deploy.errors import ResultError
from anydepth_deploy.pictures.figures import empty_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from anydepth_deploy.ladders.measure import Found

__all__ = ["draw_ladder", "ladder_figure", "measure_name"]

SIZE = (8.4, 5.2)
"""Inches."""


def measure_name(kind: str) -> str:
    """What scores are, on an axis."""
    return "AP, IoU 0.50:0.95 (%)" if kind == "ap" else "agreement with super (AP, %)"


def draw_ladder(found: Found, path: str | Path, title: str) -> None:
    """Draw ``found`` into a .png, .pdf or .svg.

    Raises :class:`MissingExtraError` without the extra ``plot``, :class:`UsageError` for another
    kind of file, and :class:`ResultError` where the picture cannot be written.
    """
    write_figure(Path(path), lambda: ladder_figure(found, title), "picture", ResultError)


def ladder_figure(found: Found, title: str) -> Figure:
    """The page that :func:`draw_ladder` writes."""
    figure = empty_figure("drawing results", figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    ladder = found.ladder
    tidy(axes, title, "a call, median (ms)", measure_name(ladder.data.kind))
    rungs = {rung.depth for rung in ladder.rungs}
    others = [depth for depth in found.scores if str(depth) not in rungs]
    for depths, label, filled in (
        ([depth for depth in others if depth not in found.timed], "time predicted", False),
        ([depth for depth in others if depth in found.timed], "time measured", True),
    ):
        axes.scatter(
            [found.times[depth] for depth in depths],
            [found.scores[depth] for depth in depths],
            s=22,
            facecolor=COLOURS[5] if filled else "none",
            edgecolor=COLOURS[5],
            label=label,
            gid="depths",
            zorder=2,
        )
    axes.plot(
        [rung.milliseconds for rung in ladder.rungs],
        [rung.score for rung in ladder.rungs],
        color=COLOURS[1],
        marker="o",
        markersize=6,
        linewidth=1.4,
        label="ladder",
        gid="ladder",
        zorder=3,
    )
    unscored = [time for depth, time in found.times.items() if depth not in found.scores]
    _ticks(axes, unscored)
    axes.margins(x=0.08, y=0.1)
    axes.legend(loc="lower right", fontsize=8, frameon=False, labelcolor=INK)
    data = ladder.data
    figure.supxlabel(
        f"{len(found.times)} depths, {len(found.scores)} scored on {data.pictures} pictures of "
        f"{data.name}; {ladder.device}, {ladder.runtime} {ladder.precision}, batch {ladder.batch}",
        color=FAINT,
        fontsize=8,
    )
    figure.canvas.draw()  # tags are placed in pixels
    figure.set_layout_engine("none")
    place_tags(axes, [Tag(rung.milliseconds, rung.score, rung.depth) for rung in ladder.rungs])
    return figure


def _ticks(axes: Axes, times: Sequence[float]) -> None:
    """A short line at the foot for each depth that was not scored."""
    if times:
        foot = axes.get_xaxis_transform()
        axes.vlines(times, 0, 0.02, transform=foot, color=FAINT, linewidth=0.8, gid="unscored")
        axes.plot([], [], color=FAINT, linewidth=0.8, label="not scored: nothing to expect")
