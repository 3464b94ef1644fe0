"""Which graphs an export has to make so that engines can be built from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anydepth_deploy.depth import names_whole_ladder

__all__ = ["engine_graphs", "engine_layouts"]


def engine_layouts(layouts: Sequence[str] | None, depth: str) -> list[str]:
    """The layouts to build: by default the gated engine and static ones, or of depths that were
    chosen one by one the static ones."""
    if layouts:
        return list(layouts)
    return ["gated", "set"] if names_whole_ladder(depth) else ["set"]


def engine_graphs(
    layouts: Sequence[str] | None, depth: str, precision: Sequence[str]
) -> dict[str, Any]:
    """Options of :func:`anydepth_deploy.exporting.export.export_bundle` for engines of these
    ``layouts``.

    A gated graph holds what static engines and pieces are built from, so it is all that is made
    where whole ladders are asked for: with shared weights for the gated engine, which is small
    then; folded for engines that own their weights. Depths that were chosen one by one come as
    static graphs.
    """
    whole = names_whole_ladder(depth)
    wanted = engine_layouts(layouts, depth)
    weights = ["shared"] if "gated" in wanted else []
    if "stages" in wanted or (whole and "set" in wanted):
        weights.append("folded")
    graphs = ["gated"] if weights else []
    if "set" in wanted and not whole:
        graphs.append("set")
    return {
        "layouts": graphs,
        "weights": weights or ["shared"],
        "targets": ["tensorrt"] if "int8" in precision else ["onnxruntime"],
    }
