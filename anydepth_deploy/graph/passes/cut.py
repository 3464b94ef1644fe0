"""A finished gated graph in pieces: a chain of small graphs, of which each depth runs some.

The border of a piece is where a gated stage begins or ends: each leaf of a (nested) If is a piece,
and so is every run of nodes between two Ifs. Separate engines are built from the pieces, so each
owns its constants, and norms that were kept apart for sharing are folded.

Between the pieces lies the *flow*, tensors that a host keeps by name. A branch that only passes
tensors on gives no piece: the flow keeps what it has. For that, an output of an If is the same
tensor of the flow as what such a branch passes on, and pieces behind it overwrite it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from anydepth_deploy.depth import DepthSpace, Predicate, variant_name
from anydepth_deploy.errors import DepthError, ExportError
from anydepth_deploy.graph.passes.flatten import Leaf, leaves
from anydepth_deploy.graph.passes.heads import add_raw_outputs
from anydepth_deploy.graph.passes.resolve import GateTable, fold_finished, read_gates
from anydepth_deploy.manifest import PIECE_METADATA, RAW_METADATA, Condition, StagePiece

__all__ = ["CutPiece", "cut"]

PREPARES = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})
"""Operators that change how a tensor is written, not what it says."""

GATES, DEPTH = "gates/", "depth"


@dataclass(frozen=True)
class CutPiece:
    """One link of the chain as a graph of its own, its constants included."""

    spec: StagePiece
    model: ir.Model


@dataclass
class _Part:
    """What becomes a piece: ``nodes`` in order, and which of their ``outputs`` enter the flow."""

    position: int
    stage: str
    variant: str
    when: list[Condition]
    nodes: list[ir.Node]
    outputs: dict[ir.Value, ir.Value]
    """Value that the nodes compute -> value of the main graph that it is."""
    reads: dict[ir.Value, None] = field(default_factory=dict)


def cut(model: ir.Model, space: DepthSpace) -> list[CutPiece]:
    """The pieces of a gated graph in the order of the chain; ``space``: of the network it holds.

    ``model`` stays as it is. Inputs and outputs of the pieces keep the names, types and shapes
    that the tensors have in it. What prepares a tensor for its readers (a cast, a pair of
    QuantizeLinear and DequantizeLinear) becomes a part of each reader, so that a tensor crosses a
    border in the form it was computed in.

    The last ungated piece gives the raw outputs as ``raw_*``, also where ``model`` does not: which
    piece computed them last depends on the depth, so no other one could.

    Raises :class:`ExportError` when ``model`` is no gated graph of this project, when ``space``
    is not that of its depth table, or when a tensor would be overwritten before its last reader.
    """
    table = read_gates(model)
    predicates = _predicates(table, space)
    whole = model.clone()
    raw = add_raw_outputs(whole)
    chain = _Chain(whole.graph, table, predicates)
    parts = chain.parts()
    chain.check(parts)
    orders = {
        position: order for order, position in enumerate(sorted({part.position for part in parts}))
    }
    last = max((part.position for part in parts if not part.when), default=None)
    pieces = []
    for part in parts:
        found = _detach(part, whole)
        spec = StagePiece(
            order=orders[part.position],
            total=len(parts),
            stage=part.stage,
            variant=part.variant,
            when=part.when,
            reads={value.name or "": chain.tensor(outer) for outer, value in found.inputs.items()},
            writes={value.name or "": chain.tensor(outer) for value, outer in part.outputs.items()},
        )
        found.model.metadata_props[PIECE_METADATA] = spec.model_dump_json()
        if part.position == last and not part.when:
            found.model.metadata_props[RAW_METADATA] = json.dumps(raw)
        pieces.append(CutPiece(spec, found.model))
    return pieces


def _predicates(table: GateTable, space: DepthSpace) -> dict[str, Predicate]:
    """What the names of the graph's predicates mean in ``space``."""
    known = {}
    for index, gate in enumerate(space.gates):
        if gate.layers == 0:
            known[gate.name] = Predicate(index)
        for layer in range(1, gate.layers + 1):
            known[f"{gate.name}.{layer}"] = Predicate(index, layer)
    try:
        depths = [space.parse(text) for text in table.rows]
    except DepthError as error:
        raise ExportError(f"the gated graph is of another network: {error}") from None
    for name, column in table.columns.items():
        if name not in known or any(
            known[name].runs(depth) != table.runs[row, column] for row, depth in enumerate(depths)
        ):
            raise ExportError(
                f"the depth table of the graph does not set the gate '{name}' as its depths are "
                "written: expected a graph of the same network"
            )
    return {name: known[name] for name in table.columns}


