"""Further depths to calibrate, so that every variant of every stage runs in at least one.

A branch of the gated graph that no calibrated depth runs would have no ranges. A ladder need not
visit all: a stage with two gates has four variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anydepth_deploy.depth import Depth, DepthTable

if TYPE_CHECKING:
    from anydepth_deploy.families.shared.stages import Stage

__all__ = ["covering_depths"]


def covering_depths(
    stages: Sequence[Stage], table: DepthTable, depths: Sequence[Depth]
) -> list[Depth]:
    """Depths that run what ``depths`` leave out of the variants of ``stages``.

    Chosen greedily: the depth that runs most of what is missing; among equals, the one with the
    fewest gates changed from a rung of the ladder, then the first in ``table``. Empty when nothing
    is missing. A variant that no depth runs is left out: no graph of the network has it either.
    """
    runs = {depth: _variants(stages, depth) for depth in table.rows}
    missing = set[tuple[str, str]]().union(*runs.values())
    for depth in depths:
        missing -= runs[table.find(depth)]
    distance = {depth: min(_changed(depth, rung) for rung in table.ladder) for depth in table.rows}
    chosen: list[Depth] = []
    while missing:
        best = min(table.rows, key=lambda row: (-len(runs[row] & missing), distance[row]))
        chosen.append(best)
        missing -= runs[best]
    return chosen


def _variants(stages: Sequence[Stage], depth: Depth) -> set[tuple[str, str]]:
    """The stages that run at ``depth``, each with its variant."""
    found = ((stage.name, stage.variant(depth)) for stage in stages)
    return {(name, variant) for name, variant in found if variant is not None}


def _changed(one: Depth, other: Depth) -> int:
    return sum(a != b for a, b in zip(one.settings, other.settings, strict=True))
