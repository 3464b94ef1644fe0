"""Half precision: what becomes FP16, what does not, and what it costs in accuracy.

By itself ONNX Runtime does not round to FP16 on x86 CPUs, so that it hides errors and overflows:
see :mod:`onnx_sessions`.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from onnx_graphs import assert_names_are_unique, graphs_with_types, value_types
from onnx_sessions import quiet_session, rounding_session, run
from trained_networks import FAMILIES, trained_pieces

from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import ExportError
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.graph.assemble import assemble_gated, assemble_static
from anydepth_deploy.graph.passes.fold import constant
from anydepth_deploy.graph.passes.half import HalfReport, to_half
from anydepth_deploy.graph.pieces import Pieces
from anydepth_deploy.manifest import RAW_METADATA, Weights
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.torch_runtime.session import TorchSession

LAYOUTS: tuple[Weights, ...] = ("shared", "folded")
FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
LARGEST = 65504.0
HEAVY = {"Conv", "MatMul", "Gemm"}
ALWAYS_FULL = {"LayerNormalization", "Softmax", "GridSample", "TopK", "NonMaxSuppression", "Log"}


@dataclass(frozen=True)
class Network:
    """A trained network and its pieces."""

    model: AnyDepthModel
    pieces: Pieces
    images: np.ndarray

    @property
    def rungs(self) -> tuple[Depth, ...]:
        return self.model.table.ladder


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    """The trained DETR with pieces for 96 x 192, the trained YOLO with pieces for 160 x 160."""
    return {
        family: Network(
            model,
            pieces,
            verification_batches(Preprocess.of(model.resize, pieces.size), seed=5)[1],
        )
        for family in FAMILIES
        for model, pieces in [trained_pieces(family)]
    }


@pytest.fixture(params=FAMILIES)
def network(request: pytest.FixtureRequest, networks: dict[str, Network]) -> Network:
    return networks[request.param]


def halved(model: ir.Model) -> tuple[onnx.ModelProto, HalfReport]:
    report = to_half(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert_names_are_unique(proto)
    return proto, report


# --- accuracy --------------------------------------------------------------------------------


def differences(
    network: Network, depth: Depth, found: dict[str, np.ndarray]
) -> tuple[dict[str, float], float]:
    """Largest differences from torch by quantity, and the gap of the choice of queries."""
    raw = {name.removeprefix("raw_"): array for name, array in found.items() if "raw_" in name}
    oracle = TorchSession(network.model)
    expected, _, gap = oracle.compare(network.images, depth, raw)
    mine = oracle.outputs.quantities(raw)
    return {
        name: float(np.abs(np.subtract(mine[name], expected[name])).max())
        for name in expected
        if expected[name].dtype == np.float32
    }, gap


def test_pieces_with_other_weights_compute_the_trained_network(network: Network) -> None:
    model = assemble_gated(network.pieces, network.model.table, raw=True)
    opened = quiet_session(model)
    for row, depth in enumerate(network.rungs):
        found = run(opened, images=network.images, depth=np.asarray(row))
        gaps, choice = differences(network, depth, found)
        assert max(gaps.values()) < 1e-3, (str(depth), gaps)
        assert choice < 1e-4


# Logits; boxes as parts of the image's side (DETR) and in pixels of the input (YOLO); scores.
LIMITS = {
    "anydepth-detr": {"logits": 0.04, "boxes": 2e-3},
    "anydepth-yolo": {"boxes": 1.2, "scores": 1e-2},
}


@pytest.mark.parametrize("weights", LAYOUTS)
def test_gated_graphs_equal_torch_at_every_rung(network: Network, weights: Weights) -> None:
    """Batch 3, rounded wherever the graph says, and as ONNX Runtime runs it."""
    model = assemble_gated(network.pieces, network.model.table, weights, raw=True)
    proto, _ = halved(model)
    for optimise in (False, True):
        opened = (quiet_session if optimise else rounding_session)(proto)
        for row, depth in enumerate(network.rungs):
            found = run(opened, images=network.images, depth=np.asarray(row))
            gaps, choice = differences(network, depth, found)
            limits = LIMITS[network.model.family]
            assert gaps.keys() >= limits.keys()
            assert all(gaps[name] < limit for name, limit in limits.items()), (str(depth), gaps)
            assert choice < 0.02


# --- overflow --------------------------------------------------------------------------------


def expose(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with the tensors of these names of its main graph as only outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def test_nothing_overflows(network: Network) -> None:
    """Every FP16 tensor of every rung as an output, and the FP32 graph's value of it."""
    for depth in network.rungs:
        full = ir.to_proto(assemble_static(network.pieces, depth))
        half, report = halved(assemble_static(network.pieces, depth))
        assert report.beyond == ()
        kinds = value_types(half)
        computed = [name for node in half.graph.node for name in node.output]
        names = [name for name in computed if kinds[name] == FLOAT16]
        assert len(names) > 100
        known = {name for node in full.graph.node for name in node.output}
        rounded = rounding_session(expose(half, names))
        exact = rounding_session(expose(full, [name for name in names if name in known]))
        for times in (1.0, 10.0, 0.1):
            images = network.images * np.float32(times)
            for name, array in run(rounded, images=images).items():
                assert array.dtype == np.float16
                assert np.isfinite(array).all(), (str(depth), times, name)
            peaks = {name: np.abs(a).max() for name, a in run(exact, images=images).items()}
            assert 0.5 < max(peaks.values()) < LARGEST, (str(depth), times)


