"""Labels beside points, written so that they keep out of each other's way and off the lines.

Not by adjustText: on the pages of four networks it takes many times as long, or stops where the
machine's speed lets it, still covers marks and lines that these labels keep clear of, and cannot
leave out a label for which there is no room.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.report.facts import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FAINT", "INK", "Tag", "drawn_points", "place_tags", "plain", "top_tags"]

INK, FAINT = "#22272e", "#8a929c"

TAG_SIZE = 7.5
"""Points."""

RADII = (6, 8, 11, 14, 17, 21, 25, 30, 35, 41, 47, 56, 66)
"""Points that the edge of a label may be away from its own, the nearest first."""

ANGLES = 24

JOINED = 11
"""Points from which on a thin line joins a label to its point."""

BLOCKED = 200.0
"""Cost of a place where a label lies over something, or half outside: none is as far away."""


@dataclass(frozen=True)
class Tag:
    """A text beside the point (x, y) of the data; an optional one is left out where there is no
    room for it."""

    x: float
    y: float
    text: str
    colour: str = INK
    optional: bool = True


def plain(text: str) -> str:
    """Text that is drawn as it is: nothing in it is taken for a formula."""
    return printable(text).replace("$", r"\$")


def place_tags(axes: Axes, tags: Sequence[Tag], fontsize: float = TAG_SIZE) -> None:
    """Write ``tags`` beside their points, over neither each other nor what is drawn: lines, marks
    and bars. One that is optional is left out where all places near its point are taken.

    Positions and limits of ``axes`` must be final. ``fontsize``: in points.
    """
    if not tags:
        return
    assert axes.figure is not None
    scale = axes.figure.dpi / 72
    drawn = drawn_points(axes, scale)
    taken = np.empty((0, 4))
    placed: list[tuple[str, float, float]] = []
    frame = axes.get_window_extent()
    for tag in tags:
        x, y = axes.transData.transform((tag.x, tag.y))
        # Points that lie on each other need their name once.
        if any(
            name == tag.text and math.hypot(x - other_x, y - other_y) < 8 * scale
            for name, other_x, other_y in placed
        ):
            continue
        text = axes.annotate(
            plain(tag.text),
            (tag.x, tag.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=fontsize,
            color=tag.colour,
            zorder=2.4,  # over the grid, under what is drawn
            annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85},
            gid="tag",
        )
        size = text.get_window_extent()
        best = None
        # What is too far away for any of its places has no say.
        reach = RADII[-1] * scale + size.width + size.height
        near = drawn[np.abs(drawn - (x, y)).max(axis=1) <= reach]
        for radius in RADII:
            if best is not None and best[0] <= radius:
                break  # no place that is farther away is better
            for step in range(ANGLES):
                # To the right first, then around: where people look for a label.
                angle = 2 * math.pi / ANGLES * ((step + 1) // 2) * (1 if step % 2 else -1)
                away = radius * scale
                dx = math.cos(angle) * (away + size.width / 2)
                dy = math.sin(angle) * (away + size.height / 2)
                half = np.array([size.width / 2 + 1.5 * scale, size.height / 2 + scale])
                middle = np.array([x + dx, y + dy])
                low, high = middle - half, middle + half
                inside = (
                    low[0] >= frame.x0
                    and high[0] <= frame.x1
                    and low[1] >= frame.y0
                    and high[1] <= frame.y1
                )
                hits = int(np.all((near >= low) & (near <= high), axis=1).sum())
                overlaps = int(np.all((taken[:, :2] < high) & (taken[:, 2:] > low), axis=1).sum())
                if radius > JOINED:
                    overlaps += _crossed(np.array([x, y]), middle, taken)
                blocked = overlaps + (not inside) + (hits > 0)
                cost = BLOCKED * blocked + 8 * hits + radius
                if best is None or cost < best[0]:
                    best = (cost, radius, dx, dy, low, high)
        assert best is not None
        cost, radius, dx, dy, low, high = best
        if cost >= BLOCKED and tag.optional:
            text.remove()
            continue
        text.set_position((dx / scale, dy / scale))
        if radius > JOINED:
            # From the edge of the text, not from its middle.
            inside_text = min(
                (size.width / 2 + scale) / max(abs(dx), 1e-9),
                (size.height / 2 + scale) / max(abs(dy), 1e-9),
            )
            edge = max(0.0, 1 - inside_text)
            axes.annotate(
                "",
                (tag.x, tag.y),
                xytext=(edge * dx / scale, edge * dy / scale),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkB": 4},
                zorder=2,
            )
            steps = np.linspace(0, edge, 40)[:, None]
            drawn = np.vstack([drawn, np.array([x, y]) + steps * np.array([dx, dy])])
        placed.append((tag.text, x, y))
        taken = np.vstack([taken, [*low, *high]])


def _crossed(
    start: NDArray[np.float64], end: NDArray[np.float64], boxes: NDArray[np.float64]
) -> int:
    """How many of ``boxes``, [N, 4], the line from ``start`` to ``end`` runs over."""
    path = start + (end - start) * np.linspace(0, 1, 60)[:, None, None]
    return int(((path > boxes[:, :2]) & (path < boxes[:, 2:])).all(axis=2).any(axis=0).sum())


def top_tags(axes: Axes, tags: Sequence[Tag], room: float) -> None:
    """Write ``tags`` upright in the upper ``room`` (share) of ``axes``, side by side, each joined
    to its point. Positions and limits of ``axes`` must be final."""
    assert axes.figure is not None
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent()
    ordered = sorted(tags, key=lambda tag: tag.x)
    points = [axes.transData.transform((tag.x, tag.y)) for tag in ordered]
    places = _apart(
        [float(point[0]) for point in points], 1.35 * TAG_SIZE * scale, frame.x0, frame.x1
    )
    low = frame.y0 + (1 - room) * frame.height + 9 * scale
    for tag, point, place in zip(ordered, points, places, strict=True):
        axes.annotate(
            plain(tag.text),
            (tag.x, tag.y),
            xytext=((place - point[0]) / scale, (low - point[1]) / scale),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=TAG_SIZE,
            color=tag.colour,
            annotation_clip=False,
            gid="tag",
            arrowprops={
                "arrowstyle": "-",
                "color": tag.colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "relpos": (0.5, 0),
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )


def _apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in the order of ``wanted`` (ascending), at least ``gap`` apart, as near as may be."""
    groups: list[list[float]] = []  # the sum of what its members want of the first, and how many
    for place in wanted:
        groups.append([place, 1])
        # Of neighbours that overlap, one group: it stands where its members want it on average.
        while len(groups) > 1 and (
            groups[-2][0] / groups[-2][1] + gap * groups[-2][1] > groups[-1][0] / groups[-1][1]
        ):
            total, count = groups.pop()
            groups[-1][0] += total - gap * groups[-1][1] * count
            groups[-1][1] += count
    found = [total / count + gap * place for total, count in groups for place in range(int(count))]
    # Back inside, first from the right, then from the left.
    for place in reversed(range(len(found))):
        found[place] = min(found[place], high - gap * (len(found) - 1 - place))
    for place in range(len(found)):
        found[place] = max(found[place], low + gap * place)
    return found


