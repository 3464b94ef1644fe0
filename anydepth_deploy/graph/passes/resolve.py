"""One depth of a finished gated graph as a static graph.

Whoever has a gated graph has a static graph of every depth: no checkpoint and no torch are needed
to make it, in whatever precision the gated graph is and however it stores its weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.fold import (
    constant,
    fold_batch_norms,
    merge_parallel_convolutions,
)
from anydepth_deploy.graph.passes.heads import raw_tensors
from anydepth_deploy.graph.passes.values import new_constant
from anydepth_deploy.graph.passes.weights import share_constants
from anydepth_deploy.manifest import DEPTH_METADATA, RAW_METADATA, TABLE_METADATA

__all__ = [
    "GateTable",
    "branches",
    "fold_finished",
    "inline",
    "read_gates",
    "resolve",
]

DEPTH_INPUT = "depth"
TABLE, PREFIX, SUFFIX = "gates/table", "gates/", "/runs"
"""The constant that holds the gates by row, and what surrounds the name of a predicate."""


@dataclass(frozen=True)
class GateTable:
    """The depth table of a gated graph.

    ``rows``: the text of each depth. ``runs``: bool [rows, predicates], whether a predicate holds
    at a row. ``columns``: column of each predicate by its name: that of a gate, with ``.{layer}``
    for the layers that a gate counts.
    """

    rows: tuple[str, ...]
    runs: NDArray[np.bool_]
    columns: dict[str, int]

    def name(self, predicate: ir.Value | None) -> str:
        """The name of the predicate that an If asks. Raises :class:`ExportError`."""
        value = "" if predicate is None else predicate.name or ""
        name = value.removeprefix(PREFIX).removesuffix(SUFFIX)
        if value != f"{PREFIX}{name}{SUFFIX}" or name not in self.columns:
            raise ExportError(
                f"an If of the graph asks for '{value}', which is no gate of its depth table: "
                "expected a gated graph as 'export' writes it"
            )
        return name

    def holds(self, predicate: ir.Value | None, row: int) -> bool:
        return bool(self.runs[row, self.columns[self.name(predicate)]])


def resolve(model: ir.Model, row: int) -> ir.Model:
    """The static graph of one row of the depth table of the gated graph ``model``.

    ``model`` stays as it is; weights are not copied. Every If gives way to the nodes of the branch
    that is taken, the input ``depth`` goes, and so does what only other depths need. Tensors keep
    their names. Norms that were left unfolded for sharing are folded in FP32 (see
    :func:`fold_finished`), so that an FP32 graph holds the very numbers of the static graph that
    ``export`` writes.

    Raises :class:`ExportError` when ``model`` is no gated graph of this project, or has no such
    row.
    """
    table = read_gates(model)
    if not 0 <= row < len(table.rows):
        raise ExportError(
            f"the gated graph '{model.graph.name}' has no depth row {row}: expected 0 to "
            f"{len(table.rows) - 1}"
        )
    found = model.clone()
    graph = found.graph
    raw = raw_tensors(found)
    while ifs := [node for node in graph if node.op_type == "If"]:
        for node in ifs:
            taken = branches(node)[table.holds(node.inputs[0], row)]
            for value, replacement in inline(node, taken):
                raw = {name: replacement if old is value else old for name, old in raw.items()}
    for node in [node for node in graph if _passes_through(node)]:
        value, source = node.outputs[0], node.inputs[0]
        assert source is not None
        raw = {name: source if old is value else old for name, old in raw.items()}
        ir.convenience.replace_all_uses_with(value, source)
        graph.remove(node, safe=True)
    common.RemoveUnusedNodesPass()(found)
    for value in [value for value in graph.inputs if value.name == DEPTH_INPUT]:
        graph.inputs.remove(value)
    fold_finished(found)
    graph.name = f"anydepth_{table.rows[row]}"
    del found.metadata_props[TABLE_METADATA]
    found.metadata_props[DEPTH_METADATA] = table.rows[row]
    found.metadata_props[RAW_METADATA] = json.dumps({name: raw[name].name for name in raw})
    return found


def read_gates(model: ir.Model) -> GateTable:
    """The depth table that a gated graph holds. Raises :class:`ExportError` where there is none."""
    what = f"the graph '{model.graph.name}'"
    table = constant(model.graph.initializers.get(TABLE))
    text = model.metadata_props.get(TABLE_METADATA)
    if table is None or text is None:
        raise ExportError(
            f"{what} has no depth table ({TABLE}, metadata {TABLE_METADATA}): expected a gated "
            "graph as 'export --layout gated' writes it"
        )
    try:
        rows = tuple(str(depth) for depth in json.loads(text)["rows"])
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{what}: the metadata {TABLE_METADATA} cannot be read ({error!r}): export it again"
        ) from None
    columns: dict[str, int] = {}
    for node in model.graph:
        name = node.outputs[0].name or "" if node.op_type == "Cast" else ""
        if name.startswith(PREFIX) and name.endswith(SUFFIX):
            lookup = node.inputs[0].producer() if node.inputs[0] is not None else None
            index = constant(lookup.inputs[1]) if lookup is not None else None
            columns[name.removeprefix(PREFIX).removesuffix(SUFFIX)] = (
                -1 if index is None or index.shape != () else int(index)
            )
    if (
        table.ndim != 2
        or len(table) != len(rows)
        or any(not 0 <= column < table.shape[1] for column in columns.values())
    ):
        raise ExportError(
            f"{what}: its depth table is {list(table.shape)}, its metadata names {len(rows)} rows "
            f"and its nodes look up {len(columns)} gates, which does not go together: export it "
            "again"
        )
    return GateTable(rows, table != 0, columns)


def branches(node: ir.Node) -> dict[bool, ir.Graph]:
    """The branches of an If by the value of its predicate."""
    return {
        True: node.attributes["then_branch"].as_graph(),
        False: node.attributes["else_branch"].as_graph(),
    }


def inline(node: ir.Node, taken: ir.Graph) -> list[tuple[ir.Value, ir.Value]]:
    """Put the nodes and constants of a branch where the If ``node`` was.

    Returns each output of the If with the value that replaces it.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    outputs, nodes = list(taken.outputs), list(taken)
    constants = list(taken.initializers.values())
    taken.initializers.clear()
    taken.outputs.clear()
    taken.remove(nodes)
    for value in constants:
        if value.name in graph.initializers:
            raise ExportError(
                f"the name '{value.name}' has two meanings in the graph '{graph.name}': expected a "
                "graph as 'export' writes it"
            )
        graph.register_initializer(value)
    graph.insert_before(node, nodes)
    replaced = list(zip(node.outputs, outputs, strict=True))
    for value, source in replaced:
        public = value.name if value.is_graph_output() else None
        ir.convenience.replace_all_uses_with(value, source, replace_graph_outputs=True)
        if public is not None:  # what users of the graph call it
            source.name = public
    graph.remove(node, safe=True)
    for branch in branches(node).values():
        _let_go(branch)
    return replaced