def test_the_way_of_the_test_finds_an_overflow(networks: dict[str, Network]) -> None:
    network = networks["anydepth-yolo"]
    half, _ = halved(assemble_static(network.pieces, network.rungs[-1]))
    name = next(node.output[0] for node in half.graph.node if node.op_type == "Conv")
    found = run(rounding_session(expose(half, [name])), images=network.images * np.float32(6e4))
    assert found[name].dtype == np.float16
    assert not np.isfinite(found[name]).all()


def test_sessions_round_where_the_graph_does() -> None:
    """Else a session in FP32 throughout could pass the tests of accuracy above."""
    model = parse("""g (float[N, 1] x) => (float[N, 1] z) <float[1, 1] one = {1}> {
        [a] p = MatMul(x, one)
        [b] q = MatMul(p, one)
        [c] z = Sigmoid(q)
    }""")
    proto, _ = halved(model)
    x = np.asarray([[1.0003]], np.float32)
    rounded = 1 / (1 + np.exp(-float(np.float16(x[0, 0]))))
    exact = 1 / (1 + np.exp(-float(x[0, 0])))
    found = float(run(rounding_session(proto), x=x)["z"][0, 0])
    assert abs(found - rounded) < 1e-6 < abs(found - exact)
    hidden = float(run(quiet_session(proto), x=x)["z"][0, 0])
    assert abs(hidden - exact) < 1e-6  # what ONNX Runtime itself does on this processor


def test_unfolded_convolutions_stay_within_range(network: Network) -> None:
    """In the shared layout a convolution's output is FP16 before its norm: by the norms' own
    statistics, ten standard deviations fit many times over."""
    norms = 0
    for piece in network.pieces.pieces:
        for node in piece.graph:
            if node.op_type == "BatchNormalization":
                mean, variance = (constant(value) for value in node.inputs[3:5])
                assert mean is not None
                assert variance is not None
                assert np.max(np.abs(mean) + 10 * np.sqrt(variance)) < LARGEST / 16
                norms += 1
    assert norms > 50


# --- structure -------------------------------------------------------------------------------


def every_node(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Nodes of all graphs in the order of execution, with the graph's name."""

    def visit(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.NodeProto]]:
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from visit(attribute.g)
            yield graph.name, node

    return visit(proto.graph)


@pytest.fixture(params=[*LAYOUTS, "static"])
def pair(
    request: pytest.FixtureRequest, network: Network
) -> tuple[onnx.ModelProto, onnx.ModelProto, HalfReport]:
    """A model before and after the pass."""

    def make() -> ir.Model:
        if request.param == "static":
            return assemble_static(network.pieces, network.rungs[1], raw=True)
        return assemble_gated(network.pieces, network.model.table, request.param, raw=True)

    return ir.to_proto(make()), *halved(make())


def test_no_heavy_operator_is_left_behind(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, HalfReport],
) -> None:
    full, half, report = pair
    kinds = value_types(half)
    expected = collections.Counter(
        (where, node.op_type) for where, node in every_node(full) if node.op_type in HEAVY
    )
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    kept = set()
    for where, node in every_node(half):
        touched = {kinds[name] for name in (*node.input, *node.output) if name}
        if node.op_type in HEAVY:
            assert FLOAT not in touched, node.name
            found[where, node.op_type] += 1
        if node.op_type in ALWAYS_FULL:
            assert FLOAT16 not in touched, node.name
            kept.add(node.op_type)
    assert found == expected
    assert {"Softmax", "TopK"} <= kept
    assert set(report.kept) >= {n.name for _, n in every_node(half) if n.op_type in ALWAYS_FULL}
    assert list(report.kept) == [n.name for _, n in every_node(half) if n.name in set(report.kept)]