class _Chain:
    """The main graph as a sequence of positions: runs of ungated nodes, and Ifs.

    ``made``: position at which a value of the flow is set. ``root``: the first of the values that
    are one tensor of the flow.
    """

    def __init__(
        self, graph: ir.Graph, table: GateTable, predicates: Mapping[str, Predicate]
    ) -> None:
        self.graph, self.table, self.predicates = graph, table, predicates
        self.made: dict[ir.Value, int] = dict.fromkeys(graph.inputs, -1)
        self.root: dict[ir.Value, ir.Value] = {}
        self.prepared: set[ir.Node] = set()

    def tensor(self, value: ir.Value) -> str:
        """The name of a tensor of the flow."""
        name = self._root(value).name
        assert name is not None
        return name

    def parts(self) -> list[_Part]:
        """All pieces to be, in order; values of the flow are known afterwards."""
        runs: dict[int, list[ir.Node]] = {}
        ifs: dict[int, ir.Node] = {}
        position = 0
        for node in self.graph:
            if node.op_type == "If":
                ifs[position + 1] = node
                position += 2
                self.made.update(dict.fromkeys(node.outputs, position - 1))
            elif (node.outputs[0].name or "").startswith(GATES):
                continue
            elif self._prepares(node, runs.get(position, [])):
                self.prepared.add(node)
            else:
                runs.setdefault(position, []).append(node)
                self.made.update(dict.fromkeys(node.outputs, position))
        parts = []
        for position in sorted({*runs, *ifs}):
            if position in runs:
                parts.append(self._run(position, runs[position]))
            else:
                parts.extend(self._gated(position, ifs[position]))
        for part in parts:
            part.reads = self._reads(part)
        return parts

    def check(self, parts: Sequence[_Part]) -> None:
        """Every tensor of the flow has one type, and is read before it is overwritten."""
        versions: dict[ir.Value, list[int]] = {}
        kinds: dict[ir.Value, tuple[object, str]] = {}
        for part in parts:
            for inner, outer in part.outputs.items():
                versions.setdefault(self._root(outer), []).append(part.position)
                for value in (inner, outer):
                    self._check_type(kinds, self._root(outer), value)
        for part in parts:
            for value in part.reads:
                root = self._root(value)
                self._check_type(kinds, root, value)
                made = self.made[value]
                if any(made < other < part.position for other in versions.get(root, [])):
                    raise ExportError(
                        f"'{value.name}' is read by '{part.stage}' after a stage between has "
                        "changed it: the graph cannot be cut into a chain"
                    )

    @staticmethod
    def _check_type(
        kinds: dict[ir.Value, tuple[object, str]], root: ir.Value, value: ir.Value
    ) -> None:
        kind = value.dtype, str(value.shape)
        if value.dtype is None or value.shape is None or kinds.setdefault(root, kind) != kind:
            raise ExportError(
                f"'{value.name}' is {value.dtype} {value.shape}, as a tensor that crosses pieces "
                f"it should be {kinds.get(root, ('known',))[0]}: export the graph again"
            )

    def _root(self, value: ir.Value) -> ir.Value:
        while value in self.root:
            value = self.root[value]
        return value

    def _prepares(self, node: ir.Node, run: list[ir.Node]) -> bool:
        """Whether ``node`` only prepares constants, or a tensor that is not of its own run."""
        if node.op_type not in PREPARES or node.outputs[0].is_graph_output():
            return False
        source = node.inputs[0]
        maker = None if source is None else source.producer()
        return maker is None or maker in self.prepared or maker not in run

    def _run(self, position: int, nodes: list[ir.Node]) -> _Part:
        """A run of ungated nodes; what others read of it enters the flow."""
        inside = set(nodes)
        crossing = [
            value
            for node in nodes
            for value in node.outputs
            if value.is_graph_output() or not inside.issuperset(self._readers(value))
        ]
        prefix = (nodes[0].name or nodes[0].op_type).split("/")[0]
        stage, _, variant = prefix.rpartition(".")
        if not stage:
            stage, variant = prefix, variant_name([])
        return _Part(position, stage, variant, [], nodes, {value: value for value in crossing})

    def _readers(self, value: ir.Value) -> Iterable[ir.Node]:
        """Nodes of all graphs that read ``value``, also through what prepares it."""
        for node in value.consumers():
            if node in self.prepared:
                yield from self._readers(node.outputs[0])
            else:
                yield node

    def _gated(self, position: int, node: ir.Node) -> list[_Part]:
        found = list(leaves(node))
        passed = [
            {
                index: source
                for index, value in enumerate(leaf.graph.outputs)
                if (source := self._passed(leaf.graph, value)) is not None
            }
            for leaf in found
        ]
        for index, output in enumerate(node.outputs):
            for sources in passed:
                if index in sources and output not in self.root:
                    self.root[output] = sources[index]
        parts = []
        for leaf, sources in zip(found, passed, strict=True):
            kept = {
                value: node.outputs[index]
                for index, value in enumerate(leaf.graph.outputs)
                if index not in sources or self.root[node.outputs[index]] is not sources[index]
            }
            passes = {value.producer() for value in leaf.graph.outputs if value not in kept}
            nodes = [child for child in leaf.graph if child not in passes]
            if kept:
                parts.append(self._leaf(position, node, leaf, nodes, kept))
        return parts

    def _leaf(
        self,
        position: int,
        node: ir.Node,
        leaf: Leaf,
        nodes: list[ir.Node],
        outputs: dict[ir.Value, ir.Value],
    ) -> _Part:
        when = []
        for value, runs in leaf.path:
            predicate = self.predicates[self.table.name(value)]
            when.append(Condition(gate=predicate.gate, layer=predicate.layer, runs=runs))
        stage = (node.name or "").split("/")[0]
        variant = variant_name([condition.runs for condition in when])
        return _Part(position, stage, variant, when, nodes, outputs)

    def _passed(self, branch: ir.Graph, value: ir.Value) -> ir.Value | None:
        """The tensor around ``branch`` that its output ``value`` passes on."""
        node = value.producer()
        if node is None or node.op_type != "Identity" or node.graph is not branch:
            return None
        source = node.inputs[0]
        return source if source in self.made else None

    def _reads(self, part: _Part) -> dict[ir.Value, None]:
        """Tensors of the flow that the nodes need, what prepares them included."""
        inside = set(part.nodes)
        found: dict[ir.Value, None] = {}
        ahead = [value for node in part.nodes for value in node.inputs if value is not None]
        for value in ahead:
            maker = value.producer()
            if maker in inside or value.is_initializer():
                continue
            if maker in self.prepared:
                ahead.extend(given for given in maker.inputs if given is not None)
            elif value in self.made and value.name != DEPTH:
                found[value] = None
            else:
                raise ExportError(
                    f"'{part.stage}' reads '{value.name}', which no stage before it computes: the "
                    "graph cannot be cut into a chain"
                )
        return found


