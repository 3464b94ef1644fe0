"""The INT8 pass on small graphs, compared with quantisation written out in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from int8 import Array, dequantised, nodes, quantised_convolutions, relative, scopes
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_sessions import quiet_session, run_with_known

from anydepth_deploy.graph.passes.placement import Placement
from anydepth_deploy.graph.passes.quantise import SCHEMES, quantise
from anydepth_deploy.graph.passes.weights import align_levels

FLOAT = onnx.TensorProto.FLOAT


def weight(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.4, shape).astype(np.float32)


WEIGHTS = {
    "w1": weight(1, 4, 3, 3, 3),
    "b1": weight(2, 4),
    "w2": weight(3, 4, 4, 1, 1),
    "b2": weight(4, 4),
    "w3": weight(5, 2, 2, 3, 3),
    "b3": weight(6, 2),
    "w4": weight(7, 3, 6, 3, 3),
    "b4": weight(8, 3),
    "w5": weight(9, 3, 6, 1, 1),
    "b5": weight(10, 3),
}

RANGES = {
    "x": (0.0, 1.0),
    "r1": (0.0, 2.5),
    "c2": (-9.5, 3.0),  # below -8 nothing is left of a SiLU
    "s": (-0.28, 2.9),
    "a": (-0.28, 2.9),
    "b": (-0.28, 2.9),
    "c3": (-1.5, 2.0),
    "r3": (0.0, 4.0),
    "cat": (-0.28, 3.5),
    "up": (-0.28, 3.5),
    "c4": (-5.0, 6.0),
    "r5": (0.0, 3.0),
    "out": (-5.0, 6.0),
}


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def handmade() -> ir.Model:
    """Conv+Relu, Conv+SiLU, Split, a residual Conv+Add+Relu, Concat, MaxPool, Resize, an If."""

    def conv(name: str, source: str, output: str, pad: int) -> onnx.NodeProto:
        inputs = [source, f"w{name}", f"b{name}"]
        return helper.make_node("Conv", inputs, [output], f"conv{name}", pads=[pad] * 4)

    def branch(name: str, made: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
        held = [key for node in made for key in node.input if key in WEIGHTS]
        tensors = [numpy_helper.from_array(WEIGHTS[key], key) for key in held]
        return helper.make_graph(made, name, [], [value(output, "N", 3, 8, 8)], tensors)

    deep = branch("deep", [conv("4", "up", "c4", 1)], "c4")
    flat = branch(
        "flat",
        [conv("5", "up", "c5", 0), helper.make_node("Relu", ["c5"], ["r5"], "relu5")],
        "r5",
    )
    body = [
        conv("1", "x", "c1", 1),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        conv("2", "r1", "c2", 0),
        helper.make_node("Sigmoid", ["c2"], ["g"], "gate"),
        helper.make_node("Mul", ["c2", "g"], ["s"], "silu"),
        helper.make_node("Split", ["s", "halves"], ["a", "b"], "split", axis=1),
        conv("3", "a", "c3", 1),
        helper.make_node("Add", ["c3", "b"], ["sum"], "add"),
        helper.make_node("Relu", ["sum"], ["r3"], "relu3"),
        helper.make_node("Concat", ["s", "r3"], ["cat"], "join", axis=1),
        helper.make_node("MaxPool", ["cat"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["pool", "", "double"], ["up"], "resize", mode="nearest"),
        helper.make_node("If", ["deep?"], ["out"], "if", then_branch=deep, else_branch=flat),
        conv("6", "out", "y", 0),
    ]
    constants: dict[str, Array] = {
        **{key: array for key, array in WEIGHTS.items() if key[1] in "123"},
        "w6": np.ones((1, 3, 1, 1), np.float32),
        "b6": np.zeros(1, np.float32),
        "halves": np.asarray([2, 2], np.int64),
        "double": np.asarray([1, 1, 2, 2], np.float32),
    }
    graph = helper.make_graph(
        body,
        "main",
        [
            value("x", "N", 3, 8, 8),
            helper.make_tensor_value_info("deep?", onnx.TensorProto.BOOL, []),
        ],
        [value("y", "N", 1, 8, 8), value("out", "N", 3, 8, 8)],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
        value_info=[value(name, "N", 4, 8, 8) for name in ("c1", "r1", "c2", "g", "s")]
        + [value(name, "N", 2, 8, 8) for name in ("a", "b", "c3", "sum", "r3")]
        + [value("cat", "N", 6, 8, 8), value("pool", "N", 6, 4, 4), value("up", "N", 6, 8, 8)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(model)


def ranges_of(table: Mapping[str, tuple[float, float]]) -> Callable[[ir.Value], Any]:
    return lambda found: table[found.name or ""]


def quantised(
    scheme: str = "onnxruntime", keep: tuple[str, ...] = ("conv6",), **ranges: tuple[float, float]
) -> tuple[onnx.ModelProto, list[Placement]]:
    model = handmade()
    placements = quantise(
        model,
        SCHEMES[scheme],
        ranges_of({**RANGES, **ranges}),
        lambda node, reason: "asked for" if node.name in keep else reason,
    )
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto, placements


# --- the network in numpy ---------------------------------------------------------------------


def rounded(x: Array, low: float, high: float) -> Array:
    """uint8 with this range, and back."""
    step = (high - low) / 255
    zero = round(-low / step)
    found: Array = (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step
    return found


def convolved(x: Array, number: int, step: float, pad: int) -> Array:
    """With weights per channel in 8 bits, and the bias in the accumulator's units."""
    kernel, bias = (WEIGHTS[f"{key}{number}"].astype(np.float64) for key in "wb")
    scale = np.abs(kernel).max((1, 2, 3)) / 127
    kernel = np.rint(kernel / scale[:, None, None, None]) * scale[:, None, None, None]
    bias = np.rint(bias / (scale * step)) * scale * step
    data, filters, offset = (torch.from_numpy(array) for array in (x, kernel, bias))
    found: Array = torch.nn.functional.conv2d(data, filters, offset, padding=pad).numpy()
    return found


