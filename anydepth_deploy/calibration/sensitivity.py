"""What 8 bits cost at the outputs of each stage, when only this stage is quantised.

Every stage is cut out of the static FP32 graph of a depth and gets the inputs it has there, so
that errors of stages before it do not count. It runs twice: with the ranges of this depth, as a
static graph is quantised, and with those merged over all depths, as the gated graph is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from anydepth_deploy.calibration.collect import ObservedGraph, import_onnxruntime
from anydepth_deploy.calibration.graphs import StageRun, stage_runs, tensors_of, to_bytes
from anydepth_deploy.calibration.table import RangeTable, StageError
from anydepth_deploy.depth import Depth
from anydepth_deploy.graph.assemble import assemble_static
from anydepth_deploy.graph.passes.placement import place
from anydepth_deploy.graph.passes.quantise import SCHEMES, Ranges, quantise
from anydepth_deploy.graph.pieces import Pieces

__all__ = ["stage_errors"]

CHOICES = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "TopK"})
"""Operators whose results jump: a small error before them says nothing about the one behind."""


@dataclass
class _Form:
    """One quantised form of a stage, and its squared error so far."""

    session: Any
    squares: float = 0.0


@dataclass
class _Cut:
    """A stage that is measured: ``own`` and ``merged`` are one form where their ranges agree."""

    run: StageRun
    inputs: list[str]
    outputs: list[str]
    own: _Form
    merged: _Form
    energy: float = field(default=0.0)

    def add(self, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        feeds = {name: tensors[name] for name in self.inputs}
        wanted = [tensors[name].astype(np.float64) for name in self.outputs]
        self.energy += sum(float(np.sum(array**2)) for array in wanted)
        for form in {id(form): form for form in (self.own, self.merged)}.values():
            found = form.session.run(None, feeds)
            form.squares += sum(
                float(np.sum((one - other) ** 2)) for one, other in zip(found, wanted, strict=True)
            )

    def error(self, form: _Form) -> float:
        if self.energy == 0:  # as relative_error has it: nothing of nothing is lost
            return 0.0 if form.squares == 0 else 1.0
        return float(np.sqrt(form.squares / self.energy))


def stage_errors(
    pieces: Pieces,
    table: RangeTable,
    depth: Depth,
    batches: Iterable[NDArray[np.float32]],
    *,
    threads: int | None = None,
) -> list[StageError]:
    """||y8 - y|| / ||y|| at the outputs of every stage that runs at ``depth``, in their order.

    y8 is what the stage gives quantised for ONNX Runtime, y what it gives in float32; the norms go
    over all outputs of the stage and all ``batches`` (images float32 [N, 3, H, W]).

    Left out are outputs that depend on a discrete choice within the stage (which tokens become
    queries: another choice is not an error of so many per cent), integers among them, and stages
    without convolutions to quantise or with no output left. ``threads``: of ONNX Runtime, by
    default as many as there are cores.

    Raises :class:`CalibrationError` when ``table`` lacks a tensor.
    """
    model = assemble_static(pieces, depth, detections=False)
    made = set(tensors_of(model.graph))
    kept = place(model.graph, lambda node, reason: reason, results=True).kept
    reasons = {node.name: reason for node, reason in kept.items()}
    cuts = []
    for run in stage_runs(pieces, depth):
        cut = _cut(model, run, made, reasons, table, str(depth), threads)
        if cut is not None:
            cuts.append(cut)
    tensors = dict.fromkeys(name for cut in cuts for name in (*cut.inputs, *cut.outputs))
    graph = ObservedGraph(to_bytes(model), list(tensors), threads=threads)
    for images in batches:
        found = graph.run(images)
        for cut in cuts:
            cut.add(found)
    return [
        StageError(
            stage=cut.run.stage.name,
            depth=str(depth),
            variant=cut.run.variant or "",
            error_own=cut.error(cut.own),
            error_merged=cut.error(cut.merged),
        )
        for cut in cuts
    ]


def _cut(
    model: ir.Model,
    run: StageRun,
    made: set[str],
    reasons: Mapping[str | None, str],
    table: RangeTable,
    depth: str,
    threads: int | None,
) -> _Cut | None:
    """The quantised forms of a stage; None where there is nothing to measure.

    ``reasons``: why convolutions of the whole graph stay in float; a stage by itself does not show
    what decodes its outputs.
    """
    if run.variant is None:
        return None
    inputs = list(dict.fromkeys(here for here, _ in run.inputs if here in made))
    outputs = [here for here, _ in run.outputs if here in made]
    if not outputs:
        return None
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    outputs = [value.name or "" for value in graph.outputs if _is_smooth(value)]
    if not outputs or not any(node.op_type == "Conv" for node in graph):
        return None
    joins = dict(run.inputs)

    def ranges(at: str | None) -> Ranges:
        def of(value: ir.Value) -> tuple[float, float]:
            name = value.name or ""
            return table.bounds(joins.get(name, name) if value.producer() is None else name, at)

        return of

    forms = []
    for at in (depth, None):
        part = ir.Model(
            ir.convenience.extract(model.graph, inputs, outputs), ir_version=model.ir_version
        )
        (placement,) = quantise(
            part,
            SCHEMES["onnxruntime"],
            ranges(at),
            lambda node, reason: reason or reasons.get(node.name),
            # An output of the cut that no graph rounds has no range.
            leaves=lambda value: value.name in table.tensors,
        )
        if not placement.convolutions:
            return None
        forms.append(to_bytes(part))
    own = _Form(_session(forms[0], threads))
    same = forms[0] == forms[1]
    fed = [value.name or "" for value in graph.inputs]
    return _Cut(run, fed, outputs, own, own if same else _Form(_session(forms[1], threads)))


def _is_smooth(value: ir.Value) -> bool:
    """Whether ``value`` is float and no discrete choice lies between it and the graph's inputs."""
    if value.dtype != ir.DataType.FLOAT:
        return False
    seen: set[ir.Node] = set()
    ahead = [value.producer()]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.op_type in CHOICES:
            return False
        seen.add(node)
        ahead.extend(source.producer() for source in node.inputs if source is not None)
    return True


def _session(model: bytes, threads: int | None) -> Any:
    ort = import_onnxruntime("measuring what 8 bits cost")
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # errors reach the caller as exceptions
    if threads is not None:
        settings.intra_op_num_threads = threads
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