def test_activations_are_half_and_other_sigmoids_are_not(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, HalfReport],
) -> None:
    _, half, _ = pair
    kinds = value_types(half)
    nodes = [node for _, node in every_node(half)]
    counts: collections.Counter[bool] = collections.Counter()
    for node in nodes:
        if node.op_type == "Sigmoid":
            readers = [other for other in nodes if node.output[0] in other.input]
            silu = [r.op_type for r in readers] == ["Mul"] and node.input[0] in readers[0].input
            assert kinds[node.output[0]] == (FLOAT16 if silu else FLOAT), node.name
            counts[silu] += 1
    assert counts[True] > 5
    assert counts[False] >= 1


def test_no_cast_undoes_another(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, HalfReport],
) -> None:
    """Nor do two in one graph make the same; and moving values makes no difference."""
    full, half, _ = pair
    before = {node.name for _, node in every_node(full) if node.op_type == "Cast"}
    nodes = [node for _, node in every_node(half)]
    makers = {name: node for node in nodes for name in node.output}
    casts = [n for n in nodes if n.op_type == "Cast" and n.name not in before]
    assert casts
    moves = {"Identity", "Reshape", "Transpose", "Unsqueeze", "Slice", "GatherElements"}
    for cast in casts:
        source = makers.get(cast.input[0])
        while source is not None and source.op_type in moves:
            source = makers.get(source.input[0])
        undone = source is not None and source.op_type == "Cast" and source.name not in before
        assert not undone, cast.name
    for graph, _ in graphs_with_types(half.graph):
        made = [
            (n.input[0], n.attribute[0].i)
            for n in graph.node
            if n.op_type == "Cast" and n.name not in before
        ]
        assert len(made) == len(set(made)), graph.name
    assert len(casts) < 0.35 * len(nodes)


def test_no_coordinate_passes_through_half(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, HalfReport],
) -> None:
    """From grids and boxes back: nothing is FP16 before a product or a convolution."""
    _, half, _ = pair
    kinds = value_types(half)
    makers: dict[str, list[tuple[onnx.NodeProto | None, list[str]]]] = {}
    for _, node in every_node(half):
        choices = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        for index, name in enumerate(node.output):
            if choices:
                makers[name] = [(None, [branch.output[index].name]) for branch in choices]
            else:
                makers[name] = [(node, list(node.input))]
    starts = [n.input[1] for _, n in every_node(half) if n.op_type == "GridSample"]
    starts += ["boxes", "scores"]
    seen: set[str] = set()
    casts = set()
    while starts:
        name = starts.pop()
        if name in seen or not name or kinds[name] not in (FLOAT, FLOAT16):
            continue
        seen.add(name)
        assert kinds[name] == FLOAT, name
        for maker, inputs in makers.get(name, []):
            if maker is not None and maker.op_type == "Cast" and kinds[maker.input[0]] == FLOAT16:
                casts.add(maker.input[0])
                continue
            if maker is None or maker.op_type not in ("LayerNormalization", "GridSample"):
                starts.extend(inputs)
    assert casts
    moves = {"Reshape", "Transpose", "Concat", "Identity"}
    while casts:
        ((maker, inputs),) = makers[casts.pop()]
        assert maker is not None
        if maker.op_type in moves:
            casts.update(name for name in inputs if name in makers)
        else:
            assert maker.op_type in HEAVY, maker.name


@pytest.mark.parametrize("weights", LAYOUTS)
def test_borders_of_ifs(network: Network, weights: Weights) -> None:
    """Boxes and logits cross in FP32, maps and the decoder's stream in FP16, out of each branch."""
    half, _ = halved(assemble_gated(network.pieces, network.model.table, weights))
    kinds, found = value_types(half), collections.Counter[tuple[str, int]]()
    for _, node in every_node(half):
        for index, name in enumerate(node.output) if node.op_type == "If" else ():
            exact = name.rpartition("/")[2] in ("boxes", "logits")
            crossing = [name, *(a.g.output[index].name for a in node.attribute)]
            for value in crossing:
                assert kinds[value] == (FLOAT if exact else FLOAT16), value
            found[node.op_type, kinds[name]] += 1
    assert found["If", FLOAT16] >= 7
    assert (found["If", FLOAT] > 0) == (network.model.family == "anydepth-detr")


