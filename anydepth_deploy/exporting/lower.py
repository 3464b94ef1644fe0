"""From pieces to the graph of one artifact, in the precision it was asked for.

The order matters. FP16 is a pass over the finished FP32 graph. For INT8 every norm is folded first,
in both weight layouts, since a weight is rounded together with its norm; what is equal then (the
levels; a norm's factors end up in the scales) is shared afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from anydepth_deploy.calibration.keeping import Keeper, KeepingRules, table_ranges
from anydepth_deploy.calibration.table import RangeTable
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.errors import UsageError
from anydepth_deploy.graph.assemble import assemble_gated, assemble_static
from anydepth_deploy.graph.passes.deformable import gather_samples
from anydepth_deploy.graph.passes.half import to_half
from anydepth_deploy.graph.passes.kept_full import kept_full, operators_of
from anydepth_deploy.graph.passes.placement import Placement, graphs_of
from anydepth_deploy.graph.passes.quantise import SCHEMES, quantise
from anydepth_deploy.graph.passes.weights import align_levels, share_constants
from anydepth_deploy.graph.pieces import Pieces
from anydepth_deploy.manifest import Deformable, Kept, Precision, Target, Weights

__all__ = ["Lowered", "Recipe", "lower"]


@dataclass(frozen=True)
class Recipe:
    """The precision of a graph; ``ranges`` for INT8 only, ``depth`` None for a gated graph."""

    precision: Precision = "fp32"
    target: Target = "onnxruntime"
    ranges: RangeTable | None = None
    rules: KeepingRules = field(default_factory=KeepingRules)
    weights: Weights = "shared"
    depth: Depth | None = None
    raw: bool = False
    detections: bool = True
    deformable: Deformable = "gridsample"


@dataclass(frozen=True)
class Lowered:
    """A finished graph; ``quantised`` counts convolutions."""

    model: ir.Model
    quantised: int
    kept: list[Kept]


def lower(pieces: Pieces, table: DepthTable, recipe: Recipe) -> Lowered:
    """Assemble ``pieces`` and bring them to the precision of ``recipe``.

    Raises :class:`CalibrationError` when the range table lacks a tensor, :class:`UsageError` when
    an INT8 graph would have nothing in 8 bits, and :class:`ExportError`.
    """
    eight = recipe.precision == "int8"
    model = _assemble(pieces, table, recipe, "folded" if eight else recipe.weights)
    operators = operators_of(model)
    placements: list[Placement] = []
    if eight:
        assert recipe.ranges is not None
        depth = None if recipe.depth is None else str(recipe.depth)
        keeper = Keeper(recipe.ranges, recipe.rules, depth)
        scheme = SCHEMES[recipe.target]
        placements = quantise(model, scheme, table_ranges(recipe.ranges, depth), keeper)
        if not any(item.convolutions for item in placements):
            raise UsageError(
                f"no convolution of the graph of {depth or 'all depths'} would be quantised, all "
                "are kept in float: relax --keep, --max-ratio or --max-error, or export fp32"
            )
    kept = [
        Kept(node=node.name or "", op=node.op_type, reason=reason)
        for placement in placements
        for node, reason in placement.kept.items()
    ]
    if recipe.precision == "fp16" or (eight and SCHEMES[recipe.target].half):
        kept += kept_full(to_half(model), operators)
    if eight and recipe.depth is None and recipe.weights == "shared":
        main, *branches = graphs_of(model.graph)
        levels = not SCHEMES[recipe.target].half
        if levels:
            align_levels([main, *branches])
        share_constants(main, branches, levels=levels)
    if recipe.deformable == "gather":
        gather_samples(model)
    return Lowered(model, sum(len(item.convolutions) for item in placements), kept)


def _assemble(pieces: Pieces, table: DepthTable, recipe: Recipe, weights: Weights) -> ir.Model:
    wanted = {"raw": recipe.raw, "detections": recipe.detections}
    if recipe.depth is None:
        return assemble_gated(pieces, table, weights, **wanted)
    return assemble_static(pieces, recipe.depth, **wanted)
