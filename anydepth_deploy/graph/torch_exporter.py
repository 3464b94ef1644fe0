"""torch's own exporter, for modules with operators that have no translation here.

It knows nearly every operator, and takes seconds for a piece where ours takes tenths: most of it
goes into symbols of sizes and into reading its library of operators.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
import onnxscript.rewriter.rules.common as rules
import torch
from onnxscript import rewriter
from torch import Tensor, nn

from anydepth_deploy.graph.aten.builder import BATCH
from anydepth_deploy.graph.translations import TRANSLATIONS

__all__ = ["export_with_torch", "quiet"]

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


def export_with_torch(module: nn.Module, inputs: tuple[Tensor, ...], opset: int) -> ir.Graph:
    """The graph of ``module`` for any number of pictures, cleaned.

    ``inputs``: examples, with more than one picture. Raises whatever torch does.
    """
    with quiet(), torch.no_grad():
        return _clean(_to_onnx(module, inputs, opset))


def _to_onnx(module: nn.Module, inputs: tuple[Tensor, ...], opset: int) -> ir.Model:
    batch = torch.export.Dim("batch")
    shapes: tuple[object, ...] = tuple({0: batch} for _ in inputs)
    if _takes_varargs(module):
        shapes = (shapes,)
    program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        optimize=False,
        opset_version=opset,
        verbose=False,
        custom_translation_table=TRANSLATIONS,
    )
    assert exported is not None
    return exported.model


def _takes_varargs(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
    with quiet():
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
    for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs)):
        _name_batch(value)
    return model.graph


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
