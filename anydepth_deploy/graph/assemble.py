"""Put pieces together: one gated graph for all depths, or a static graph of one depth.

The gated graph has the inputs ``images`` and ``depth`` (int64 scalar, a row of the table of gate
settings stored in the graph). The predicates of all If nodes are looked up once, at the top. A
stage becomes one If: its full piece in one branch, its skipped piece (or a pass-through of the
tensors it would have changed) in the other. A stage with two gates becomes an If in each branch of
an If. Decoder layers are flat, not nested: nested Ifs were measured 2-3 % slower.

A network of one depth gives a graph without Ifs that has both inputs all the same: whoever runs
graphs need not know how many depths there are. The only row is looked up though nothing reads what
is found, so that ONNX Runtime refuses any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from anydepth_deploy.depth import Depth, DepthTable, Predicate, variant_name
from anydepth_deploy.families.shared.stages import DETECTIONS, POSTPROCESS, Stage
from anydepth_deploy.graph.passes.fold import fold_batch_norms, merge_parallel_convolutions
from anydepth_deploy.graph.passes.values import new_constant, new_node
from anydepth_deploy.graph.passes.weights import share_constants, share_slices, shared_names
from anydepth_deploy.graph.pieces import BATCH, OPSET, Piece, Pieces
from anydepth_deploy.manifest import DEPTH_METADATA, RAW_METADATA, TABLE_METADATA, Weights
from anydepth_deploy.version import __version__

__all__ = ["assemble_gated", "assemble_stage", "assemble_static"]

IR_VERSION = 8
"""What opset 18 came with; every runtime that reads the opset reads this."""

INT64, BOOL = ir.TensorType(ir.DataType.INT64), ir.TensorType(ir.DataType.BOOL)


def assemble_gated(
    pieces: Pieces,
    table: DepthTable,
    weights: Weights = "shared",
    *,
    raw: bool = False,
    detections: bool = True,
) -> ir.Model:
    """One graph that holds every depth of ``table``.

    ``raw`` adds the heads' raw outputs; without ``detections`` the graph ends with them.
    """
    builder = _Builder(pieces)
    predicates = builder.add_predicates(table)
    for stage, variants in _chosen(pieces, detections):
        graphs = _prepare(variants, weights)
        if stage.gates:
            builder.branch(stage, graphs, [predicates[gate] for gate in stage.gates])
        else:
            builder.inline(stage, graphs["full"])
    depths = [str(depth) for depth in table.rows]
    metadata = {TABLE_METADATA: json.dumps({"levels": len(table.exported), "rows": depths})}
    return builder.finish(
        "gated", raw=raw, detections=detections, metadata=metadata, share=weights == "shared"
    )


def assemble_static(
    pieces: Pieces, depth: Depth, *, raw: bool = False, detections: bool = True
) -> ir.Model:
    """A graph of one depth, norms folded; its tensors are named as in the gated graph."""
    builder = _Builder(pieces)
    for stage, variants in _chosen(pieces, detections):
        variant = stage.variant(depth)
        if variant is not None:
            builder.inline(stage, _prepare({variant: variants[variant]}, "folded")[variant])
    metadata = {DEPTH_METADATA: str(depth)}
    return builder.finish(str(depth), raw=raw, detections=detections, metadata=metadata)


def assemble_stage(piece: Piece) -> ir.Model:
    """A graph of one variant of a stage by itself, norms folded: its inputs in the order of the
    stage, its tensors named as in the static graphs that it is part of."""
    graph = _prepare({piece.variant: piece}, "folded")[piece.variant]
    graph.opset_imports[""] = OPSET
    return ir.Model(graph, ir_version=IR_VERSION)


def _chosen(pieces: Pieces, detections: bool) -> list[tuple[Stage, dict[str, Piece]]]:
    """The stages of the graph: all, or those before detections."""
    found = pieces.stages()
    return found if detections else [item for item in found if item[0].part != POSTPROCESS]


def _prepare(variants: Mapping[str, Piece], weights: Weights) -> dict[str, ir.Graph]:
    """Fresh copies of a stage's graphs, folded as far as the weight layout allows."""
    graphs = {name: piece.graph.clone() for name, piece in variants.items()}
    if weights == "shared":
        share_slices(graphs)
    kept = shared_names(graphs) if weights == "shared" else {}
    for name, graph in graphs.items():
        fold_batch_norms(graph, keep=kept.get(name, ()))
        merge_parallel_convolutions(graph)
    return graphs