def imitation(images: Array, deep: bool) -> dict[str, Array]:
    """What the quantised graph computes, written out tensor by tensor."""

    def step(low: float, high: float) -> float:
        return (high - low) / 255

    x = rounded(images.astype(np.float64), *RANGES["x"])
    r1 = rounded(np.maximum(convolved(x, 1, step(*RANGES["x"]), 1), 0), *RANGES["r1"])
    c2 = rounded(convolved(r1, 2, step(*RANGES["r1"]), 0), -8.0, RANGES["c2"][1])
    gate = rounded(1 / (1 + np.exp(-c2)), 0.0, 1.0)
    s = rounded(c2 * gate, *RANGES["s"])
    a, b = s[:, :2], s[:, 2:]
    c3 = rounded(convolved(a, 3, step(*RANGES["s"]), 1), *RANGES["c3"])
    r3 = rounded(np.maximum(c3 + b, 0), *RANGES["cat"])  # only the Concat reads it
    cat = rounded(np.concatenate([s, r3], 1), *RANGES["cat"])
    pool = cat.reshape(*cat.shape[:2], 4, 2, 4, 2).max((3, 5))
    up = pool.repeat(2, 2).repeat(2, 3)
    unit = step(*RANGES["cat"])
    if deep:
        out = rounded(convolved(up, 4, unit, 1), *RANGES["c4"])
    else:
        out = rounded(np.maximum(convolved(up, 5, unit, 0), 0), *RANGES["r5"])
    return {"out": out, "y": out.sum(1, keepdims=True)}


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_quantised_graph_computes_what_it_says(deep: bool, batch: int) -> None:
    proto, placements = quantised()
    assert [len(item.convolutions) for item in placements] == [3, 1, 1]
    images = np.random.default_rng(0).random((batch, 3, 8, 8), np.float32)
    expected = imitation(images, deep)
    unit = (RANGES["c4"][1] - RANGES["c4"][0]) / 255
    found = run_with_known(
        quiet_session(proto, optimise=False), x=images, **{"deep?": np.asarray(deep)}
    )
    # float32 may round a few values to the neighbouring level, and whatever depends on them.
    assert np.mean(np.abs(found["out"] - expected["out"]) > 1e-4) < 0.02
    assert np.abs(found["out"] - expected["out"]).max() < 2.5 * unit
    assert relative(found["y"], expected["y"]) < 0.01
    # Fused, the products have other roundings: a step here and there.
    fused = run_with_known(quiet_session(proto), x=images, **{"deep?": np.asarray(deep)})
    assert np.abs(fused["out"] - expected["out"]).max() < 3.5 * unit
    assert relative(fused["out"], expected["out"]) < 0.02
    # And the imitation is one of the network: not the other branch, not without its rounding.
    other = imitation(images, not deep)
    assert relative(other["out"], expected["out"]) > 0.2