def drawn_points(axes: Axes, step: float) -> NDArray[np.float64]:
    """Places in pixels on the lines and bars of ``axes``, at most ``step`` apart, [N, 2]; markers
    are larger."""
    from matplotlib.collections import LineCollection

    runs: list[NDArray[np.float64]] = []
    for line in axes.lines:
        if line.get_transform() == axes.transData:
            path = axes.transData.transform(np.asarray(line.get_xydata(), np.float64))
            has_line = line.get_linestyle() not in ("None", "none", "", " ")
            runs += [path] if has_line else [point[None] for point in path]
            if line.get_marker() not in ("None", "none", "", None, " "):
                assert axes.figure is not None
                radius = line.get_markersize() / 2 * axes.figure.dpi / 72
                turns = np.linspace(0, 2 * math.pi, 32, endpoint=False)
                rim = radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
                around = np.vstack([rim, [[0.0, 0.0]]])
                runs += [point + offset for point in path for offset in around[:, None]]
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            runs += [axes.transData.transform(part) for part in collection.get_segments()]
    dense = [np.empty((0, 2))]
    for run in runs:
        run = run[np.isfinite(run).all(axis=1)]
        dense.append(run)
        for start, end in itertools.pairwise(run):
            count = int(np.hypot(*(end - start)) // step)
            if 0 < count < 2000:
                dense.append(start + (end - start) * np.linspace(0, 1, count + 1)[:, None])
    return np.vstack(dense)