def test_inputs_and_outputs_keep_types_and_names(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, HalfReport],
) -> None:
    full, half, _ = pair
    assert list(half.graph.input) == list(full.graph.input)
    assert list(half.graph.output) == list(full.graph.output)
    assert half.opset_import == full.opset_import
    assert half.ir_version == full.ir_version
    kinds = value_types(half)
    (raw,) = (p.value for p in half.metadata_props if p.key == RAW_METADATA)
    for public, tensor in json.loads(raw).items():
        wanted = onnx.TensorProto.INT64 if public == "queries" else FLOAT
        assert kinds[tensor] == wanted, tensor
    names = {name for _, node in every_node(full) for name in node.output}
    assert names <= {name for _, node in every_node(half) for name in node.output}
    nodes = {node.name for _, node in every_node(full)}
    assert nodes <= {node.name for _, node in every_node(half)}
    inferred = value_types(half)
    for _, seen in graphs_with_types(half.graph):  # what the file says of its values is true
        assert {k: v for k, v in seen.items() if v} == {
            k: inferred[k] for k, v in seen.items() if v
        }


def test_files_are_half_as_large(network: Network) -> None:
    sizes = []
    for change in (False, True):
        model = assemble_gated(network.pieces, network.model.table, "shared")
        if change:
            to_half(model)
        sizes.append(len(ir.to_proto(model).SerializeToString()))
    assert sizes[1] < 0.56 * sizes[0]


# --- small graphs ----------------------------------------------------------------------------


def parse(text: str, *, opset: int = 18) -> ir.Model:
    header = f'<ir_version: 8, opset_import: ["" : {opset}]> '
    return ir.from_proto(onnx.parser.parse_model(header + text))


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for graph, _ in graphs_with_types(proto.graph)
        for tensor in graph.initializer
    }


def by_name(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for _, node in every_node(proto)}


def test_what_reads_a_constant_that_does_not_fit_is_full() -> None:
    """Infinities are none of those: anchors outside the picture are +inf."""
    model = parse("""g (float[N, 2] x) => (float[N, 2] y)
        <float[2, 2] w = {1e6, 0, -7e4, 2}, float[2] b = {1e6, 0.1}> {
            [product] p = MatMul(x, w)
            [sum] s = Add(p, b)
            [gate] y = Sigmoid(s)
        }""")
    infinite = np.asarray([np.inf, -np.inf], np.float32)
    model.graph.initializers["b"].const_value = ir.tensor(infinite, name="b")
    proto, report = halved(model)
    assert report == HalfReport(kept=("product", "sum", "gate"), beyond=("product", "sum"))
    found = constants(proto)
    assert found["w"].dtype == np.float32
    assert found["w"].tolist() == [[1e6, 0], [-7e4, 2]]
    assert found["b"].dtype == np.float32
    assert found["b"].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(
    ("factor", "full"),
    [(500, False), (2000, True), (65510, True), (2.0**-13, False), (1e-6, True), (0, False)],
)
def test_where_factors_begin_not_to_fit(factor: float, full: bool) -> None:
    """2000 fits, but what it makes of ordinary numbers soon would not; nothing always fits."""
    model = parse("""g (float[N, 2] x) => (float[N, 2] z)
        <float[2, 2] w = {1, 0.3, 0.7, -1}, float[2, 2] v = {1, 2, 3, 4}> {
            [product] p = MatMul(x, w)
            [next] q = MatMul(p, v)
            [gate] z = Sigmoid(q)
        }""")
    array = np.asarray([[1, 0.3], [0.7, -1]]) * factor
    model.graph.initializers["w"].const_value = ir.tensor(array.astype(np.float32), name="w")
    proto, report = halved(model)
    assert ("product" in report.beyond) == full
    assert (constants(proto)["w"].dtype == np.float32) == full


def test_what_is_added_may_vanish_and_bounds_may_be_beyond() -> None:
    """Neither changes a result by more than FP16 resolves."""
    model = parse("""g (float[N, 2] x) => (float[N, 2] z)
        <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1e-9, -2e-9},
         float low = {-3e38}, float high = {3e38}> {
            [product] p = MatMul(x, w)
            [sum] s = Add(p, b)
            [clip] c = Clip(s, low, high)
            [least] l = Max(c, low)
            [most] m = Min(l, high)
            [again] z = MatMul(m, w)
        }""")
    proto, report = halved(model)
    assert report == HalfReport((), ())
    x = np.asarray([[0.5, 0.25], [-1, 2]], np.float32)
    w = np.asarray([[1, 2], [3, 4]])
    assert run(rounding_session(proto), x=x)["z"] == pytest.approx(x @ w @ w, rel=1e-3)


