"""torch -> ONNX: every variant of every stage becomes one small graph of its own.

Pieces are what keeps names, opset and weight placement in our hands: the gated graph, the static
graphs and (later) stage engines are all put together from them, so tensor names match between
these forms, and the number of pieces, not the number of depths, decides how long an export takes.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
import onnxscript.rewriter.rules.common as rules
import torch
from onnxscript import rewriter
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from anydepth_deploy.errors import ExportError
from anydepth_deploy.families.shared.stages import AnyDepthModel, Size, Stage
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.graph.operators import operators_read_once
from anydepth_deploy.graph.translations import TRANSLATIONS
from anydepth_deploy.progress import Progress

__all__ = ["BATCH", "OPSET", "Piece", "Pieces", "export_pieces"]

OPSET = 18
"""LayerNormalization needs 17 or later; GridSample of 20 or later is misread by some TensorRT
versions (NVIDIA/TensorRT#4646). For those that read less, a pass rewrites the graph
(:mod:`~anydepth_deploy.graph.passes.opset`)."""

BATCH = "N"
"""Name of the batch dimension in every exported graph."""

EXAMPLE_BATCH = 2  # torch.export takes a dimension of 1 for a constant

SIMPLIFICATIONS = (  # not the default set: that one folds norms, which is ours to decide
    rules.materialize_reshape_shape_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.reshape_reshape_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
)

FOLD_LIMIT = 1 << 31  # weights are transposed once at export, whatever their size


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
def export_pieces(model: AnyDepthModel, size: Size, *, progress: Progress | None = None) -> Pieces:
    """Export every variant of every stage of ``model`` for inputs of ``size`` (height, width).

    The batch dimension stays dynamic. ``progress(name, done, total)`` is called before each piece.
    Raises :class:`ExportError` when torch cannot export a stage.
    """
    model.eval()
    stages = model.stages(size)
    total = sum(len(stage.variants) for stage in stages)
    pieces: list[Piece] = []
    with operators_read_once():
        for stage, inputs in _example_inputs(stages, size):
            for variant, module in stage.variants.items():
                if progress is not None:
                    progress(f"{stage.name}.{variant}", len(pieces), total)
                pieces.append(_export_piece(stage, variant, module, inputs))
    return Pieces(tuple(pieces), size, model.raw_outputs)


def _example_inputs(stages: list[Stage], size: Size) -> list[tuple[Stage, tuple[Tensor, ...]]]:
    """Each stage with inputs of the right shapes, found without computing anything."""
    specs: list[list[tuple[torch.Size, torch.dtype]]] = []
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        flow = {"images": torch.empty(EXAMPLE_BATCH, 3, *size)}
        for stage in stages:
            specs.append([(flow[name].shape, flow[name].dtype) for name in stage.inputs])
            flow.update(stage.run(next(iter(stage.variants)), flow))
    return [
        (stage, tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in spec))
        for stage, spec in zip(stages, specs, strict=True)
    ]


def _export_piece(
    stage: Stage, variant: str, module: nn.Module, inputs: tuple[Tensor, ...]
) -> Piece:
    name = f"{stage.name}.{variant}"
    try:
        with _quiet(), torch.no_grad():
            exported = _to_onnx(module, inputs)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ExportError(f"torch could not export the stage '{name}': {reason}") from error
    graph = _clean(exported)
    if len(graph.inputs) != len(stage.inputs) or len(graph.outputs) != len(stage.outputs):
        raise ExportError(
            f"stage '{name}' was exported with {len(graph.inputs)} inputs and "
            f"{len(graph.outputs)} outputs, expected {len(stage.inputs)} and {len(stage.outputs)}"
        )
    _rename(graph, name, stage)
    return Piece(stage, variant, graph)


def _to_onnx(module: nn.Module, inputs: tuple[Tensor, ...]) -> ir.Model:
    """All that torch's exporter does: nearly the whole time of an export is spent here."""
    batch = torch.export.Dim("batch")
    shapes: tuple[object, ...] = tuple({0: batch} for _ in inputs)
    if _takes_varargs(module):
        shapes = (shapes,)
    program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        optimize=False,
        opset_version=OPSET,
        verbose=False,
        custom_translation_table=TRANSLATIONS,
    )
    assert exported is not None
    return exported.model


def _takes_varargs(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter (missing torchvision, deprecations of its own) off the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _clean(model: ir.Model) -> ir.Graph:
    """Fold constants, drop what is unused and the exporter's stack traces."""
    with _quiet():
        common.InlinePass()(model)
        for _ in range(2):
            onnxscript.optimizer.fold_constants(
                model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT
            )
            rewriter.rewrite(model, pattern_rewrite_rules=SIMPLIFICATIONS)
            common.RemoveUnusedNodesPass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.IdentityEliminationPass()(model)
        common.DeduplicateInitializersPass()(model)
        common.CommonSubexpressionEliminationPass()(model)
        common.RemoveUnusedNodesPass()(model)
        common.ClearMetadataAndDocStringPass()(model)
    for value in model.graph.initializers.values():  # which that pass leaves out
        value.metadata_props.clear()
    return model.graph


def _rename(graph: ir.Graph, prefix: str, stage: Stage) -> None:
    """Give every value and node a name that is unique in the whole network."""
    for value in list(graph.initializers.values()):
        value.name = f"{prefix}/{value.name}"
    for index, node in enumerate(graph):
        node.name = f"{prefix}/{node.op_type}_{index}"
        for value in node.outputs:
            value.name = f"{prefix}/{value.name}"
            _name_batch(value)
    for value, tensor in zip(graph.inputs, stage.inputs, strict=True):
        value.name = f"{prefix}/in/{tensor}"
        _name_batch(value)
    for value, tensor in zip(graph.outputs, stage.outputs, strict=True):
        value.name = f"{prefix}/{tensor}"
    graph.name = prefix


def _name_batch(value: ir.Value) -> None:
    """Each export invents a symbol for the batch (``s48``); give it one name everywhere."""
    if value.shape is None:
        return
    dimensions: list[int | str | None] = []
    for dimension in value.shape:
        if isinstance(dimension, int):
            dimensions.append(dimension)
        elif dimension.value is None:
            dimensions.append(None)
        else:
            dimensions.append(re.sub(r"\bs[0-9]+\b", BATCH, str(dimension.value)))
    value.shape = ir.Shape(dimensions)