@dataclass(frozen=True)
class _Detached:
    model: ir.Model
    inputs: dict[ir.Value, ir.Value]
    """Tensor of the flow -> the input it is read through."""


def _detach(part: _Part, whole: ir.Model) -> _Detached:
    """The graph of one part, taken out of ``whole``."""
    local: dict[ir.Value, ir.Value] = {}
    inputs: dict[ir.Value, ir.Value] = {}
    constants: dict[str, ir.Value] = {}
    preparing: list[ir.Node] = []
    inside = set(part.nodes)

    def adopt(value: ir.Value) -> ir.Value:
        """What stands for a value from outside."""
        if value in local:
            return local[value]
        if value.is_initializer():
            new = ir.val(value.name, type=value.type, shape=value.shape)
            new.const_value = value.const_value
            constants[value.name or ""] = new
        elif value in part.reads:
            new = ir.val(value.name, type=value.type, shape=value.shape)
            inputs[value] = new
        else:
            maker = value.producer()
            assert maker is not None
            given = [None if source is None else adopt(source) for source in maker.inputs]
            node = ir.Node("", maker.op_type, given, maker.attributes.values(), name=maker.name)
            new = node.outputs[0]
            new.name, new.type, new.shape = value.name, value.type, value.shape
            preparing.append(node)
        local[value] = new
        return new

    graph = part.nodes[0].graph
    assert isinstance(graph, ir.Graph)
    for output in [output for output in graph.outputs if output in part.outputs]:
        graph.outputs.remove(output)
    graph.remove(part.nodes)
    for node in part.nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.producer() not in inside:
                node.replace_input_with(index, adopt(value))
    found = ir.Model(
        ir.Graph(
            list(inputs.values()),
            list(part.outputs),
            nodes=[*preparing, *part.nodes],
            initializers=list(constants.values()),
            opset_imports=dict(whole.graph.opset_imports),
            name=f"anydepth_{part.stage}.{part.variant}",
        ),
        ir_version=whole.ir_version,
        producer_name=whole.producer_name,
        producer_version=whole.producer_version,
    )
    fold_finished(found)
    return _Detached(found, inputs)
