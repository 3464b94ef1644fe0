"""What ``ladder --diagnose`` found: features apart by stage, and scores against what adds up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anydepth_deploy.bench.plots.style import COLOURS, MARKERS, tidy
from anydepth_deploy.bench.plots.tags import FAINT, INK, Tag, place_tags
from anydepth_deploy.errors import ResultError
from anydepth_deploy.ladders.plot import measure_name
from anydepth_deploy.pictures.figures import empty_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from anydepth_deploy.ladders.diagnose import Diagnosis

__all__ = ["diagnosis_figure", "draw_diagnosis"]

SIZE = (12.0, 5.0)
"""Inches."""


def draw_diagnosis(found: Diagnosis, path: str | Path, title: str, kind: str) -> None:
    """Draw ``found`` into a .png, .pdf or .svg; ``kind``: of its scores.

    Raises :class:`MissingExtraError` without the extra ``plot``, :class:`UsageError` for another
    kind of file, and :class:`ResultError` where the picture cannot be written.
    """
    write_figure(Path(path), lambda: diagnosis_figure(found, title, kind), "picture", ResultError)


def diagnosis_figure(found: Diagnosis, title: str, kind: str) -> Figure:
    """The page that :func:`draw_diagnosis` writes."""
    figure = empty_figure("drawing results", figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    _features(left, found)
    _scores(right, found, kind)
    verdict = "sound" if found.sound else f"{len(found.cliffs)} cliffs"
    figure.suptitle(f"{title}: {verdict}", color=INK, fontsize=10)
    figure.canvas.draw()  # tags are placed in pixels
    figure.set_layout_engine("none")
    place_tags(
        right,
        [
            Tag(found.explained[cliff.depth], found.scores[cliff.depth], str(cliff.depth))
            for cliff in found.cliffs[:8]
        ],
    )
    return figure


def _features(axes: Axes, found: Diagnosis) -> None:
    """A line a stage: how far apart the tensors of each piece behind it are, the farthest ones."""
    tidy(
        axes,
        "Taken and skipped, from a stage to the outputs",
        "",
        "distance over the norm of the taken one",
    )
    pieces_of = [[item.piece for item in (*one.own, *one.behind)] for one in found.stages]
    order = list(dict.fromkeys(name for names in pieces_of for name in names))
    for place, stage in enumerate(found.stages):
        pieces: dict[str, float] = {}
        for item in (*stage.own, *stage.behind):
            pieces[item.piece] = max(pieces.get(item.piece, 0.0), item.distance)
        axes.plot(
            [order.index(piece) for piece in pieces],
            list(pieces.values()),
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=5,
            linewidth=1.2,
            label=stage.stage,
            gid="stage",
        )
    axes.set_xticks(range(len(order)), order, rotation=40, ha="right")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def _scores(axes: Axes, found: Diagnosis, kind: str) -> None:
    """Every depth: what its stages explain across, what it scores upwards; cliffs are named."""
    name = measure_name(kind)
    tidy(axes, "Measured against what stages add up to", f"explained: {name}", f"measured: {name}")
    cliffs = {cliff.depth: cliff for cliff in found.cliffs}
    for depths, colour, label in (
        ([depth for depth in found.scores if depth not in cliffs], COLOURS[0], "depths"),
        (list(cliffs), COLOURS[1], "cliffs"),
    ):
        axes.scatter(
            [found.explained[depth] for depth in depths],
            [found.scores[depth] for depth in depths],
            s=24,
            color=colour,
            label=label,
            gid=label,
            zorder=3,
        )
    values = [*found.scores.values(), *found.explained.values()]
    ends = [min(values), max(values)]
    axes.plot(ends, ends, color=FAINT, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    axes.legend(loc="lower right", fontsize=8, frameon=False, labelcolor=INK)