class _Builder:
    """The flow of tensors while stages are added one after the other."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.branches: list[ir.Graph] = []
        images = ir.val("images", ir.DataType.FLOAT, [BATCH, 3, *pieces.size])
        self.inputs = [images]
        self.flow: dict[str, ir.Value] = {"images": images}
        self.lookups: list[ir.Value] = []
        """What stays though nothing reads it."""

    def add_predicates(self, table: DepthTable) -> dict[Predicate, ir.Value]:
        """A bool scalar for every predicate, looked up in the table by the input ``depth``."""
        gates = list(
            dict.fromkeys(gate for stage, _ in self.pieces.stages() for gate in stage.gates)
        )
        depth = ir.val("depth", ir.DataType.INT64, [])
        self.inputs.append(depth)
        # Without gates a column that says nothing: no reader of graphs need know empty tables.
        settings = [[int(gate.runs(row)) for gate in gates] or [1] for row in table.rows]
        rows = self._constant("gates/table", np.asarray(settings, np.int64))
        count = self._constant("gates/rows", np.asarray(len(settings), np.int64))
        zero = self._constant("gates/zero", np.asarray(0, np.int64))
        # A negative index would count from the end of the table; sent past the end instead, it
        # is refused by the Gather like any other row that does not exist.
        negative = self._node("Less", [depth, zero], "gates/negative", BOOL, [])
        row = self._node("Where", [negative, count, depth], "gates/row", INT64, [])
        settings_of_row = self._node(
            "Gather", [rows, row], "gates/settings", INT64, [len(settings[0])], axis=0
        )
        if not gates:
            self.lookups.append(settings_of_row)
        predicates = {}
        for index, gate in enumerate(gates):
            name = table.space.gates[gate.gate].name + (f".{gate.layer}" if gate.layer else "")
            position = self._constant(f"gates/index{index}", np.asarray(index, np.int64))
            setting = self._node(
                "Gather", [settings_of_row, position], f"gates/{name}/setting", INT64, [], axis=0
            )
            predicates[gate] = self._node(
                "Cast", [setting], f"gates/{name}/runs", BOOL, [], to=int(ir.DataType.BOOL)
            )
        return predicates

    def inline(self, stage: Stage, graph: ir.Graph) -> None:
        """Add an ungated piece to the main graph."""
        outputs = list(graph.outputs)
        nodes, initializers = self._take(stage, graph)
        self.nodes.extend(nodes)
        self.initializers.extend(initializers)
        self.flow.update(zip(stage.outputs, outputs, strict=True))

    def branch(
        self, stage: Stage, graphs: Mapping[str, ir.Graph], predicates: Sequence[ir.Value]
    ) -> None:
        """Add a gated stage as an If whose branches own their constants."""
        bodies = {}
        for variant, graph in graphs.items():
            outputs = list(graph.outputs)
            nodes, initializers = self._take(stage, graph)
            bodies[variant] = ir.Graph(
                [], outputs, nodes=nodes, initializers=initializers, name=f"{stage.name}.{variant}"
            )
        self.branches.extend(bodies.values())
        node = self._if(stage, bodies, predicates, ())
        self.nodes.append(node)
        self.flow.update(zip(stage.outputs, node.outputs, strict=True))

    def _if(
        self,
        stage: Stage,
        bodies: Mapping[str, ir.Graph],
        predicates: Sequence[ir.Value],
        chosen: tuple[bool, ...],
    ) -> ir.Node:
        """The If over the next predicate, when those before it are ``chosen``."""
        prefix = f"{stage.name}.{variant_name(chosen)}" if chosen else stage.name
        choices = {}
        for runs in (True, False):
            path = (*chosen, runs)
            variant = variant_name(path)
            if len(path) < len(predicates):
                inner = self._if(stage, bodies, predicates, path)
                name = f"{stage.name}.{variant}"
                choices[runs] = ir.Graph([], list(inner.outputs), nodes=[inner], name=name)
            else:
                choices[runs] = bodies.get(variant) or self._pass_through(stage, variant)
        node = ir.Node(
            "",
            "If",
            [predicates[len(chosen)]],
            [
                ir.AttrGraph("then_branch", choices[True]),
                ir.AttrGraph("else_branch", choices[False]),
            ],
            num_outputs=len(stage.outputs),
            name=f"{prefix}/If",
        )
        for value, tensor, source in zip(
            node.outputs, stage.outputs, choices[True].outputs, strict=True
        ):
            _name_like(value, f"{prefix}/{tensor}", source)
        return node

    def finish(
        self,
        name: str,
        *,
        raw: bool,
        detections: bool,
        metadata: Mapping[str, str],
        share: bool = False,
    ) -> ir.Model:
        """The model; with ``share``, equal constants of all branches are stored once."""
        raw_tensors = {
            public: self.flow[tensor].name for public, tensor in self.pieces.raw_outputs.items()
        }
        outputs = []
        for public, tensor in DETECTIONS.items() if detections else ():
            value = self.flow[tensor]
            value.name = public
            outputs.append(value)
        if raw or not detections:
            for public, tensor in self.pieces.raw_outputs.items():
                source = self.flow[tensor]
                outputs.append(
                    self._node("Identity", [source], f"raw_{public}", source.type, source.shape)
                )
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": OPSET},
            name=f"anydepth_{name}",
        )
        model = ir.Model(
            graph,
            ir_version=IR_VERSION,
            producer_name="anydepth-deploy",
            producer_version=__version__,
            metadata_props={**metadata, RAW_METADATA: json.dumps(raw_tensors)},
        )
        graph.outputs.extend(self.lookups)
        common.RemoveUnusedNodesPass()(model)
        del graph.outputs[len(outputs) :]
        share_constants(graph, self.branches if share else ())
        return model

    def _take(self, stage: Stage, graph: ir.Graph) -> tuple[list[ir.Node], list[ir.Value]]:
        """Connect a piece to the flow and take its nodes and constants out of it."""
        for value, tensor in zip(graph.inputs, stage.inputs, strict=True):
            ir.convenience.replace_all_uses_with(value, self.flow[tensor])
        nodes, initializers = list(graph), list(graph.initializers.values())
        graph.initializers.clear()
        graph.outputs.clear()
        graph.remove(nodes)
        return nodes, initializers

    def _pass_through(self, stage: Stage, variant: str) -> ir.Graph:
        name = f"{stage.name}.{variant}"
        nodes = [
            ir.Node("", "Identity", [self.flow[tensor]], name=f"{name}/{tensor}/Identity")
            for tensor in stage.outputs
        ]
        for node, tensor in zip(nodes, stage.outputs, strict=True):
            _name_like(node.outputs[0], f"{name}/{tensor}", self.flow[tensor])
        return ir.Graph([], [node.outputs[0] for node in nodes], nodes=nodes, name=name)

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        self.initializers.append(new_constant(name, array))
        return self.initializers[-1]

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        output: str,
        kind: ir.TypeProtocol | None,
        shape: ir.Shape | list[int] | None,
        **attributes: int,
    ) -> ir.Value:
        self.nodes.append(new_node(op_type, inputs, output, kind, shape, **attributes))
        return self.nodes[-1].outputs[0]


def _name_like(value: ir.Value, name: str, source: ir.Value) -> None:
    """Name ``value`` and give it the type and shape of ``source``."""
    value.name, value.type, value.shape = name, source.type, source.shape
