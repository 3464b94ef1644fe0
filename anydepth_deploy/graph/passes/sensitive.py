"""Which part of a graph stays in FP32 when the rest becomes FP16.

Operators fall into five groups. Heavy ones (convolutions, matrix products) are FP16, and those that
lose what makes them right are always FP32: norms and softmax sum many values; a sampling position
of GridSample, a box or a score that decides a rank needs more than the 11 bits of FP16; an index
that was cast to a float would be rounded. Any operator that is not listed here counts among the
latter. What lies between follows its neighbours, so that few casts are needed:

1. *Exact* readers (grids, ranks, boxes, sigmoids that give a result, the graph's float outputs)
   take the arithmetic that leads to them into FP32, back to the linear layer or convolution it
   starts from. Arithmetic that something in FP16 reads as well, such as a residual stream, stays.
2. Arithmetic that reads nothing but FP32 is FP32.
3. Operators that only move values round to the same result before and after: they go to the side
   where fewer bytes are moved and fewer casts needed.

And whatever FP16 cannot hold is FP32, heavy or not: nodes with constants beyond its ends, and what
is computed from them until it is an ordinary number again (see :mod:`magnitudes`).

The outputs of an If count as such moves, out of either branch. So a coordinate that is FP32 in the
branch that computes it passes the If, and the pass-through of the other branch, in FP32.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes import magnitudes
from anydepth_deploy.graph.passes.fold import constant
from anydepth_deploy.graph.passes.magnitudes import LARGEST, SMALLEST_NORMAL, Size
from anydepth_deploy.manifest import RAW_METADATA

__all__ = ["FIXED_INPUTS", "Choice", "Unit", "branches", "choose_full", "operators", "walk"]


def operators(names: str) -> frozenset[str]:
    """Operator types, from their names with spaces between."""
    return frozenset(names.split())


FIXED_INPUTS = {"Resize": (1, 2)}
"""Inputs that are FP32 whatever the operator computes in: roi and scales."""

HEAVY = operators(
    "AveragePool BatchNormalization Conv ConvTranspose DequantizeLinear Gemm MatMul MaxPool "
    "QuantizeLinear Resize"
)
POOLS = operators("AveragePool MaxPool Resize")
"""Heavy, but without constants: what they give is as large as what they read."""

ARITHMETIC = operators(
    "Abs Add Ceil Clip Div Erf Floor LeakyRelu Max Min Mul Neg PRelu ReduceMax ReduceMin Relu "
    "Round Sign Sub Where"
)
MOVES = operators(
    "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Pad Reshape "
    "ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze"
)
EXACT_INPUTS = {"GridSample": (1,), "TopK": (0,)}
"""Inputs that must not have passed through FP16 since the last heavy operator."""

EXACT = operators(
    "Cast Equal Greater GreaterOrEqual Less LessOrEqual Log NonMaxSuppression Sigmoid"
)
"""Operators all of whose float inputs are exact."""

Unit = ir.Node | ir.Value
"""What is decided about: a node, or one output of an If."""


@dataclass(frozen=True)
class Choice:
    """``full``: the nodes and the outputs of Ifs in FP32. ``pinned``: values that must be FP32
    whatever computes them, because they or copies of them are outputs of the graph. ``beyond``:
    of ``full``, what is there because FP16 cannot hold it."""

    full: frozenset[Unit]
    pinned: tuple[ir.Value, ...]
    beyond: frozenset[Unit]


def branches(node: ir.Node) -> Iterator[ir.Graph]:
    """The branches of an If; nothing for other nodes. Raises :class:`ExportError` for a loop."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            if node.op_type != "If":
                raise ExportError(
                    f"node '{node.name}' ({node.op_type}) holds a graph: half precision can only "
                    "be made of graphs whose control flow is If"
                )
            yield attribute.as_graph()


def walk(graph: ir.Graph) -> Iterator[ir.Node]:
    """All nodes in the order of execution; those in the branches of an If come before it."""
    for node in graph:
        for branch in branches(node):
            yield from walk(branch)
        yield node


def choose_full(model: ir.Model) -> Choice:
    """Decide what of ``model`` stays in FP32. All values have types."""
    flow = _Flow(list(walk(model.graph)))
    raw = set(json.loads(model.metadata_props.get(RAW_METADATA, "{}")).values())
    pinned = {value: None for value in model.graph.outputs if _is_float(value)}
    for node in model.graph:
        pinned.update((v, None) for v in node.outputs if v.name in raw and _is_float(v))
    beyond = _beyond(flow)
    full = {unit for unit in flow.units if flow.group(unit) == "full"} | beyond
    _grow_backwards(flow, full, set(pinned))
    _grow_forwards(flow, full)
    _move_casts(flow, full, set(pinned), beyond)
    return Choice(frozenset(full), tuple(pinned), frozenset(beyond))


