"""What 8 bits cost at the outputs of each stage, when only this stage is quantised.

Every stage gets the inputs that it has in the FP32 network at a depth, so that errors of stages
before it do not count. It runs twice: with the ranges of this depth, as a static graph is
quantised, and with those merged over all depths, as the gated graph is. What depths have in common
is computed once, and a quantised form that ranges make twice is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from anydepth_deploy.calibration.graphs import stage_runs, tensors_of
from anydepth_deploy.calibration.steps import Step, shared_steps
from anydepth_deploy.calibration.table import RangeTable, StageError
from anydepth_deploy.calibration.walk import Walk, open_session
from anydepth_deploy.depth import Depth
from anydepth_deploy.graph.assemble import assemble_stage, assemble_static
from anydepth_deploy.graph.passes.placement import place
from anydepth_deploy.graph.passes.quantise import SCHEMES, quantise
from anydepth_deploy.graph.pieces import Pieces

__all__ = ["stage_errors"]

CHOICES = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "TopK"})
"""Operators whose results jump: a small error before them says nothing about the one behind."""

Range = tuple[float, float]


@dataclass(frozen=True)
class _Cut:
    """What is measured of a variant of a stage, and which convolutions stay in float though the
    stage by itself does not show why: what decodes its outputs lies behind it."""

    prefix: str
    outputs: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]


@dataclass(eq=False)
class _Form:
    """One quantised form of a cut: its inputs in the order of the stage, and by the names that they
    have in float the outputs that are compared."""

    session: Any
    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(eq=False)
class _Measured:
    """A step with its two forms, one where their ranges agree, and their squared errors so far."""

    step: Step
    own: _Form
    merged: _Form
    squares: dict[_Form, float] = field(default_factory=dict)
    energy: float = 0.0

    def add(
        self, inputs: Sequence[NDArray[np.generic]], outputs: Mapping[str, NDArray[np.generic]]
    ) -> None:
        wanted = [outputs[name].astype(np.float64) for name in self.own.outputs]
        self.energy += sum(float(np.sum(array**2)) for array in wanted)
        for form in dict.fromkeys((self.own, self.merged)):
            found = form.session.run(None, dict(zip(form.inputs, inputs, strict=True)))
            self.squares[form] = self.squares.get(form, 0.0) + sum(
                float(np.sum((one - other) ** 2)) for one, other in zip(found, wanted, strict=True)
            )

    def error(self, form: _Form) -> float:
        squares = self.squares.get(form, 0.0)
        if self.energy == 0:  # as relative_error has it: nothing of nothing is lost
            return 0.0 if squares == 0 else 1.0
        return float(np.sqrt(squares / self.energy))


def stage_errors(
    pieces: Pieces,
    table: RangeTable,
    depths: Sequence[Depth],
    batches: Iterable[NDArray[np.float32]],
    *,
    threads: int | None = None,
) -> list[StageError]:
    """||y8 - y|| / ||y|| at the outputs of every stage that runs at each of ``depths``, in order.

    y8 is what the stage gives quantised for ONNX Runtime, y what it gives in float32; the norms go
    over all outputs of the stage and all ``batches`` (images float32 [N, 3, H, W]).

    Left out are outputs that depend on a discrete choice within the stage (which tokens become
    queries: another choice is not an error of so many per cent), integers among them, and stages
    without convolutions to quantise or with no output left. ``threads``: of ONNX Runtime, by
    default as many as there are cores that this process may use.

    Raises :class:`CalibrationError` when ``table`` lacks a tensor.
    """
    steps = shared_steps(pieces, depths)
    forms = _Forms(pieces, table, threads)
    rows: list[tuple[Depth, _Measured]] = []
    measured: dict[tuple[Step, _Cut, _Form], _Measured] = {}
    of_step: dict[Step, list[_Measured]] = {}
    for depth in depths:
        cuts = _cuts(pieces, depth)
        for step in (step for step in steps if depth in step.depths):
            cut = cuts[step.prefix]
            reads = [there for _, there in step.run.inputs]
            own, merged = (forms.find(cut, reads, at) for at in (str(depth), None))
            if own is None or merged is None:
                continue
            # Depths that share a step have one range for what is in it, or they share less.
            key = (step, cut, own)
            if key not in measured:
                measured[key] = _Measured(step, own, merged)
                of_step.setdefault(step, []).append(measured[key])
            rows.append((depth, measured[key]))
    shown = {
        step: [name for item in items for name in item.own.outputs]
        for step, items in of_step.items()
    }
    walk = Walk(pieces, steps, shown, threads=threads)
    for images in batches:
        for seen in walk.run(images):
            for item in of_step.get(seen.step, ()) if seen.step is not None else ():
                item.add(seen.inputs, seen.tensors)
            del seen
    return [
        StageError(
            stage=item.step.run.stage.name,
            depth=str(depth),
            variant=item.step.run.variant or "",
            error_own=item.error(item.own),
            error_merged=item.error(item.merged),
        )
        for depth, item in rows
    ]


def _cuts(pieces: Pieces, depth: Depth) -> dict[str, _Cut]:
    """What is measured of each stage that runs at ``depth``, by the prefix of its piece."""
    graph = assemble_static(pieces, depth, detections=False).graph
    made = set(tensors_of(graph))
    kept = place(graph, lambda node, reason: reason, results=True).kept
    reasons = [(node.name or "", reason) for node, reason in kept.items()]
    found = {}
    for run in stage_runs(pieces, depth):
        if run.variant is None:
            continue
        outputs = tuple(here for here, _ in run.outputs if here in made)
        inside = tuple(item for item in reasons if item[0].startswith(f"{run.prefix}/"))
        found[run.prefix] = _Cut(run.prefix, outputs, inside)
    return found


class _Forms:
    """Quantised forms, made once for each set of ranges."""

    def __init__(self, pieces: Pieces, table: RangeTable, threads: int | None) -> None:
        self._pieces = {piece.prefix: piece for piece in pieces.pieces}
        self._table, self._threads = table, threads
        self._asked: dict[_Cut, list[str] | None] = {}
        self._made: dict[tuple[_Cut, tuple[Range, ...]], _Form] = {}

    def find(self, cut: _Cut, reads: Sequence[str], at: str | None) -> _Form | None:
        """The form with the ranges of the depth ``at``, or merged; None where there is nothing to
        measure. ``reads``: what the table calls the inputs of the stage."""
        if cut in self._asked:
            asked = self._asked[cut]
            if asked is None:
                return None
            ranges = tuple(self._table.bounds(name, at) for name in asked)
            if (cut, ranges) in self._made:
                return self._made[cut, ranges]
        found = self._quantised(cut, reads, at)
        if found is None:
            self._asked[cut] = None
            return None
        model, outputs, seen = found
        self._asked[cut] = list(seen)
        session = open_session(model, f"stage '{cut.prefix}' in 8 bits", self._threads)
        form = _Form(session, [value.name or "" for value in model.graph.inputs], outputs)
        return self._made.setdefault((cut, tuple(seen.values())), form)

    def _quantised(
        self, cut: _Cut, reads: Sequence[str], at: str | None
    ) -> tuple[ir.Model, list[str], dict[str, Range]] | None:
        """The quantised graph, what its outputs were called, and the ranges that were asked for."""
        model = assemble_stage(self._pieces[cut.prefix])
        wanted = [value for value in model.graph.outputs if value.name in cut.outputs]
        model.graph.outputs[:] = [value for value in wanted if _is_smooth(value)]
        outputs = [value.name or "" for value in model.graph.outputs]
        common.RemoveUnusedNodesPass()(model)
        if not any(node.op_type == "Conv" for node in model.graph):
            return None
        joins = dict(zip(model.graph.inputs, reads, strict=True))
        kept = dict(cut.kept)
        seen: dict[str, Range] = {}

        def ranges(value: ir.Value) -> Range:
            name = joins.get(value, value.name or "")
            seen[name] = self._table.bounds(name, at)
            return seen[name]

        (placement,) = quantise(
            model,
            SCHEMES["onnxruntime"],
            ranges,
            lambda node, reason: reason or kept.get(node.name or ""),
            # An output of the cut that no graph rounds has no range.
            leaves=lambda value: value.name in self._table.tensors,
        )
        return (model, outputs, seen) if placement.convolutions else None


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