def _let_go(branch: ir.Graph) -> None:
    """End the uses that the nodes of a branch have for values around it."""
    for node in ir.traversal.RecursiveGraphIterator(branch):
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def fold_finished(model: ir.Model) -> None:
    """Fold what a graph without Ifs no longer needs to keep apart, in place.

    Cut constants (a part of a shared weight) become constants of their own; float32 norms are
    folded into their convolutions, which are merged where they are parallel; equal constants are
    stored once; what nothing reads goes.

    FP16 norms stay. Their weights and factors are rounded already: a product of both would be
    rounded a second time, while the weight of a static FP16 graph is rounded once.
    """
    graph = model.graph
    _cut_constants(graph)
    rounded = {
        name for name, value in graph.initializers.items() if value.dtype != ir.DataType.FLOAT
    }
    fold_batch_norms(graph, keep=rounded)
    merge_parallel_convolutions(graph)
    common.RemoveUnusedNodesPass()(model)
    share_constants(graph, (), levels=False)


def _passes_through(node: ir.Node) -> bool:
    return node.op_type == "Identity" and not node.outputs[0].is_graph_output()


def _cut_constants(graph: ir.Graph) -> None:
    """Replace every Slice of a constant by what it cuts out, under the same name."""
    for node in [node for node in graph if node.op_type == "Slice"]:
        arrays = [constant(value) for value in node.inputs if value is not None]
        data, *bounds = arrays
        if data is None or any(array is None for array in bounds) or len(bounds) < 2:
            continue
        starts, ends, axes, steps = _bounds([np.asarray(array) for array in bounds], data.ndim)
        if min(steps) < 1:  # numpy counts backwards in another way
            continue
        index = [slice(None)] * data.ndim
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            index[axis] = slice(start, end, step)
        old = node.outputs[0]
        name, old.name = old.name or "", None
        value = new_constant(name, np.ascontiguousarray(data[tuple(index)]))
        graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(old, value)
        graph.remove(node, safe=True)


def _bounds(given: list[NDArray[np.int64]], rank: int) -> list[list[int]]:
    """Starts, ends, axes and steps of a Slice, with what it may leave out."""
    starts, ends = (array.tolist() for array in given[:2])
    axes = given[2].tolist() if len(given) > 2 else list(range(len(starts)))
    steps = given[3].tolist() if len(given) > 3 else [1] * len(starts)
    return [starts, ends, [axis % rank for axis in axes], steps]