@dataclass
class _Flow:
    """Float values between nodes, with the borders of Ifs taken away."""

    nodes: list[ir.Node]
    units: list[Unit] = field(default_factory=list)
    """In the order of execution."""
    leaving: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """From the output of a branch to the If's output it becomes."""
    entering: dict[ir.Value, list[ir.Value]] = field(default_factory=dict)
    """From the output of an If to the outputs of its branches."""

    def __post_init__(self) -> None:
        self.group = functools.cache(self._group)
        for node in self.nodes:
            if node.op_type != "If":
                self.units.append(node)
                continue
            for index, value in enumerate(node.outputs):
                if _is_float(value):
                    sources = [branch.outputs[index] for branch in branches(node)]
                    self.entering[value] = sources
                    self.leaving.update((source, value) for source in sources)
                    self.units.append(value)

    def _group(self, unit: Unit) -> str:
        """``half``, ``full``, ``arithmetic``, ``move`` or ``none`` (no floats)."""
        if isinstance(unit, ir.Value):
            return "move"
        if not any(_is_float(value) for value in (*unit.inputs, *unit.outputs)):
            return "none"
        if _is_silu(unit):
            return "half"
        if unit.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return "half" if _scale_fits(unit) else "full"
        if unit.op_type in HEAVY:
            return "half"
        if unit.op_type in ARITHMETIC:
            return "arithmetic"
        return "move" if unit.op_type in MOVES else "full"

    def rounded(self, node: ir.Node) -> Iterable[int]:
        """The inputs whose constants FP16 would round, or whose size is that of the results."""
        if self.group(node) == "full" and node.op_type not in (
            *magnitudes.NORMS,
            "DequantizeLinear",
        ):
            return ()
        fixed = FIXED_INPUTS.get(node.op_type, ())
        return (index for index in range(len(node.inputs)) if index not in fixed)

    def sources(self, unit: Unit) -> list[ir.Value]:
        """Computed floats that ``unit`` reads."""
        if isinstance(unit, ir.Value):
            return self.entering[unit]
        return [v for v in unit.inputs if v is not None and _is_float(v) and not v.is_initializer()]

    def results(self, unit: Unit) -> list[ir.Value]:
        """Floats that ``unit`` gives."""
        if isinstance(unit, ir.Value):
            return [unit]
        return [value for value in unit.outputs if _is_float(value)]

    def readers(self, value: ir.Value) -> list[Unit]:
        """Who reads ``value``; outputs of the whole graph have no reader here."""
        found: list[Unit] = [use.node for use in value.uses()]
        return [*found, self.leaving[value]] if value in self.leaving else found

    def readers_of(self, unit: Unit) -> Iterable[Unit]:
        return (reader for value in self.results(unit) for reader in self.readers(value))

    def is_full(self, value: ir.Value, full: set[Unit]) -> bool:
        unit = _unit(value)
        return unit is None or unit in full  # the inputs of the graph are float32


def _beyond(flow: _Flow) -> set[Unit]:
    """What FP16 cannot hold: from the first constant that does not fit, and what makes up for it
    before that."""
    found, ends = _spread(flow, set(), set())
    path: set[Unit] = set()
    makers: set[Unit] = set()
    for end in ends:
        _lead_to(flow, end, path, makers)
    # Sizes begin earlier then, and end so.
    return _spread(flow, path, makers)[0] | path | makers if makers else found


def _spread(flow: _Flow, path: set[Unit], makers: set[Unit]) -> tuple[set[Unit], list[ir.Node]]:
    """What reads constants that do not fit, or what is computed from those or by ``makers``, until
    it is ordinary again, which is not asked along ``path``; and of these where it begins."""
    found: set[Unit] = set()
    ends: list[ir.Node] = []
    sizes: dict[ir.Value | None, Size] = {}
    for unit in flow.units:
        if isinstance(unit, ir.Value):
            if given := [sizes[value] for value in flow.entering[unit] if value in sizes]:
                found.add(unit)
                sizes[unit] = magnitudes.largest_of(given)
            continue
        large = {index: sizes[value] for index, value in enumerate(unit.inputs) if value in sizes}
        misfits = [index for index in flow.rounded(unit) if magnitudes.reads_misfit(unit, index)]
        begins = bool(misfits) or (flow.group(unit) == "half" and magnitudes.overflows(unit))
        if not large and not begins and unit not in makers:
            continue
        if flow.group(unit) != "full":
            found.add(unit)
        for index in misfits:
            found.update(magnitudes.weight_path(unit, index))
        if begins:
            ends.append(unit)
        size = magnitudes.estimate(unit, large)
        if not size.ordinary or unit in path or unit in makers:
            sizes.update((value, size) for value in flow.results(unit))
    return found, ends


