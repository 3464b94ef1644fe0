"""Published points beside measured ones: hollow, and only of networks that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anydepth_deploy.bench.plots.style import Drawn, Series, handle
from anydepth_deploy.bench.plots.tags import INK, Tag, plain
from anydepth_deploy.bench.report.published import PublishedRatio, load_published
from anydepth_deploy.bench.results import BenchResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_published"]

PUBLISHED_MACS = "D"
PUBLISHED_LATENCY = ("^", "s", "v", "P", "X")
"""Hollow markers of what others published: of multiply-adds, and of latency by device."""

Network = tuple[str, str]


def draw_published(axes: Axes, series: Sequence[Series], drawn: Drawn) -> list[tuple[float, float]]:
    """Hollow markers of the networks among the results; where they are."""
    published = load_published()
    points, headlines, markers = [], [], {}
    timed = False
    for network, members in _networks(series).items():
        colour = members[0].colour if len(members) == 1 else INK
        for ratio in published.ratios(*network):
            x = _published_x(ratio, [item.result for item in members])
            if x is None:
                continue
            if ratio.quantity == "multiply-adds":
                markers[ratio.label] = PUBLISHED_MACS
            else:
                timed = True
                count = sum(marker != PUBLISHED_MACS for marker in markers.values())
                shape = PUBLISHED_LATENCY[count % len(PUBLISHED_LATENCY)]
                markers.setdefault(ratio.label, shape)
            axes.plot(
                [x],
                [ratio.ratio],
                linestyle="none",
                color=colour,
                marker=markers[ratio.label],
                markersize=8,
                markerfacecolor="none",
                markeredgewidth=1.4,
                label=ratio.label,
                gid="published",
                zorder=3.5,
            )
            points.append((x, ratio.ratio))
            text = f"{network[1]}, published {ratio.ratio:.2f}x"
            drawn.tags.insert(0, Tag(x, ratio.ratio, text, colour))  # long ones take room first
        headlines += [h for h in published.headlines if (h.family, h.config) == network]
    for label, marker in sorted(markers.items(), key=lambda pair: pair[1] != PUBLISHED_MACS):
        drawn.handles.append(
            handle(plain(label), marker=marker, markersize=7, markerfacecolor="none")
        )
    if headlines:
        said = " and ".join(str(item) for item in headlines)
        drawn.notes.append(
            f"Published: {said} as ratios of {headlines[0].quantity}, not of measured time; such "
            "points lie on the diagonal by definition."
        )
    if timed:
        drawn.notes.append(
            "Published latencies are of two static engines; they stand at the multiply-adds of "
            "the network measured here."
        )
    return points


def _networks(series: Sequence[Series]) -> dict[Network, list[Series]]:
    found: dict[Network, list[Series]] = {}
    for item in series:
        subject = item.result.subject
        found.setdefault((subject.family, subject.config), []).append(item)
    return found


def _published_x(ratio: PublishedRatio, results: Sequence[BenchResult]) -> float | None:
    """The ratio of multiply-adds of a published point: its own, or as counted in a result."""
    if ratio.full.macs and ratio.point.macs:
        return ratio.full.macs / ratio.point.macs
    for result in results:
        macs = {depth.depth: depth.macs for depth in result.depths}
        full, point = macs.get(ratio.full.depth or ""), macs.get(ratio.point.depth or "")
        if full and point:
            return full / point
    return None