def test_what_scales_make_large_stays_full_until_it_is_small_again() -> None:
    """A norm's scale, which is FP32 anyway, and dequantised numbers, whose own scale would fit."""
    model = parse("""g (float[N, 2] x) => (float[N, 2] z)
        <float[2] scale = {1e6, 2e6}, float[2] bias = {0.5, 1}, float[2, 2] w = {1, 2, 3, 4},
         float small = {1e-6}, float s = {1000}, int8 zero = {0}> {
            [norm] n = LayerNormalization(x, scale, bias)
            [relu] r = Relu(n)
            [product] p = MatMul(r, w)
            [less] l = Mul(p, small)
            [ordinary] o = MatMul(l, w)
            [q] oq = QuantizeLinear(o, s, zero)
            [dq] od = DequantizeLinear(oq, s, zero)
            [move] m = Identity(od)
            [last] z = MatMul(m, w)
        }""")
    _, report = halved(model)
    assert report.beyond == ("relu", "product", "less", "dq", "last")
    assert set(report.kept) == {*report.beyond, "norm"}


# Networks of which a factor moves from one layer into another: the same network.


@dataclass(frozen=True)
class Layers:
    """Convolutions with activations that keep factors, [I, O, kernel] each."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]
    between: list[str]

    def scaled(self, layer: int, factors: np.ndarray) -> Layers:
        """Channels of a layer's result times these, which the next layer divides by."""
        weights, biases = list(self.weights), list(self.biases)
        weights[layer] = weights[layer] * factors.reshape(-1, 1, 1, 1)
        biases[layer] = biases[layer] * factors
        weights[layer + 1] = weights[layer + 1] / factors.reshape(1, -1, 1, 1)
        return Layers(weights, biases, self.between)

    def model(self) -> ir.Model:
        nodes, constants, name = [], [], "x"
        make = onnx.helper.make_node
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            pads, inputs = [weight.shape[-1] // 2] * 4, [name, f"w{index}", f"b{index}"]
            nodes.append(make("Conv", inputs, [f"c{index}"], name=f"conv{index}", pads=pads))
            for array, letter in ((weight, "w"), (bias, "b")):
                tensor = array.astype(np.float32)
                constants.append(onnx.numpy_helper.from_array(tensor, f"{letter}{index}"))
            name, kind = f"a{index}", self.between[index]
            pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
            extra: dict[str, Any] = pool if kind == "MaxPool" else {}
            nodes.append(make(kind, [f"c{index}"], [name], name=f"between{index}", **extra))
        nodes.append(make("GlobalMaxPool", [name], ["y"], name="end"))
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes,
            "g",
            [value("x", FLOAT, ["N", self.weights[0].shape[1], 8, 8])],
            [value("y", FLOAT, ["N", len(self.weights[-1]), 1, 1])],
            constants,
        )
        opsets = [onnx.helper.make_opsetid("", 18)]
        inferred = onnx.shape_inference.infer_shapes(
            onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
        )
        return ir.from_proto(inferred)


def random_layers(rng: np.random.Generator) -> Layers:
    count, channels = int(rng.integers(3, 6)), rng.integers(2, 7, 6)
    weights, biases = [], []
    for index in range(count):
        kernel = int(rng.choice([1, 3]))
        shape = (int(channels[index + 1]), int(channels[index]), kernel, kernel)
        weights.append(rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape))
        biases.append(rng.normal(0, 0.3, shape[0]))
    pools = rng.permutation(count - 1)[:2]
    kinds = ["MaxPool" if index in pools else str(rng.choice(["Relu", "LeakyRelu", "Identity"]))
             for index in range(count - 1)]  # fmt: skip
    kinds.append("Identity")
    return Layers(weights, biases, kinds)


def deviation(model: ir.Model, x: np.ndarray, expected: np.ndarray) -> tuple[float, HalfReport]:
    """Of the FP16 graph, rounded wherever it says so, as a share of the largest result."""
    proto, report = halved(model)
    found = run(rounding_session(proto), x=x)["y"]
    return float(np.abs(found - expected).max() / np.abs(expected).max()), report


@given(seed=st.integers(0, 10**6), exponent=st.integers(19, 40), data=st.data())
@examples(60)
def test_the_same_network_with_factors_moved_is_as_accurate(
    seed: int, exponent: int, data: st.DataObject
) -> None:
    """By powers of two, which change no result in FP32: of all channels or of some, up or down;
    against the network as it was, in FP32."""
    rng = np.random.default_rng(seed)
    layers = random_layers(rng)
    x = rng.normal(0, 1, (2, layers.weights[0].shape[1], 8, 8)).astype(np.float32)
    expected = run(quiet_session(layers.model()), x=x)["y"]
    usual, report = deviation(layers.model(), x, expected)
    assert report.beyond == ()
    assert usual < 0.01
    layer = data.draw(st.integers(0, len(layers.weights) - 2))
    channels = len(layers.weights[layer])
    chosen = data.draw(st.lists(st.booleans(), min_size=channels, max_size=channels))
    up = data.draw(st.booleans())
    if not any(chosen):
        chosen = [True] * channels
    factors = np.where(chosen, 2.0 ** (exponent if up else -exponent), 1.0)
    moved = layers.scaled(layer, factors).model()
    assert np.allclose(run(quiet_session(moved), x=x)["y"], expected, rtol=1e-4, atol=1e-5)
    found, report = deviation(layers.scaled(layer, factors).model(), x, expected)
    assert found < 3 * usual + 2e-3
    assert {f"conv{layer}", f"conv{layer + 1}"} <= set(report.beyond)
    others = {f"conv{index}" for index in range(len(layers.weights))} - {
        f"conv{layer}", f"conv{layer + 1}"
    }  # fmt: skip
    assert others.isdisjoint(report.beyond)


