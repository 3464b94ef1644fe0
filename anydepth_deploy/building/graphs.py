"""Which graphs an export has to make so that engines can be built from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["engine_graphs"]


def engine_graphs(
    layouts: Sequence[str] | None, depth: str, precision: Sequence[str]
) -> dict[str, Any]:
    """Options of :func:`anydepth_deploy.export.export_bundle` for engines of these ``layouts``.

    A gated graph holds what static engines and pieces are built from, so it is all that is made
    where whole ladders are asked for: with shared weights for the gated engine, which is small
    then; folded for engines that own their weights. Depths that were chosen one by one come as
    static graphs.
    """
    whole = bool({word.strip().lower() for word in depth.split(",")} & {"all", "every"})
    wanted = list(layouts) if layouts else ["gated", "set"] if whole else ["set"]
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
