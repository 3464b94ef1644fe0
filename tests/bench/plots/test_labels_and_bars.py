"""Labels keep off lines, marks and each other; bars end inside the axes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from bench_results import fake_result, four_networks

from anydepth_deploy.bench.plots.page import figure
from anydepth_deploy.bench.plots.paper import paper_figure
from anydepth_deploy.bench.plots.tags import Tag, place_tags
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.pictures.figures import empty_figure

Page = Any


def pages() -> list[Page]:
    """Each figure of four networks on a page, and small for a paper."""
    found = []
    for name in ("speedup", "accuracy", "throughput"):
        found.append(pytest.param(lambda name=name: figure(four_networks(), [name]), id=name))
        found.append(
            pytest.param(
                lambda name=name: paper_figure(four_networks(), [name], (3.5, 2.8))[0],
                id=f"{name} in a column",
            )
        )
    return found


def boxes(axes: Any) -> list[Any]:
    """Of the letters of each label, without its thin line; upright labels only."""
    from matplotlib.text import Text

    return [
        Text.get_window_extent(text)
        for text in axes.texts
        if text.get_gid() == "tag" and not text.get_rotation()
    ]


def paths(axes: Any) -> list[Any]:
    """The lines of ``axes`` in pixels: curves, bars of intervals, the diagonal."""
    from matplotlib.collections import LineCollection
    from matplotlib.path import Path

    found = []
    for line in axes.lines:
        if line.get_transform() == axes.transData and line.get_linestyle() not in ("None", ""):
            found.append(Path(axes.transData.transform(np.asarray(line.get_xydata(), float))))
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            found += [Path(axes.transData.transform(part)) for part in collection.get_segments()]
    return [path for path in found if len(path.vertices) > 1]


def marks(axes: Any) -> list[tuple[float, float]]:
    return [
        tuple(point)
        for line in axes.lines
        if line.get_marker() not in ("None", None, "") and line.get_transform() == axes.transData
        for point in axes.transData.transform(np.asarray(line.get_xydata(), float))
    ]


@pytest.mark.parametrize("make", pages())
def test_labels_cross_nothing(make: Any) -> None:
    """The oracle is matplotlib's own test of a path against a box."""
    page = make()
    page.draw_without_rendering()
    (axes,) = (axes for axes in page.axes if axes.get_label() != "legend")
    found = boxes(axes)
    assert len(found) >= 6
    for box in found:
        assert not [path for path in paths(axes) if path.intersects_bbox(box, filled=False)]
        assert not [point for point in marks(axes) if box.contains(*point)]
    for box, other in itertools.combinations(found, 2):
        assert not box.overlaps(other)


def wide_bars(**changes: Any) -> BenchResult:
    """Medians with intervals that reach far beyond them."""
    result = fake_result(
        {"a": [10.0] * 40, "b": [11.0] * 40}, macs={"a": 40 * 10**9, "b": 60 * 10**9},
        ap={"a": 40.0, "b": 42.0}, **changes,
    )  # fmt: skip
    rows = []
    for row, (low, high) in zip(result.depths, ((2.0, 19.0), (5.0, 40.0)), strict=True):
        median = row.latency.median_ms.model_copy(update={"low": low, "high": high})
        speedup = row.speedup and row.speedup.model_copy(update={"low": 0.4, "high": 2.9})
        latency = row.latency.model_copy(update={"median_ms": median})
        rows.append(row.model_copy(update={"latency": latency, "speedup": speedup}))
    return result.model_copy(update={"depths": rows})


@pytest.mark.parametrize("name", ["speedup", "accuracy"])
@pytest.mark.parametrize("paper", [False, True])
def test_bars_end_inside_the_axes(name: str, paper: bool) -> None:
    from matplotlib.collections import LineCollection

    results = [wide_bars()]
    page = paper_figure(results, [name])[0] if paper else figure(results, [name])
    page.draw_without_rendering()
    (axes,) = page.axes
    frame = axes.get_window_extent()
    ends = [
        axes.transData.transform(point)
        for bars in axes.collections
        if isinstance(bars, LineCollection)
        for part in bars.get_segments()
        for point in part
    ]
    assert len(ends) >= 2
    for x, y in ends:
        assert frame.x0 < x < frame.x1
        assert frame.y0 < y < frame.y1


def test_a_label_without_room_is_left_out_or_kept_as_asked() -> None:
    """Lines everywhere: only what has to be there is written."""
    for optional in (True, False):
        page = empty_figure("tests", figsize=(2, 2), dpi=100)
        axes = page.add_axes((0.1, 0.1, 0.8, 0.8))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        for height in np.linspace(0, 1, 60):
            axes.plot([0, 1], [height, height])
        place_tags(axes, [Tag(0.5, 0.5, "name", optional=optional)])
        assert len(axes.texts) >= (not optional)
        assert bool(boxes(axes)) is not optional


def test_a_label_moves_off_a_line_that_runs_through_its_point() -> None:
    page = empty_figure("tests", figsize=(4, 4), dpi=100)
    axes = page.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0.5, 0.5])
    axes.plot([0.5, 0.5], [0, 1])
    place_tags(axes, [Tag(0.5, 0.5, "name")])
    (box,) = boxes(axes)
    x, y = axes.transData.transform((0.5, 0.5))
    assert not (box.x0 <= x <= box.x1)
    assert not (box.y0 <= y <= box.y1)