@pytest.mark.parametrize("middle", [2.0**-10, 1.0, 2.0**10])
def test_what_lies_between_three_layers_is_full(middle: float) -> None:
    """The factor goes in two steps: the layer between has constants that fit."""
    layers = random_layers(np.random.default_rng(4))
    x = np.random.default_rng(5).normal(0, 1, (2, layers.weights[0].shape[1], 8, 8))
    x = x.astype(np.float32)
    expected = run(quiet_session(layers.model()), x=x)["y"]
    one, other = (np.full(len(layers.weights[index]), 2.0**20) for index in (0, 1))
    moved = layers.scaled(0, one).scaled(1, other * middle)
    found, report = deviation(moved.model(), x, expected)
    assert found < 5e-3
    assert {"conv0", "conv1", "conv2"} <= set(report.beyond)


def rescaled(pieces: Pieces, factor: float) -> Pieces:
    """The first norm between a convolution and a ReLU of each `layer1` times ``factor``, the
    convolution behind it divided by that: the same network."""
    found = []
    for piece in pieces.pieces:
        graph = piece.graph.clone()
        if piece.stage.name == "layer1":
            norm, conv = next(
                (norm, conv)
                for norm in graph
                if norm.op_type == "BatchNormalization"
                for relu in norm.outputs[0].consumers()
                if relu.op_type == "Relu"
                for conv in relu.outputs[0].consumers()
                if conv.op_type == "Conv" and len(list(relu.outputs[0].uses())) == 1
            )
            for value, by in ((norm.inputs[1], factor), (norm.inputs[2], factor),
                              (conv.inputs[1], 1 / factor)):  # fmt: skip
                assert value is not None
                assert len(list(value.uses())) == 1
                array = constant(value)
                assert array is not None
                value.const_value = ir.tensor((array * by).astype(np.float32), name=value.name)
        found.append(dataclasses.replace(piece, graph=graph))
    return dataclasses.replace(pieces, pieces=tuple(found))


@pytest.mark.parametrize("factor", [2e5, 2e-6])
@pytest.mark.parametrize("layout", [*LAYOUTS, "static"])
def test_a_trained_network_with_a_layer_beyond_half_is_as_accurate(
    networks: dict[str, Network], factor: float, layout: str
) -> None:
    network = networks["anydepth-detr"]
    pieces = rescaled(network.pieces, factor)
    for row in (0, len(network.rungs) - 1):
        depth = network.rungs[row]
        if layout == "static":
            model = assemble_static(pieces, depth, raw=True)
        else:
            model = assemble_gated(pieces, network.model.table, layout, raw=True)  # type: ignore[arg-type]
        proto, report = halved(model)
        convolutions = [n.name for _, n in every_node(proto) if n.op_type == "Conv"]
        full = [name for name in convolutions if name in report.beyond]
        assert 0 < len(full) <= 2 if layout == "static" else len(full) <= 4
        feeds = {"images": network.images}
        if layout != "static":
            feeds["depth"] = np.asarray(row)
        gaps, choice = differences(network, depth, run(rounding_session(proto), **feeds))
        limits = LIMITS[network.model.family]
        assert all(gaps[name] < limit for name, limit in limits.items()), (str(depth), gaps)
        assert choice < 0.02


def test_infinities_stay_infinite_in_half() -> None:
    model = parse("""g (float[N, 2] x) => (float[N, 2] y)
        <float[2, 2] w = {1, 0, 0, 1}, float[2] b = {0, 0}> {
            [one] p = MatMul(x, w)
            [mask] m = Add(p, b)
            [two] y = MatMul(m, w)
        }""")
    model.graph.initializers["b"].const_value = ir.tensor(
        np.asarray([0, -np.inf], np.float32), name="b"
    )
    proto, report = halved(model)
    assert report == HalfReport((), ())
    assert constants(proto)["b"].dtype == np.float16
    assert constants(proto)["b"].tolist() == [0, -np.inf]