def test_quantisation_costs_what_8_bits_cost() -> None:
    proto, _ = quantised()
    images = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
    for deep in (True, False):
        feeds = {"x": images, "deep?": np.asarray(deep)}
        exact = run_with_known(quiet_session(ir.to_proto(handmade())), **feeds)
        found = run_with_known(quiet_session(proto), **feeds)
        assert 1e-3 < relative(found["out"], exact["out"]) < 0.05


# --- borders and ties ------------------------------------------------------------------------


def test_pairs_stay_within_their_graph() -> None:
    proto, _ = quantised()
    for scope, node in nodes(proto, "QuantizeLinear", "DequantizeLinear"):
        assert set(node.input[1:]) <= {*scope.initializers}
    main, deep, flat = scopes(proto.graph)
    for branch in (deep, flat):
        (pair,) = (
            node
            for node in branch.graph.node
            if node.op_type == "QuantizeLinear" and node.input[0] in {"up", "up/dequantised"}
        )
        assert pair.output[0].startswith(f"{branch.graph.name}/up")
        assert branch.makers[branch.graph.output[0].name].op_type == "DequantizeLinear"
    assert main.makers["out"].op_type == "If"


def test_ties_and_floors() -> None:
    proto, (main, *_) = quantised()
    scope = next(scopes(proto.graph))

    def limits(name: str) -> tuple[float, float]:
        scale, zero = (scope.array(f"{name}/{what}") for what in ("scale", "zero"))
        assert scale is not None
        assert zero is not None
        return (0 - int(zero)) * float(scale), (255 - int(zero)) * float(scale)

    for name, expected in {
        **{key: RANGES[key] for key in ("x", "r1", "s", "c3", "cat")},
        "c2": (-8.0, 3.0),
        "g": (0.0, 1.0),
        "a": RANGES["s"],
        "b": RANGES["s"],
        "r3": RANGES["cat"],
        "pool": RANGES["cat"],
        "up": RANGES["cat"],
    }.items():
        width = expected[1] - expected[0]
        assert limits(name) == pytest.approx(expected, abs=0.51 * width / 255), name
    assert {node.name for node in main.kept} == {"conv6"}


def test_tensorrt_rounds_only_what_convolutions_read_and_add() -> None:
    proto, placements = quantised("tensorrt")
    assert sum(len(item.convolutions) for item in placements) == 5
    read = {node.input[0] for _, node in nodes(proto, "QuantizeLinear")}
    # One side of the Add is a convolution's input, and so both are.
    assert read == {"x", "r1", "a", "up"} or read == {"x", "r1", "a", "up", "c3", "b"}
    for scope, node in nodes(proto, "QuantizeLinear"):
        scale, zero = (scope.array(name) for name in node.input[1:])
        assert zero is not None
        assert scale is not None
        assert zero.dtype == np.int8
        assert int(zero) == 0
        assert float(scale) == float(np.float16(scale))
    for _, conv, _ in quantised_convolutions(proto).values():
        assert not conv.input[2].endswith("dequantised")


# --- numbers ---------------------------------------------------------------------------------


