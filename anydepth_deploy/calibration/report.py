"""What a range table says about its network: where one set of scales does not serve all depths.

Of *joins*, the outputs of gated stages that the stages behind them read, whatever path made them;
and of whole stages. What stays in float in the gated graph is for
:class:`~anydepth_deploy.calibration.keeping.Keeper` to say, here as at the export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.calibration.keeping import Keeper, KeepingRules
from anydepth_deploy.calibration.table import RangeTable
from anydepth_deploy.depth import count_depths
from anydepth_deploy.errors import CalibrationError
from anydepth_deploy.pictures.figures import empty_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "JoinRow",
    "StageRow",
    "draw_report",
    "join_rows",
    "report_rows",
    "stage_rows",
]

FINE, WORSE = "#4c72b0", "#c44e52"
"""Colours of what stays in 8 bits and of what goes to float."""

INK, FAINT = "#22272e", "#8a929c"


@dataclass(frozen=True)
class JoinRow:
    """A tensor that leaves a gated stage.

    ``ratio``: its widest range over depths / its narrowest. ``error_own``, ``error_merged``: the
    largest relative error (RMS) of 8 bits at any depth, with the ranges of that depth and with
    those merged over all; ``own_at``, ``merged_at``: the depths that have it. ``kept``: why
    convolutions that read it stay in float in the gated graph, None where they are quantised.
    """

    tensor: str
    ratio: float
    error_own: float
    own_at: str
    error_merged: float
    merged_at: str
    kept: str | None


@dataclass(frozen=True)
class StageRow:
    """A stage: ``error_own`` and ``error_merged`` at its outputs by depth of the ladder."""

    stage: str
    error_own: Mapping[str, float]
    error_merged: Mapping[str, float]

    @property
    def worst(self) -> float:
        return max(self.error_merged.values())


def join_rows(table: RangeTable, rules: KeepingRules | None = None) -> list[JoinRow]:
    """The joins of ``table``; those that stay in float first, then by the range ratio.

    ``rules``: thresholds; patterns of names are for the export, which knows the convolutions.
    """
    keeper = Keeper(table, rules or KeepingRules(), None)
    rows = []
    for tensor, entries in table.tensors.items():
        if not _is_join(tensor):
            continue
        own_at = max(entries, key=lambda depth: entries[depth].error_own)
        merged_at = max(entries, key=lambda depth: entries[depth].error_merged)
        rows.append(
            JoinRow(
                tensor=tensor,
                ratio=table.ratio(tensor),
                error_own=entries[own_at].error_own,
                own_at=own_at,
                error_merged=entries[merged_at].error_merged,
                merged_at=merged_at,
                kept=keeper.verdict(tensor, enters=True),
            )
        )
    return sorted(rows, key=lambda row: (row.kept is None, -row.ratio, -row.error_merged))


def stage_rows(table: RangeTable) -> list[StageRow]:
    """The stages of ``table`` that run on its ladder, worst first."""
    own: dict[str, dict[str, float]] = {}
    merged: dict[str, dict[str, float]] = {}
    for item in table.stages:
        if item.depth in table.ladder:
            own.setdefault(item.stage, {})[item.depth] = item.error_own
            merged.setdefault(item.stage, {})[item.depth] = item.error_merged
    rows = [StageRow(stage, own[stage], merged[stage]) for stage in own]
    return sorted(rows, key=lambda row: -row.worst)


def report_rows(table: RangeTable, rules: KeepingRules | None = None) -> dict[str, Any]:
    """The whole report as plain data, for JSON."""
    found = rules or KeepingRules()
    return {
        "max_ratio": found.max_ratio,
        "max_error": found.max_error,
        "joins": [asdict(row) for row in join_rows(table, found)],
        "stages": [asdict(row) for row in stage_rows(table)],
    }


def draw_report(table: RangeTable, path: str | Path, rules: KeepingRules | None = None) -> None:
    """Draw the report into the picture ``path`` (.png, .pdf or .svg).

    On the left what 8 bits cost each stage at each depth of the ladder, on the right how far the
    ranges of joins differ between depths, where there are joins.

    Raises :class:`MissingExtraError` without the extra ``plot``, :class:`UsageError` for another
    kind of file, and :class:`CalibrationError` when it cannot be written.
    """
    found = rules or KeepingRules()
    write_figure(Path(path), lambda: _figure(table, found), "report", CalibrationError)


def _is_join(tensor: str) -> bool:
    """Whether a tensor is the output of an If, ``{stage}/{tensor}``: others name a variant."""
    stage, slash, _ = tensor.partition("/")
    return bool(slash) and "." not in stage


def _figure(table: RangeTable, rules: KeepingRules) -> Figure:
    joins, stages = join_rows(table, rules), stage_rows(table)
    columns = len(table.ladder)
    widths = [max(1.6 + 1.15 * columns, 5.2 if joins else 8.0)] if stages else []
    if joins or not stages:
        widths.append(4.6 if stages else 6.0)
    rows = max(len(joins), len(stages), 3)
    figure = empty_figure(
        "drawing a report", figsize=(sum(widths) + 1.2, 2.1 + 0.5 * rows), layout="constrained"
    )
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    figure.suptitle(
        f"{table.family} {table.config} in 8 bits, over {table.pictures.count} pictures and "
        f"{count_depths(len(table.depths))} ({_method(table)})",
        color=INK,
        fontsize=12,
        fontweight="bold",
    )
    if stages:
        _draw_stages(axes[0], stages, table, rules.max_error)
    if joins or not stages:
        _draw_joins(axes[-1], joins, rules)
    return figure


def _method(table: RangeTable) -> str:
    return table.method if table.percentile is None else f"percentile {table.percentile:g}"


def _draw_stages(axes: Axes, rows: Sequence[StageRow], table: RangeTable, limit: float) -> None:
    """A heat map: stages by depths of the ladder."""
    import numpy as np
    from matplotlib.colors import Normalize

    depths = table.ladder
    values = np.array([[row.error_merged.get(depth, np.nan) for depth in depths] for row in rows])
    # Up to the limit at least, so that a network without trouble looks like one.
    norm = Normalize(vmin=0, vmax=max(float(np.nanmax(values)), limit))
    axes.set_facecolor("#f1f3f5")  # where a stage passes its inputs on
    image = axes.imshow(np.ma.masked_invalid(values), cmap="YlOrRd", norm=norm, aspect="auto")
    for y, row in enumerate(rows):
        for x, depth in enumerate(depths):
            if depth not in row.error_merged:
                axes.text(x, y, "passes on", ha="center", va="center", color=FAINT, fontsize=7)
                continue
            merged, own = row.error_merged[depth], row.error_own[depth]
            colour = "white" if norm(merged) > 0.6 else INK
            axes.text(x, y - 0.13, _percent(merged), ha="center", va="center", color=colour)
            axes.text(
                x,
                y + 0.25,
                f"own {_percent(own)}",
                ha="center",
                va="center",
                color=colour,
                fontsize=7,
            )
    axes.set_xticks(range(len(depths)), depths, fontsize=8)
    axes.set_yticks(range(len(rows)), [row.stage for row in rows])
    axes.set_xticks([x - 0.5 for x in range(1, len(depths))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(rows))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    _plain(axes)
    axes.set_title("Relative error at a stage's outputs, ranges merged over depths", fontsize=10)
    axes.set_xlabel("depth, from base to super")
    assert axes.figure is not None
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.035, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7, labelcolor=INK)
    bar.ax.yaxis.set_major_formatter(lambda value, _: _percent(value))


def _draw_joins(axes: Axes, rows: Sequence[JoinRow], rules: KeepingRules) -> None:
    """Bars of range ratios, with the line beyond which float is better."""
    top = max([row.ratio for row in rows] + [rules.max_ratio])
    positions = range(len(rows))
    colours = [FINE if row.kept is None else WORSE for row in rows]
    # On a logarithmic scale a bar begins where the axis does.
    axes.barh(positions, [row.ratio for row in rows], color=colours, height=0.62)
    axes.set_xscale("log")
    axes.set_xlim(1, top * 1.9)
    axes.axvline(rules.max_ratio, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for y, row in enumerate(rows):
        kept = "" if row.kept is None else ", in float"
        axes.text(row.ratio * 1.04, y, f"{row.ratio:.2f}x{kept}", va="center", fontsize=8)
    ticks = [value for value in (1, 2, 4, 8, 16, 32, 64, 128, 256) if value <= top * 1.9]
    axes.set_xticks(ticks, [f"{value}x" for value in ticks], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.set_yticks(positions, [row.tensor for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _plain(axes)
    axes.set_title("Widest range of a join over its narrowest", fontsize=10)
    axes.set_xlabel(f"beyond {rules.max_ratio:g}x what reads it stays in float")


def _plain(axes: Axes) -> None:
    """Labels without a frame and tick marks."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(which="both", length=0, labelcolor=INK)


def _percent(value: float) -> str:
    """Two significant digits: 0.034 %, 3.4 %, 34 %."""
    shown = 100 * value
    if shown >= 10:
        return f"{shown:.0f} %"
    return f"{shown:.1f} %" if shown >= 1 else f"{shown:.2g} %"
