"""FP32 again: the numbers of an FP16 graph, and the names of what was FP32 in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from conftest import random_images
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import assert_names_are_unique, graphs_of
from onnx_sessions import quiet_session, run_with_known
from trained_networks import FAMILIES, lowered_bundle

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.heads import add_raw_outputs
from anydepth_deploy.graph.passes.opset import set_opset
from anydepth_deploy.graph.passes.widen import widen
from anydepth_deploy.manifest import RAW_METADATA, Artifact
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.runtimes.onnxruntime.rounding import KEEP_ROUNDING, round_to_half

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def session(proto: onnx.ModelProto, *disabled: str, optimise: bool = True) -> ort.InferenceSession:
    return quiet_session(proto, optimise=optimise, without=["WeightBiasQuantization", *disabled])


def widened(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The graph in FP32, checked."""
    model = ir.from_proto(proto)
    names = widen(model)
    found = ir.to_proto(model)
    onnx.checker.check_model(found, full_check=True)
    assert_names_are_unique(found)
    types = kinds(found)
    assert set(types.values()).isdisjoint({FLOAT16})
    for graph in graphs_of(found.graph):
        for node in graph.node:
            if node.op_type == "Cast":
                assert node.attribute[0].i != FLOAT16
                assert types[node.input[0]] != types[node.output[0]]
    return found, names