def test_a_constant_of_both_precisions_and_an_output_of_a_product() -> None:
    """`y` is what others know the product by: it must be float32 and keep its name."""
    model = parse("""g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z)
        <float[2, 2] w = {1, 2, 3, 4}, float[2] c = {0.1, 0.2}> {
            [product] y = MatMul(x, w)
            [half] h = Mul(y, c)
            [again] a = MatMul(h, w)
            [gate] s = Sigmoid(a)
            [full] z = Mul(s, c)
        }""")
    proto, report = halved(model)
    assert report.kept == ("gate", "full")
    found, nodes, kinds = constants(proto), by_name(proto), value_types(proto)
    assert found[nodes["half"].input[1]].dtype == np.float16
    assert found[nodes["full"].input[1]].dtype == np.float32
    assert nodes["full"].input[1] == "c"
    assert found["w"].dtype == np.float16
    assert kinds["y"] == kinds["z"] == FLOAT
    assert kinds[nodes["half"].input[0]] == FLOAT16
    assert nodes["half"].input[0] == nodes["product"].output[0] != "y"
    images = np.asarray([[0.5, 0.25], [-1, 2]], np.float32)
    out = run(rounding_session(proto), x=images)
    product = (images @ np.asarray([[1, 2], [3, 4]])).astype(np.float32)
    assert np.array_equal(out["y"], product)
    again = (product * [0.1, 0.2]) @ np.asarray([[1, 2], [3, 4]])
    assert np.abs(out["z"] - [0.1, 0.2] / (1 + np.exp(-again))).max() < 2e-4


def test_residual_streams_stay_half() -> None:
    """A sum that a sigmoid and a product read is FP16, one that only a sigmoid reads is FP32."""
    model = parse("""g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z)
        <float[2, 2] w = {1, 2, 3, 4}> {
            [p] p = MatMul(x, w)
            [q] q = MatMul(p, w)
            [stream] s = Add(p, q)
            [gate] y = Sigmoid(s)
            [r] r = MatMul(s, w)
            [last] t = Add(r, s)
            [end] z = Sigmoid(t)
        }""")
    proto, report = halved(model)
    assert report.kept == ("gate", "last", "end")
    casts = [n.input[0] for _, n in every_node(proto) if n.op_type == "Cast"]
    assert sorted(casts) == ["r", "s", "x"]


def test_rows_of_a_table_that_a_box_is_made_of_stay_exact() -> None:
    """Anchors of the tokens that were chosen: 0.1 of FP16 is 0.09998."""
    model = parse("""g (float[N, 2] x, int64[N] i) => (float[N, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, float[3, 2] table = {0.1, 0.2, 0.3, 0.7, 1.1, 1.3}> {
            [product] p = MatMul(x, w)
            [rows] r = Gather(table, i)
            [sum] s = Add(p, r)
            [box] y = Sigmoid(s)
        }""")
    proto, report = halved(model)
    assert report.kept == ("rows", "sum", "box")
    assert constants(proto)["table"].dtype == np.float32
    x, chosen = np.asarray([[1, 2], [0, 1]], np.float32) / 4, np.asarray([2, 0])
    table = np.asarray([[0.1, 0.2], [0.3, 0.7], [1.1, 1.3]])
    expected = 1 / (1 + np.exp(-(x @ np.asarray([[1, 2], [3, 4]]) + table[chosen])))
    found = run(rounding_session(proto), x=x, i=chosen)["y"]
    assert np.abs(found - expected).max() < 1e-7


NORM = """g (float[N, 2, 1, 1] x) => (float[N, 2, 1, 1] y)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] gamma = {2, -300}, float[2] beta = {0.5, 1},
     float[2] mean = {0.25, 70000}, float[2] var = {1e-9, 1e10}> {
        [conv] c = Conv(x, w)
        [norm] y = BatchNormalization <epsilon = 0.001> (c, gamma, beta, mean, var)
    }"""


