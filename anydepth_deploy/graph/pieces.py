"""torch -> ONNX: every variant of every stage becomes one small graph of its own.

Pieces are what keeps names, opset and weight placement in our hands: the gated graph, the static
graphs and stage engines are all put together from them, so tensor names match between these forms,
and the number of pieces, not the number of depths, decides how long an export takes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import ExportError
from anydepth_deploy.families.shared.stages import AnyDepthModel, Size, Stage
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.graph.aten.builder import BATCH, Computed, Unsupported
from anydepth_deploy.graph.recording import record
from anydepth_deploy.graph.translate import translate
from anydepth_deploy.progress import Progress

__all__ = ["BATCH", "OPSET", "Piece", "Pieces", "export_pieces"]

OPSET = 18
"""LayerNormalization needs 17 or later; GridSample of 20 or later is misread by some TensorRT
versions (NVIDIA/TensorRT#4646). For those that read less, a pass rewrites the graph
(:mod:`~anydepth_deploy.graph.passes.opset`)."""

EXAMPLE_BATCH = 2  # torch.export takes a dimension of 1 for a constant

log = logging.getLogger(__name__)

Tensors = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""Shapes, without the number of pictures, and types."""


@dataclass(frozen=True)
class Piece:
    """One variant of one stage as an ONNX graph.

    Inputs and outputs are in the order of the stage; every name in the graph starts with
    ``{stage}.{variant}/`` and outputs are called ``{stage}.{variant}/{tensor of the flow}``.
    """

    stage: Stage
    variant: str
    graph: ir.Graph

    @property
    def prefix(self) -> str:
        return f"{self.stage.name}.{self.variant}"


@dataclass(frozen=True)
class Pieces:
    """All pieces of a network for one input size, in the order of its stages."""

    pieces: tuple[Piece, ...]
    size: Size
    raw_outputs: Mapping[str, str]

    def stages(self) -> list[tuple[Stage, dict[str, Piece]]]:
        """Each stage with its pieces by variant."""
        found: dict[str, tuple[Stage, dict[str, Piece]]] = {}
        for piece in self.pieces:
            found.setdefault(piece.stage.name, (piece.stage, {}))[1][piece.variant] = piece
        return list(found.values())


@usual_state()
def export_pieces(
    model: AnyDepthModel,
    size: Size,
    *,
    depths: Collection[Depth] | None = None,
    progress: Progress | None = None,
) -> Pieces:
    """Export the variants of the stages of ``model`` for inputs of ``size`` (height, width).

    ``depths``: only the variants that run at one of these; all where it is left out. The batch
    dimension stays dynamic. ``progress(name, done, total)`` is called before each piece. Raises
    :class:`ExportError` when torch cannot export a stage.
    """
    model.eval()
    wanted = [(stage, _wanted(stage, depths)) for stage in model.stages(size)]
    total = sum(len(variants) for _, variants in wanted)
    flow: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"images": ((3, *size), torch.float32)}
    pieces: list[Piece] = []
    for stage, variants in wanted:
        inputs = tuple(flow[name] for name in stage.inputs)
        for variant in variants:
            if progress is not None:
                progress(f"{stage.name}.{variant}", len(pieces), total)
            piece, outputs = _export_piece(stage, variant, inputs)
            pieces.append(piece)
            flow.update(zip(stage.outputs, outputs, strict=True))
    return Pieces(tuple(pieces), size, model.raw_outputs)


def _wanted(stage: Stage, depths: Collection[Depth] | None) -> list[str]:
    """The variants of a stage that run at any of ``depths``."""
    if depths is None:
        return list(stage.variants)
    running = {stage.variant(depth) for depth in depths}
    return [variant for variant in stage.variants if variant in running]


def _export_piece(stage: Stage, variant: str, inputs: Tensors) -> tuple[Piece, Tensors]:
    """The piece, and what it gives."""
    name = f"{stage.name}.{variant}"
    module = stage.variants[variant]
    try:
        graph, outputs = _by_translation(module, inputs)
    except Unsupported as reason:
        log.info("%s goes through torch's exporter, which takes longer: %s", name, reason)
        graph, outputs = _by_torch(module, inputs, name)
    if len(graph.inputs) != len(stage.inputs) or len(graph.outputs) != len(stage.outputs):
        raise ExportError(
            f"stage '{name}' was exported with {len(graph.inputs)} inputs and "
            f"{len(graph.outputs)} outputs, expected {len(stage.inputs)} and {len(stage.outputs)}"
        )
    _rename(graph, name, stage)
    return Piece(stage, variant, graph), outputs


def _by_translation(module: nn.Module, inputs: Tensors) -> tuple[ir.Graph, Tensors]:
    found = record(module, inputs)
    weights = [*module.named_parameters(), *module.named_buffers()]
    graph = translate(found, {id(tensor): name for name, tensor in weights})
    outputs = []
    for item in found.outputs:
        sizes = [size for size in item.shape if isinstance(size, int)]
        if (
            not isinstance(item, Computed)
            or item.shape[:1] != (BATCH,)
            or (len(sizes) != len(item.shape) - 1)
        ):
            raise Unsupported(f"a result of the shape {tuple(item.shape)}")
        outputs.append((tuple(sizes), item.dtype))
    return graph, tuple(outputs)


def _by_torch(module: nn.Module, inputs: Tensors, name: str) -> tuple[ir.Graph, Tensors]:
    from anydepth_deploy.graph.torch_exporter import export_with_torch

    examples = tuple(torch.zeros((EXAMPLE_BATCH, *shape), dtype=kind) for shape, kind in inputs)
    try:
        graph = export_with_torch(module, examples, OPSET)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            found = module(*examples)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ExportError(f"torch could not export the stage '{name}': {reason}") from error
    outputs = (found,) if isinstance(found, torch.Tensor) else found
    return graph, tuple((tuple(item.shape[1:]), item.dtype) for item in outputs)


def _rename(graph: ir.Graph, prefix: str, stage: Stage) -> None:
    """Give every value and node a name that is unique in the whole network."""
    for value in list(graph.initializers.values()):
        value.name = f"{prefix}/{value.name}"
    for index, node in enumerate(graph):
        node.name = f"{prefix}/{node.op_type}_{index}"
        for value in node.outputs:
            value.name = f"{prefix}/{value.name}"
    for value, tensor in zip(graph.inputs, stage.inputs, strict=True):
        value.name = f"{prefix}/in/{tensor}"
    for value, tensor in zip(graph.outputs, stage.outputs, strict=True):
        value.name = f"{prefix}/{tensor}"
    graph.name = prefix