def kinds(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types by name; constants of nodes under the names of those."""
    found = {}
    for graph in graphs_of(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            found[value.name] = value.type.tensor_type.elem_type
        found.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    found[f"{node.name}:{attribute.name}"] = attribute.t.data_type
    return found


def by_hand(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Every 16 turned into 32 where it stands, and every cast left where it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)

    def tensor(old: onnx.TensorProto) -> None:
        if old.data_type == FLOAT16:
            array = numpy_helper.to_array(old).astype(np.float32)
            old.CopyFrom(numpy_helper.from_array(array, old.name))

    for graph in graphs_of(copy.graph):
        for item in graph.initializer:
            tensor(item)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == FLOAT16:
                value.type.tensor_type.elem_type = FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    tensor(attribute.t)
                if node.op_type == "Cast" and attribute.i == FLOAT16:
                    attribute.i = FLOAT
    return copy


# --- small graphs ----------------------------------------------------------------------------


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    inner: Mapping[str, int] | None = None,
    constants: dict[str, np.ndarray] | None = None,
    raw: dict[str, str] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info(name, kind, [2]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, [2]) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
        value_info=[
            helper.make_tensor_value_info(name, kind, [2]) for name, kind in (inner or {}).items()
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(proto, {RAW_METADATA: json.dumps(raw or {})})
    return proto


def cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}/Cast", to=kind)


def branch(
    name: str,
    nodes: list[onnx.NodeProto],
    output: str,
    inner: dict[str, int] | None = None,
) -> onnx.GraphProto:
    """One that gives a FP16 value; `inner`: the types of the others in it."""

    def info(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [2])

    others = [info(*item) for item in (inner or {}).items()]
    return helper.make_graph(nodes, name, [], [info(output, FLOAT16)], value_info=others)


def choose(name: str, then: onnx.GraphProto, otherwise: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node(
        "If", ["gate"], [f"{name}/out"], name, then_branch=then, else_branch=otherwise
    )


X = np.asarray([1.25, -3.0], np.float32)


def test_casts_go_and_names_stay() -> None:
    """A pair of casts, a constant in half, and a raw tensor whose name a cast had."""
    proto = model_of(
        [
            cast("x", "x/fp16", FLOAT16),
            helper.make_node("Mul", ["x/fp16", "c"], ["logits/fp16"], "mul"),
            cast("logits/fp16", "logits", FLOAT),
            helper.make_node("Sigmoid", ["logits"], ["scores"], "sigmoid"),
            helper.make_node("Neg", ["logits/fp16"], ["neg"], "neg"),
            cast("neg", "neg/fp32", FLOAT),
            helper.make_node("Add", ["neg/fp32", "scores"], ["sum"], "add"),
            cast("sum", "sum/fp16", FLOAT16),
            cast("sum/fp16", "y", FLOAT),
        ],
        {"x": FLOAT},
        {"scores": FLOAT, "y": FLOAT},
        {"x/fp16": FLOAT16, "logits/fp16": FLOAT16, "logits": FLOAT, "neg": FLOAT16}
        | {"neg/fp32": FLOAT, "sum": FLOAT, "sum/fp16": FLOAT16},
        {"c": np.asarray([0.1, 3], np.float16)},
        raw={"logits": "logits"},
    )
    found, names = widened(proto)
    assert names == ["sigmoid", "add"]
    assert [node.name for node in found.graph.node] == ["mul", "sigmoid", "neg", "add"]
    assert [list(node.output) for node in found.graph.node] == [["logits"], ["scores"], ["neg"], ["y"]]  # fmt: skip # noqa: E501
    constant = np.asarray([0.1, 3], np.float16).astype(np.float32)
    np.testing.assert_array_equal(numpy_helper.to_array(found.graph.initializer[0]), constant)
    got = run_with_known(session(found, optimise=False), x=X)
    np.testing.assert_allclose(got["scores"], 1 / (1 + np.exp(-X * constant)), atol=1e-6)
    np.testing.assert_allclose(got["y"], got["scores"] - X * constant, atol=1e-6)


def test_what_a_name_cannot_be_given_to_is_copied() -> None:
    """A graph's input that is an output, and one tensor under two public names."""
    proto = model_of(
        [
            cast("x", "a", FLOAT),
            helper.make_node("Relu", ["x"], ["r"], "relu"),
            cast("r", "b", FLOAT),
            cast("r", "c", FLOAT),
        ],
        {"x": FLOAT16},
        {"a": FLOAT, "b": FLOAT, "c": FLOAT},
        {"r": FLOAT16},
    )
    found, names = widened(proto)
    assert names == []
    assert [node.op_type for node in found.graph.node] == ["Identity", "Relu", "Identity"]
    got = run_with_known(session(found), x=X)
    for name, expected in {"a": X, "b": X.clip(0), "c": X.clip(0)}.items():
        np.testing.assert_array_equal(got[name], expected)


def test_branches() -> None:
    """A branch that gives a cast of an outer value, in a branch; types of Ifs and fills."""

    filled = numpy_helper.from_array(np.asarray([0.5], np.float16), "fill")
    inner = choose(
        "inner",
        branch("one", [cast("r", "one/x", FLOAT16)], "one/x"),
        branch(
            "two",
            [
                cast("x", "two/x", FLOAT16),
                helper.make_node("Neg", ["two/x"], ["two/neg"], "two/neg"),
                cast("two/neg", "two/full", FLOAT),
                helper.make_node("Exp", ["two/full"], ["two/exp"], "two/exp"),
                cast("two/exp", "two/out", FLOAT16),
            ],
            "two/out",
            {"two/x": FLOAT16, "two/neg": FLOAT16, "two/full": FLOAT, "two/exp": FLOAT},
        ),
    )
    outer = choose(
        "outer",
        branch("three", [inner], "inner/out"),
        branch(
            "four",
            [
                helper.make_node(
                    "ConstantOfShape", ["shape"], ["four/out"], "four/fill", value=filled
                )
            ],
            "four/out",
        ),
    )
    proto = model_of(
        [
            helper.make_node("Relu", ["x"], ["r"], "relu"),
            outer,
            cast("count", "count/fp16", FLOAT16),
            helper.make_node("Add", ["outer/out", "count/fp16"], ["sum"], "sum"),
            cast("sum", "y", FLOAT),
        ],
        {"x": FLOAT, "gate": TensorProto.BOOL, "count": TensorProto.INT64},
        {"y": FLOAT},
        {"r": FLOAT, "outer/out": FLOAT16, "count/fp16": FLOAT16, "sum": FLOAT16},
        {"shape": np.asarray([2], np.int64)},
    )
    proto.graph.input[1].type.tensor_type.shape.Clear()
    onnx.checker.check_model(proto, full_check=True)
    found, names = widened(proto)
    assert names == ["relu", "two/exp"]
    operators = {graph.name: [n.op_type for n in graph.node] for graph in graphs_of(found.graph)}
    assert operators["one"] == ["Identity"]
    assert operators["two"] == ["Neg", "Exp"]
    assert operators["main"] == ["Relu", "If", "Cast", "Add"]
    count = np.asarray([5, 6], np.int64)
    for gate in (True, False):
        feeds = {"x": X, "gate": np.asarray(gate), "count": count}
        (got,) = run_with_known(session(found), **feeds).values()
        (expected,) = run_with_known(session(proto), **feeds).values()
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(got, count + (X.clip(0) if gate else np.float32(0.5)))


def test_a_value_without_a_type_is_refused() -> None:
    proto = model_of(
        [
            helper.make_node("Relu", ["x"], ["r"], "relu"),
            helper.make_node("Neg", ["r"], ["y"], "neg"),
        ],
        {"x": FLOAT16},
        {"y": FLOAT16},
    )
    with pytest.raises(ExportError, match=r"the type of 'r' \(node 'relu', Relu\) is not known"):
        widen(ir.from_proto(proto))


# --- whole networks --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return lowered_bundle(request.param, tmp_path_factory)[0]


@dataclass(frozen=True)
class Half:
    """A graph with FP16 in it, the rows to try it at, and what `widen` makes of it."""

    artifact: Artifact
    proto: onnx.ModelProto
    rows: range
    wide: onnx.ModelProto
    names: list[str]


@pytest.fixture(scope="module")
def halves(lowered: Bundle) -> list[Half]:
    """Gated graphs and static ones of both ends of the ladder. Read only."""
    ladder = lowered.table.ladder
    ends = (None, str(ladder[0]), str(ladder[-1]))
    found = []
    for artifact in lowered.artifacts():
        half = artifact.precision == "fp16" or artifact.name.endswith("-tensorrt")
        if half and artifact.depth in ends:
            model = ir.load(lowered.file(artifact))
            add_raw_outputs(model)
            rows = (
                range(0, len(ladder), len(ladder) - 1) if artifact.layout == "gated" else range(1)
            )
            proto = ir.to_proto(model)
            found.append(Half(artifact, proto, rows, *widened(proto)))
    return found


def test_numbers_are_those_of_the_graph(lowered: Bundle, halves: list[Half]) -> None:
    """Bit for bit what the graph gives when every 16 in it is written as 32."""
    height, width = lowered.manifest.preprocess.size
    assert {(half.artifact.precision, half.artifact.layout) for half in halves} == {
        ("fp16", "gated"),
        ("fp16", "set"),
        ("int8", "gated"),
        ("int8", "set"),
    }
    for half in halves:
        proto, wide = half.proto, half.wide
        assert [value.name for value in wide.graph.output] == [
            value.name for value in proto.graph.output
        ]
        opened = session(by_hand(proto), optimise=False), session(wide, optimise=False)
        for row in half.rows:
            images = random_images(2, height, width, seed=row)
            feeds = {"images": images, "depth": np.asarray(row, np.int64)}
            expected, got = (run_with_known(each, **feeds) for each in opened)
            for name, array in expected.items():
                np.testing.assert_array_equal(got[name], array, strict=True)


def test_differences_are_roundings(lowered: Bundle, halves: list[Half]) -> None:
    """From the FP16 graph, rounded where it says so. (Rounding to 8 bits makes steps of them.)

    A DETR's last queries are a matter of roundings: those that both chose are compared.
    """
    images = verification_batches(lowered.manifest.preprocess, seed=1)[0]
    for half in halves:
        if half.artifact.precision != "fp16":
            continue
        proto = onnx.ModelProto()
        proto.CopyFrom(half.proto)
        assert round_to_half(proto)
        opened = session(proto, *KEEP_ROUNDING), session(half.wide)
        feeds = {"images": images, "depth": np.asarray(half.rows[-1], np.int64)}
        expected, got = (run_with_known(each, **feeds) for each in opened)
        floats = [f"raw_{name}" for name in lowered.manifest.raw_outputs if name != "queries"]
        if "raw_queries" in got:
            common = np.intersect1d(
                expected["raw_queries"][0], got["raw_queries"][0], return_indices=True
            )[1:]
            assert len(common[0]) >= 0.9 * got["raw_queries"].shape[1]
            for found, index in zip((expected, got), common, strict=True):
                found.update((name, found[name][:, index]) for name in floats)
        for name in floats:
            error = np.linalg.norm(expected[name] - got[name]) / np.linalg.norm(expected[name])
            assert 0 < error < 0.01, (half.artifact.name, name)


def test_sensitive_nodes_are_those_left_in_full(halves: list[Half]) -> None:
    """All that the manifest lists as kept, and nothing that reads and gives FP16 only."""
    for half in halves:
        artifact, proto, wide, names = half.artifact, half.proto, half.wide, half.names
        types = kinds(proto)
        nodes = {node.name: node for graph in graphs_of(proto.graph) for node in graph.node}
        after = {node.name for graph in graphs_of(wide.graph) for node in graph.node}
        assert set(names) <= after, artifact.name
        assert len(set(names)) == len(names)
        listed = {item.node for item in artifact.kept if "half precision" in item.reason}
        assert listed - set(names) == set()
        assert listed != set()
        for name in set(names) - listed:  # what only passes FP32 on
            assert nodes[name].op_type == "Identity", name
        for name, node in nodes.items():
            touched = {types[value] for value in (*node.input, *node.output) if value}
            if FLOAT not in touched:
                assert name not in names
            elif FLOAT16 not in touched and node.op_type not in ("Cast", "If"):
                assert name in names


def test_an_fp32_graph_stays_as_it_is(lowered: Bundle) -> None:
    (artifact,) = lowered.artifacts("gated", "fp32", weights="shared")
    model = ir.load(lowered.file(artifact))
    before = ir.to_proto(model).SerializeToString()
    names = widen(model)
    assert ir.to_proto(model).SerializeToString() == before
    convolutions = {node.name for graph in graphs_of(ir.to_proto(model).graph)
                    for node in graph.node if node.op_type == "Conv"}  # fmt: skip
    assert convolutions <= set(names)


def test_eight_bits_in_opset_17(lowered: Bundle, halves: list[Half]) -> None:
    """What TensorRT 8.6 reads: FP32 scales, zero points of 0, and it runs."""
    height, width = lowered.manifest.preprocess.size
    for half in halves:
        if half.artifact.precision != "int8":
            continue
        model = ir.from_proto(half.wide)
        set_opset(model, 17)
        found = ir.to_proto(model)
        onnx.checker.check_model(found, full_check=True)
        types = kinds(found)
        pairs = [
            node
            for graph in graphs_of(found.graph)
            for node in graph.node
            if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        ]
        assert len(pairs) > 10
        assert {types[node.input[1]] for node in pairs} == {FLOAT}
        assert {types[node.input[2]] for node in pairs} == {TensorProto.INT8}
        feeds = {"images": random_images(2, height, width), "depth": np.asarray(half.rows[-1])}
        # No layouts are changed: those depend on the opset and move roundings to 8 bits.
        expected = run_with_known(session(by_hand(half.proto), optimise=False), **feeds)
        got = run_with_known(session(found, optimise=False), **feeds)
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array, strict=True)