def test_norms_are_well_ranged_and_exact() -> None:
    """Variance 1e10 would be infinite in FP16, 1e-9 zero; what they make is an ordinary number."""
    proto, report = halved(parse(NORM))
    assert report == HalfReport((), ())
    norm, found = by_name(proto)["norm"], constants(proto)
    assert norm.op_type == "BatchNormalization"
    (epsilon,) = (a.f for a in norm.attribute if a.name == "epsilon")
    assert epsilon == 0
    scale, bias, mean, variance = (found[name] for name in norm.input[1:])
    assert mean.tolist() == [0, 0]
    assert variance.tolist() == [1, 1]
    factors = [2 / np.sqrt(1e-9 + 0.001), -300 / np.sqrt(1e10 + 0.001)]
    offsets = [0.5 - 0.25 * factors[0], 1 - 70000 * factors[1]]
    assert np.allclose(scale.astype(float), factors, rtol=2**-11, atol=0)
    assert np.allclose(bias.astype(float), offsets, rtol=2**-11, atol=0)
    assert {"gamma", "beta", "mean", "var"}.isdisjoint(found)
    x = np.asarray([0.5, 100], np.float32).reshape(1, 2, 1, 1)
    for optimise in (False, True):
        y = run((quiet_session if optimise else rounding_session)(proto), x=x)["y"].reshape(2)
        expected = [200.5 * factors[0] + offsets[0], 401.5 * factors[1] + offsets[1]]
        assert np.allclose(y, expected, rtol=2e-3)


def test_loops_are_refused() -> None:
    model = parse("""g (float[2] x, int64 n, bool c) => (float[2] y) {
        [loop] y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] v) => (bool l, float[2] w) {
            l = Identity(k)
            w = Relu(v)
        }>
    }""")
    with pytest.raises(ExportError, match=r"'loop' \(Loop\).*control flow is If"):
        to_half(model)


# --- quantised graphs ------------------------------------------------------------------------


def quantised(scale: float, weight_scale: float) -> ir.Model:
    """Q/DQ around a product in the main graph, and around another in a branch."""
    return parse(f"""g (float[N, 2] x, bool c) => (float[N, 2] y)
        <float s = {{{scale}}}, int8 zero = {{0}}, int8[2, 2] w = {{100, -50, 25, 127}},
         float ws = {{{weight_scale}}}, float[2] b = {{0.5, -0.25}}> {{
            [q] xq = QuantizeLinear(x, s, zero)
            [dq] xd = DequantizeLinear(xq, s, zero)
            [wdq] wd = DequantizeLinear(w, ws, zero)
            [product] p = MatMul(xd, wd)
            [sum] a = Add(p, b)
            [relu] r = Relu(a)
            [if] o = If (c) <
                then_branch = yes () => (float[N, 2] t) <float s2 = {{{scale}}}> {{
                    [q2] rq = QuantizeLinear(r, s2, zero)
                    [dq2] rd = DequantizeLinear(rq, s2, zero)
                    [product2] t = MatMul(rd, wd)
                }},
                else_branch = no () => (float[N, 2] e) {{ [pass] e = Identity(r) }}
            >
            [last] l = MatMul(o, wd)
            [norm] y = Softmax(l)
        }}""")


def quantised_oracle(x: np.ndarray, scale: float, weight_scale: float, taken: bool) -> np.ndarray:
    def round_trip(values: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(values / scale), -128, 127) * scale

    w = np.asarray([[100, -50], [25, 127]]) * weight_scale
    r = np.maximum(round_trip(x.astype(np.float64)) @ w + [0.5, -0.25], 0)
    found = (round_trip(r) @ w if taken else r) @ w
    powers = np.exp(found - found.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@pytest.mark.parametrize(
    ("scale", "weight_scale", "full"),
    [
        (0.0625, 0.0078125, ()),
        (2.0**-15, 0.0078125, ("q", "dq", "q2", "dq2")),
        (0.0625, 2.0**-15, ("wdq",)),
    ],
)
def test_quantised_graphs(scale: float, weight_scale: float, full: tuple[str, ...]) -> None:
    proto, report = halved(quantised(scale, weight_scale))
    assert report.kept == (*full, "norm")
    assert proto.opset_import[0].version == 19
    assert proto.ir_version == 9
    nodes, kinds = by_name(proto), value_types(proto)
    for name in ("q", "dq", "wdq", "q2", "dq2"):
        wanted = FLOAT if name in full else FLOAT16
        node = nodes[name]
        assert kinds[node.input[1]] == wanted, name
        assert kinds[node.input[0] if name[0] == "q" else node.output[0]] == wanted, name
    for name in ("product", "sum", "relu", "product2", "last", "if", "pass"):
        assert kinds[nodes[name].output[0]] == FLOAT16, name
    assert constants(proto)["b"].dtype == np.float16
    if not full:
        casts = [n.input[0] for _, n in every_node(proto) if n.op_type == "Cast"]
        assert sorted(casts) == ["l", "x"]
    # Half steps, so that rounding to FP16 cannot move a value to the next integer.
    x = (np.asarray([[3, -5], [17, 80], [0, 1]]) * scale).astype(np.float32)
    for taken in (False, True):
        found = run(rounding_session(proto), x=x, c=np.asarray(taken))["y"]
        assert np.abs(found - quantised_oracle(x, scale, weight_scale, taken)).max() < 3e-3