def _lead_to(flow: _Flow, end: ir.Node, path: set[Unit], makers: set[Unit]) -> None:
    """Add to ``makers`` the layers that make up for the constants of ``end``, and to ``path`` what
    computes its inputs from what they give; nothing where none does."""
    passed: set[Unit] = set()
    found: set[Unit] = set()
    waiting: list[Unit] = [end]
    while waiting:
        for value in flow.sources(waiting.pop()):
            unit = _unit(value)
            if unit is None or unit in passed or flow.group(unit) == "full":
                continue
            if isinstance(unit, ir.Value) or flow.group(unit) != "half" or _passes(unit):
                passed.add(unit)
                waiting.append(unit)
            elif magnitudes.out_of_bounds(unit):
                found.add(unit)
    if found:
        path |= passed
        makers |= found


def _passes(node: ir.Node) -> bool:
    """Whether a node that is FP16 has no constants that multiply what it reads."""
    return node.op_type in POOLS or _is_silu(node)


def _grow_backwards(flow: _Flow, full: set[Unit], pinned: set[ir.Value]) -> None:
    exact = set(pinned)
    for unit in reversed(flow.units):
        group = flow.group(unit)
        results = flow.results(unit)
        if group in ("arithmetic", "move") and any(value in exact for value in results):
            if group == "arithmetic" and any(
                reader not in full for reader in flow.readers_of(unit)
            ):
                continue
            full.add(unit)
            exact.update(flow.sources(unit))
        elif group == "full" and isinstance(unit, ir.Node):
            exact.update(_exact_inputs(unit))


def _grow_forwards(flow: _Flow, full: set[Unit]) -> None:
    for unit in flow.units:
        if flow.group(unit) in ("arithmetic", "move"):
            sources = flow.sources(unit)
            if sources and all(flow.is_full(value, full) for value in sources):
                full.add(unit)


def _move_casts(flow: _Flow, full: set[Unit], pinned: set[ir.Value], beyond: set[Unit]) -> None:
    """Take moves out of FP32 where they come from, or lead to, FP16 alone; not those ``beyond``."""
    moves = [
        unit
        for unit in flow.units
        if unit in full and unit not in beyond and flow.group(unit) == "move"
    ]
    for unit in reversed(moves):
        results = flow.results(unit)
        if any(value in pinned for value in results):
            continue
        to_half = not any(reader in full for reader in flow.readers_of(unit))
        if to_half and (isinstance(unit, ir.Value) or len(set(flow.sources(unit))) <= 1):
            full.discard(unit)
    for unit in moves:
        if unit not in full or any(value in pinned for value in flow.results(unit)):
            continue
        sources = flow.sources(unit)
        # Rows of a constant table (anchors) need no cast, and are not to be rounded.
        if not sources or any(flow.is_full(value, full) for value in sources):
            continue
        shared = any(
            reader in full for v in sources for reader in flow.readers(v) if reader != unit
        )
        mixed = any(reader not in full for reader in flow.readers_of(unit))
        if mixed or isinstance(unit, ir.Value) or not (shared or len(flow.results(unit)) > 1):
            full.discard(unit)


def _exact_inputs(node: ir.Node) -> Iterator[ir.Value]:
    for index, value in enumerate(node.inputs):
        exact = node.op_type in EXACT or index in EXACT_INPUTS.get(node.op_type, ())
        if exact and value is not None and _is_float(value):
            yield value


def _unit(value: ir.Value) -> Unit | None:
    """What computes ``value``; None for an input of the graph."""
    producer = value.producer()
    return value if producer is not None and producer.op_type == "If" else producer


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _is_silu(node: ir.Node) -> bool:
    """Whether ``node`` is one of the two of x * sigmoid(x), an activation like ReLU."""
    if node.op_type == "Mul":
        return any(
            value is not None
            and (gate := value.producer()) is not None
            and gate.op_type == "Sigmoid"
            and _is_silu(gate)
            for value in node.inputs
        )
    if node.op_type != "Sigmoid":
        return False
    readers = list(node.outputs[0].uses())
    return (
        len(readers) == 1
        and readers[0].node.op_type == "Mul"
        and not node.outputs[0].is_graph_output()
        and readers[0].node.inputs[1 - readers[0].idx] is node.inputs[0]
    )


def _scale_fits(node: ir.Node) -> bool:
    """Whether every scale of a Q or DQ node is a normal FP16 number: rounded to fewer bits, or to
    zero, it would quantise to something else."""
    scale = constant(node.inputs[1])
    if scale is None:
        return False
    return bool(np.all((scale >= SMALLEST_NORMAL) & (scale <= LARGEST)))
