"""Opsets 17, 18 and 19: the same numbers, or a refusal that names the node."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import random_images
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import assert_names_are_unique, graphs_of
from onnx_sessions import run_with_known, unfused_session
from trained_networks import FAMILIES, lowered_bundle

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.opset import set_opset
from anydepth_deploy.graph.passes.widen import widen

IR_VERSIONS = {17: 8, 18: 8, 19: 9}
FLOAT, FLOAT16, INT8, INT64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.INT64,
)


def brought(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The graph in another opset, checked."""
    model = ir.from_proto(proto)
    set_opset(model, version)
    found = ir.to_proto(model)
    assert [(item.domain, item.version) for item in found.opset_import] == [("", version)]
    assert found.ir_version == IR_VERSIONS[version]
    onnx.checker.check_model(found, full_check=True)
    assert_names_are_unique(found)
    return found


def one(
    op_type: str,
    data: tuple[int, tuple[Any, ...]],
    *constants: np.ndarray | None,
    opset: int = 18,
    outputs: int = 1,
    kind: int | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """A graph of one node, called `it`, that reads `data` and constants."""
    names = ["" if array is None else f"c{i}" for i, array in enumerate(constants)]
    node = helper.make_node(
        op_type, ["data", *names], [f"out{i}" for i in range(outputs)], "it", **attributes
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("data", *data)],
        [helper.make_tensor_value_info(f"out{i}", kind or data[0], None) for i in range(outputs)],
        [
            numpy_helper.from_array(array, name)
            for array, name in zip(constants, names, strict=True)
            if array is not None
        ],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSIONS[opset]
    )
    return onnx.shape_inference.infer_shapes(proto)  # the shape of the output