def test_zero_is_exact_and_nothing_has_no_range() -> None:
    """Ranges of nothing, of one side, and much smaller than the values."""
    for limits in [(0.0, 0.0), (0.0, 1e-30), (-1e-30, 0.0), (-3.0, 0.0), (-1e-3, 5.0)]:
        for scheme in SCHEMES:
            proto, _ = quantised(scheme, r1=limits)
            (scope, node) = next(
                item for item in nodes(proto, "QuantizeLinear") if item[1].input[0] == "r1"
            )
            scale, zero = (scope.array(name) for name in node.input[1:])
            assert scale is not None
            assert zero is not None
            assert np.isfinite(scale)
            assert scale > 0
            if scheme == "onnxruntime":
                assert 0 <= int(zero) <= 255
            opened = quiet_session(proto, optimise=False)
            for deep in (True, False):
                nought = np.zeros((1, 3, 8, 8), np.float32)
                found = run_with_known(opened, x=nought, **{"deep?": np.asarray(deep)})
                assert np.isfinite(found["out"]).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_dead_channels_keep_their_bias(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of zero, or nearly, with a bias that their units could not hold in 32 bits."""
    dead, bias = WEIGHTS["w1"].copy(), WEIGHTS["b1"].copy()
    dead[1], bias[1] = 0, 2.0
    dead[2], bias[2] = 1e-12, 1.5
    dead[3], bias[3] = 0, 0
    monkeypatch.setitem(WEIGHTS, "w1", dead)
    monkeypatch.setitem(WEIGHTS, "b1", bias)
    proto, _ = quantised(scheme, r1=(0.0, 4.0))
    scope, conv, maker = quantised_convolutions(proto)["conv1"]
    values, step = dequantised(scope, maker)
    assert np.all(np.abs(values - dead) <= step / 2 + 1e-9)
    assert not values[[1, 3]].any()
    if scheme == "onnxruntime":
        found, unit = dequantised(scope, scope.makers[conv.input[2]])
        assert np.all(np.abs(found - bias) <= unit / 2 + 1e-6)
        levels = scope.array(scope.makers[conv.input[2]].input[0])
        assert levels is not None
        assert levels.dtype == np.int32
        assert np.abs(levels.astype(np.int64)).max() < 2**31 - 1
    images = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    feeds = {"x": images, "deep?": np.asarray(True)}
    results = []
    for model in (ir.to_proto(handmade()), proto):
        model.graph.output.append(value("r1", "N", 4, 8, 8))
        results.append(run_with_known(quiet_session(model, optimise=False), **feeds)["r1"])
    assert np.abs(results[1] - results[0]).max() < 0.05
    assert results[0].max() > 1.9


def test_a_weight_that_two_convolutions_read_is_quantised_for_each() -> None:
    model = ir.from_onnx_text("""<ir_version: 8, opset_import: ["": 18]>
        g (float[N, 1, 2, 2] x) => (float[N, 1, 2, 2] z) <float[1, 1, 1, 1] w = {0.7}> {
            [one] y = Conv(x, w)
            [two] z = Conv(y, w)
        }""")
    limits = {"x": (0.0, 1.0), "y": (-0.1, 0.7), "z": (0.0, 0.5)}
    quantise(model, SCHEMES["onnxruntime"], ranges_of(limits), lambda node, reason: None)
    proto = ir.to_proto(model)
    assert quantised_convolutions(proto).keys() == {"one", "two"}
    assert "w" not in {tensor.name for tensor in proto.graph.initializer}
    x = np.linspace(0, 1, 4, dtype=np.float32).reshape(1, 1, 2, 2)
    (found,) = run_with_known(quiet_session(proto), x=x).values()
    assert np.abs(found - 0.49 * x).max() < 0.006


# --- equal levels ----------------------------------------------------------------------------


def graph_of(levels: NDArray[np.int8], name: str) -> ir.Graph:
    tensor = ir.tensor(levels, name=name)
    held = ir.val(name, tensor.dtype, list(levels.shape), const_value=tensor)
    return ir.Graph([], [], nodes=[], initializers=[held], name=f"graph of {name}")


def levels_in(graph: ir.Graph) -> Array:
    (held,) = graph.initializers.values()
    assert held.const_value is not None
    return held.const_value.numpy()


def test_levels_that_differ_by_ties_become_equal() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(-126, 127, (64, 32, 3, 3), np.int8)
    tied = one.copy()
    tied.flat[[100, 5000, 9000]] += 1
    graphs = [graph_of(one, "one"), graph_of(tied, "tied"), graph_of(one.copy(), "same")]
    assert align_levels(graphs) == 1
    assert all(np.array_equal(levels_in(graph), one) for graph in graphs)


def test_other_levels_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(-125, 126, (64, 32, 3, 3), np.int8)
    far = one.copy()
    far.flat[7000] += 2  # no tie: a different weight
    many = one.copy()
    many.flat[::100] += 1  # one in a hundred is no accident
    shaped = one.reshape(32, 64, 3, 3).copy()
    small = one[:1, :1].copy()
    for other in (far, many, shaped, rng.permutation(one.ravel()).reshape(one.shape)):
        graphs = [graph_of(one, "one"), graph_of(other, "other")]
        before = other.copy()
        assert align_levels(graphs) == 0
        assert np.array_equal(levels_in(graphs[1]), before)
    tiny = small.copy()
    tiny.flat[0] += 1
    assert align_levels([graph_of(small, "small"), graph_of(tiny, "tiny")]) == 0


def test_optimised_file_holds_integer_convolutions(tmp_path: Path) -> None:
    proto, _ = quantised()
    quiet_session(proto, saved=tmp_path / "o.onnx")
    found = [node.op_type for _, node in nodes(onnx.load(tmp_path / "o.onnx"), "QLinearConv")]
    assert len(found) == 5
