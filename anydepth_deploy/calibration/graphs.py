"""What is observed at a depth, and under which names the gated graph knows it.

Static graphs can be looked into, gated ones cannot: what is inside an If stays there. Both are put
together from the same pieces, so a tensor inside a piece has one name everywhere. Only what leaves
a gated stage has two: ``{stage}.{variant}/{tensor}`` in a static graph, and ``{stage}/{tensor}``,
the output of the If, in the gated one, whatever variant made it. Such a *join* takes its
histogram at each depth from the tensor that the flow holds there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.errors import CalibrationError, shorten
from anydepth_deploy.families.shared.stages import POSTPROCESS, Stage
from anydepth_deploy.graph.assemble import assemble_gated, assemble_static
from anydepth_deploy.graph.passes.placement import graphs_of, observed
from anydepth_deploy.graph.pieces import Pieces

__all__ = [
    "StageRun",
    "depth_sources",
    "gated_tensors",
    "stage_runs",
    "tensors_of",
    "to_bytes",
]


@dataclass(frozen=True)
class StageRun:
    """A stage at one depth.

    ``variant``: None where the stage passes its outputs on. ``inputs`` and ``outputs``: for each
    tensor of the flow that the stage reads or binds, its name in the static graph of the depth
    and in the gated graph.
    """

    stage: Stage
    variant: str | None
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]

    @property
    def prefix(self) -> str:
        """What the names of its tensors begin with, but for the ``/`` behind it."""
        return f"{self.stage.name}.{self.variant}"


def stage_runs(pieces: Pieces, depth: Depth) -> list[StageRun]:
    """The stages before detections at ``depth``, in the order they run."""
    flow = {"images": ("images", "images")}
    runs = []
    for stage, _ in pieces.stages():
        if stage.part == POSTPROCESS:
            continue
        variant = stage.variant(depth)
        inputs = tuple(flow[tensor] for tensor in stage.inputs)
        for tensor in stage.outputs:
            here = flow[tensor][0] if variant is None else f"{stage.name}.{variant}/{tensor}"
            flow[tensor] = (here, f"{stage.name}/{tensor}" if stage.gates else here)
        outputs = tuple(flow[tensor] for tensor in stage.outputs)
        runs.append(StageRun(stage, variant, inputs, outputs))
    return runs


def gated_tensors(pieces: Pieces, table: DepthTable) -> frozenset[str]:
    """Names of the tensors whose ranges the gated graph may ask for, in all its branches."""
    model = assemble_gated(pieces, table, "folded", detections=False)
    return frozenset(name for graph in graphs_of(model.graph) for name in observed(graph))


def depth_sources(pieces: Pieces, depth: Depth, gated: Collection[str]) -> dict[str, str]:
    """For each tensor that the range table knows at ``depth``, the one that has its values in the
    static FP32 graph of this depth, up to the heads' raw outputs: itself, or for a join what the
    flow holds.

    ``gated``: of :func:`gated_tensors`. A tensor of the gated graph that does not exist at
    ``depth`` is observed at others. Raises :class:`CalibrationError` for one that exists nowhere.
    """
    model = assemble_static(pieces, depth, detections=False)
    made = tensors_of(model.graph)
    sources = {name: name for name in observed(model.graph)}
    sources.update((name, name) for name in made if name in gated)
    joins = {there: here for run in stage_runs(pieces, depth) for here, there in run.outputs}
    prefixes = {f"{piece.prefix}/" for piece in pieces.pieces}
    for name in sorted(set(gated) - sources.keys()):
        if joins.get(name) in made:
            sources[name] = joins[name]
        elif name not in joins and f"{name.split('/', 1)[0]}/" not in prefixes:
            raise CalibrationError(
                f"the gated graph asks for the tensor {shorten([name])}, which no stage makes"
            )
    return sources


def tensors_of(graph: ir.Graph) -> list[str]:
    """Names of the tensors of the main graph: its inputs and what nodes make."""
    made = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return [value.name for value in made if value.name is not None]


def to_bytes(model: ir.Model) -> bytes:
    """The model as an ONNX file would hold it."""
    return bytes(ir.serde.serialize_model(model).SerializeToString())