def ints(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


def floats(*numbers: float) -> np.ndarray:
    return np.asarray(numbers, np.float32)


MAP = (FLOAT, ("N", 3, 6, 5))

SAME = {
    "one axis": (one("ReduceMax", MAP, ints(2), keepdims=0), {17, 18, 19}),
    "axes from the end": (one("ReduceMean", MAP, ints(-1, 1)), {17, 18, 19}),
    "a flag of no use": (one("ReduceMax", MAP, ints(2), noop_with_empty_axes=1), {17, 18, 19}),
    "all axes": (one("ReduceMin", MAP), {17, 18, 19}),
    "an empty list of axes": (one("ReduceMax", MAP, ints()), {17, 18, 19}),
    "axes as attribute": (one("ReduceL2", MAP, opset=17, axes=[3]), {17, 18, 19}),
    "a sum": (one("ReduceSum", MAP, ints(1)), {17, 18, 19}),
    "even parts": (one("Split", MAP, outputs=2, axis=2, num_outputs=2), {17, 18, 19}),
    "uneven parts": (one("Split", MAP, outputs=2, axis=-1, num_outputs=2), {17, 18, 19}),
    "three parts": (one("Split", (FLOAT, (7, 2)), outputs=3, num_outputs=3), {17, 18, 19}),
    "sizes": (one("Split", MAP, ints(1, 4), outputs=2, axis=3), {17, 18, 19}),
    "parts of old": (one("Split", MAP, opset=17, outputs=3, axis=1), {17, 18, 19}),
    "nearest": (
        one("Resize", MAP, None, floats(1, 1, 2, 2), mode="nearest", antialias=0,
            nearest_mode="floor", coordinate_transformation_mode="asymmetric",
            keep_aspect_ratio_policy="stretch"),
        {17, 18, 19},
    ),
    "linear": (one("Resize", MAP, None, None, ints(2, 3, 9, 4), mode="linear"), {17, 18, 19}),
    "padding": (one("Pad", MAP, ints(0, 0, 1, 2, 0, 0, 0, 1), mode="reflect"), {17, 18, 19}),
    "scattering": (
        one("ScatterND", (FLOAT, (4, 2)), ints(1, 3)[:, None],
            np.ones((2, 2), np.float32), reduction="add"),
        {17, 18, 19},
    ),
    "a pool": (one("AveragePool", MAP, kernel_shape=[3, 3], pads=[1] * 4,
                   count_include_pad=1), {17, 18, 19}),
    "an undilated pool": (
        one("AveragePool", MAP, opset=19, kernel_shape=[2, 2], dilations=[1, 1]), {17, 18, 19}
    ),
    "rounding": (
        one("QuantizeLinear", MAP, floats(0.1)[0], np.int8(0), opset=19, kind=INT8, saturate=1),
        {17, 18, 19},
    ),
    "rounding in FP16": (
        one("QuantizeLinear", (FLOAT16, ("N", 4)), np.float16(0.1), np.int8(0), opset=19,
            kind=INT8), {19},
    ),
    "a cast": (one("Cast", MAP, kind=INT64, to=INT64), {17, 18, 19}),
    "mish": (one("Mish", MAP), {18, 19}),
    "no axes, nothing done": (one("ReduceMax", MAP, noop_with_empty_axes=1), {18, 19}),
    "a maximum scattered": (
        one("ScatterND", (FLOAT, (4, 2)), ints(1, 3)[:, None],
            np.ones((2, 2), np.float32), reduction="max"),
        {18, 19},
    ),
    "padding of some axes": (
        one("Pad", MAP, ints(1, 1), floats(0.5)[0], ints(2)), {18, 19},
    ),
    "padding that wraps": (
        one("Pad", MAP, ints(0, 0, 1, 1, 0, 0, 1, 1), opset=19, mode="wrap"), {19},
    ),
    "antialiased": (
        one("Resize", MAP, None, None, ints(2, 3, 3, 3), mode="linear", antialias=1), {18, 19},
    ),
    "resized axes": (
        one("Resize", MAP, None, floats(2, 2), axes=[2, 3], mode="nearest"), {18, 19},
    ),
    "a symmetric resize": (
        one("Resize", MAP, None, floats(1, 1, 0.5, 0.5), opset=19, mode="linear",
            coordinate_transformation_mode="half_pixel_symmetric"), {19},
    ),
    "a dilated pool": (
        one("AveragePool", MAP, opset=19, kernel_shape=[2, 2], dilations=[2, 1]), {19},
    ),
    "a pool whose last window sticks out": (
        one("AveragePool", MAP, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), {17, 18},
    ),
    "a text compared": (
        helper.make_model(
            helper.make_graph(
                [helper.make_node("Equal", ["data", "data"], ["out0"], "it")], "one",
                [helper.make_tensor_value_info("data", TensorProto.STRING, ["N"])],
                [helper.make_tensor_value_info("out0", TensorProto.BOOL, ["N"])],
            ),
            opset_imports=[helper.make_opsetid("", 19)], ir_version=9,
        ), {19},
    ),
    "bits": (one("BitwiseNot", (INT64, ("N",))), {18, 19}),
    "a pool of norms": (one("LpPool", MAP, kernel_shape=[2, 2]), {18, 19}),
}  # fmt: skip
"""Nodes, and the opsets that can express them."""


@pytest.mark.parametrize("version", IR_VERSIONS)
@pytest.mark.parametrize("name", SAME)
def test_one_node(name: str, version: int) -> None:
    proto, possible = SAME[name]
    onnx.checker.check_model(proto, full_check=True)
    if version not in possible:
        model = ir.from_proto(proto)
        before = ir.to_proto(model).SerializeToString()
        with pytest.raises(ExportError, match=rf"^node 'it' \({proto.graph.node[0].op_type}\)"):
            set_opset(model, version)
        assert ir.to_proto(model).SerializeToString() == before
        return
    found = brought(proto, version)
    if proto.graph.input[0].type.tensor_type.elem_type in (TensorProto.STRING, INT64):
        return
    opened = unfused_session(proto), unfused_session(found)
    info = opened[0].get_inputs()[0]
    shape = [2 if isinstance(size, str) else size for size in info.shape]
    data = np.random.default_rng(0).normal(size=shape) * 3
    kind = np.float16 if info.type == "tensor(float16)" else np.float32
    expected, got = (run_with_known(each, data=data.astype(kind)) for each in opened)
    assert list(got) == list(expected)
    for key, array in expected.items():
        # ONNX Runtime has another kernel for the AveragePool of opset 19.
        limit = 1e-6 if proto.graph.node[0].op_type == "AveragePool" else 0
        assert (got[key].dtype, got[key].shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(got[key], array, rtol=0, atol=limit)


def test_there_and_back() -> None:
    """Nothing is left behind: axes and sizes that nobody reads any more go."""
    proto, _ = SAME["one axis"]
    there = brought(proto, 17)
    assert [item.name for item in there.graph.initializer] == []
    assert [attribute.name for attribute in there.graph.node[0].attribute] == ["keepdims", "axes"]
    back = brought(there, 19)
    (axes,) = back.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(axes), [2])
    assert [attribute.name for attribute in back.graph.node[0].attribute] == ["keepdims"]


def test_axes_that_others_read_stay() -> None:
    proto, _ = SAME["one axis"]
    twice = onnx.ModelProto()
    twice.CopyFrom(proto)
    twice.graph.node.append(helper.make_node("ReduceMin", ["data", "c0"], ["out1"], "other"))
    twice.graph.output.append(helper.make_tensor_value_info("out1", FLOAT, None))
    twice.graph.node.append(helper.make_node("ReduceSum", ["data", "c0"], ["out2"], "third"))
    twice.graph.output.append(helper.make_tensor_value_info("out2", FLOAT, None))
    found = brought(onnx.shape_inference.infer_shapes(twice), 17)
    assert [item.name for item in found.graph.initializer] == ["c0"]


def test_computed_axes_are_refused() -> None:
    proto, _ = SAME["one axis"]
    computed = onnx.ModelProto()
    computed.CopyFrom(proto)
    computed.graph.input.append(helper.make_tensor_value_info("axes", INT64, [1]))
    computed.graph.node[0].input[1] = "axes"
    with pytest.raises(ExportError, match="needs axes that are constant"):
        set_opset(ir.from_proto(computed), 17)


def test_parts_of_an_unknown_length_are_refused() -> None:
    proto = one("Split", MAP, outputs=2, axis=0, num_outputs=2)
    with pytest.raises(ExportError, match="needs a fixed length"):
        set_opset(ir.from_proto(proto), 17)


def test_branches_have_their_own_constants() -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Split", ["data"], [f"{name}/a", f"{name}/b"], f"{name}/s",
                             num_outputs=2, axis=1),
            helper.make_node("Sub", [f"{name}/b", f"{name}/a"], [f"{name}/out"], f"{name}/d"),
        ]  # fmt: skip
        kind = helper.make_tensor_value_info(f"{name}/out", FLOAT, [2, 2])
        return helper.make_graph(nodes, name, [], [kind])

    def choose(name: str, one: onnx.GraphProto, other: onnx.GraphProto) -> onnx.NodeProto:
        return helper.make_node(
            "If", ["gate"], [f"{name}/out"], name, then_branch=one, else_branch=other
        )

    kind = helper.make_tensor_value_info("inner/out", FLOAT, [2, 2])
    inner = helper.make_graph([choose("inner", branch("x"), branch("y"))], "z", [], [kind])
    graph = helper.make_graph(
        [choose("outer", inner, branch("w"))],
        "main",
        [
            helper.make_tensor_value_info("data", FLOAT, [2, 4]),
            helper.make_tensor_value_info("gate", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("outer/out", FLOAT, [2, 2])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    found = brought(proto, 17)
    constants = {item.name: len(item.initializer) for item in graphs_of(found.graph)}
    assert constants == {"main": 0, "z": 0, "x": 1, "y": 1, "w": 1}
    data = np.arange(8, dtype=np.float32).reshape(2, 4)
    for gate in (True, False):
        got = run_with_known(unfused_session(found), data=data, gate=np.asarray(gate))["outer/out"]
        np.testing.assert_array_equal(got, np.full((2, 2), 2.0))


@pytest.mark.parametrize(("present", "wanted"), [(18, 16), (18, 20), (16, 17), (20, 18)])
def test_unknown_opsets(present: int, wanted: int) -> None:
    proto = one("Relu", MAP)
    proto.opset_import[0].version = present
    with pytest.raises(ExportError, match=f"in opset {present} .* to {wanted}: expected 17, 18"):
        set_opset(ir.from_proto(proto), wanted)


# --- whole networks --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return lowered_bundle(request.param, tmp_path_factory)[0]


def assert_equal_runs(
    bundle: Bundle, before: onnx.ModelProto, *after: onnx.ModelProto, rows: int = 1
) -> None:
    """Bit for bit; all but the first of `after` at the first row only."""
    opened, others = unfused_session(before), [unfused_session(proto) for proto in after]
    height, width = bundle.manifest.preprocess.size
    for row in range(rows):
        images = random_images(2, height, width, seed=row)
        feeds = {"images": images, "depth": np.asarray(row, np.int64)}
        expected = run_with_known(opened, **feeds)
        for other in others[:1] if row else others:
            got = run_with_known(other, **feeds)
            for name, array in expected.items():
                np.testing.assert_array_equal(got[name], array, strict=True)


def graph_file(bundle: Bundle, precision: str, weights: str) -> Path:
    (artifact,) = bundle.artifacts("gated", precision, weights=weights)
    return bundle.file(artifact)


def operators(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for graph in graphs_of(proto.graph) for node in graph.node}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_whole_graphs_in_older_and_newer_opsets(lowered: Bundle, precision: str) -> None:
    """Gated at every rung, and static at both ends."""
    ladder = lowered.table.ladder
    for artifact in lowered.artifacts():
        if artifact.precision != precision or artifact.depth not in (
            None,
            str(ladder[0]),
            str(ladder[-1]),
        ):
            continue
        proto = onnx.load(str(lowered.file(artifact)))
        assert proto.opset_import[0].version == 18
        assert operators(proto) >= {"Resize", "Conv"}
        old = brought(proto, 17)
        rows = len(ladder) if artifact.layout == "gated" else 1
        new = brought(proto, 19)
        others = [old, brought(new, 17)]
        if "AveragePool" not in operators(proto):
            # ONNX Runtime has another kernel for the AveragePool of opset 19, which rounds
            # otherwise (see test_one_node).
            others.append(new)
        assert_equal_runs(lowered, proto, *others, rows=rows)


def test_folded_graphs(bundle: Bundle, yolo_bundle: Bundle) -> None:
    for found in (bundle, yolo_bundle):
        proto = onnx.load(str(graph_file(found, "fp32", "folded")))
        assert_equal_runs(found, proto, brought(proto, 17))


def test_half_scales_are_refused_and_wide_ones_are_not(lowered: Bundle) -> None:
    names = [item for item in lowered.artifacts() if item.name.endswith("-tensorrt")]
    gated = next(item for item in names if item.layout == "gated")
    for artifact in (gated, names[-1]):
        assert artifact is not gated or artifact.layout == "gated"
        proto = onnx.load(str(lowered.file(artifact)))
        assert proto.opset_import[0].version == 19
        for version in (17, 18):
            with pytest.raises(ExportError, match=r"QuantizeLinear.*tensor\(float16\)"):
                set_opset(ir.from_proto(proto), version)
        model = ir.from_proto(proto)
        widen(model)
        wide = ir.to_proto(model)
        rows = len(lowered.table.ladder) if artifact is gated else 1
        assert_equal_runs(lowered, wide, brought(wide, 17), rows=rows)


def test_the_other_way_round_is_the_same_graph(lowered: Bundle) -> None:
    """What was exported in 18 comes back as it was, but for sizes in place of numbers of parts."""
    proto = onnx.load(str(graph_file(lowered, "fp16", "shared")))
    back = brought(brought(proto, 17), 18)
    for one_graph, other in itertools.zip_longest(graphs_of(proto.graph), graphs_of(back.graph)):
        assert [node.op_type for node in one_graph.node] == [node.op_type for node in other.node]
        assert [list(node.output) for node in one_graph.node] == [
            list(node.output) for node in other.node
        ]
