"""INT8 graphs of the trained networks: where pairs stand, what runs in 8 bits, what it costs."""

from __future__ import annotations

import collections
import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import random_images
from int8 import (
    TINY_HALF,
    Array,
    Network,
    Scope,
    dequantised,
    edited,
    float_convolutions,
    networks,
    nodes,
    quantised_convolutions,
    relative,
    scopes,
)
from onnx_graphs import value_types
from onnx_sessions import quiet_session, run_with_known
from trained_networks import FAMILIES

from anydepth_deploy.depth import Depth
from anydepth_deploy.manifest import Target

__all__ = ["networks"]  # a fixture

LAYOUTS = ("shared", "folded")
TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")
PAIR = ("QuantizeLinear", "DequantizeLinear")
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
EIGHT = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


@pytest.fixture(params=FAMILIES)
def network(request: pytest.FixtureRequest, networks: dict[str, Network]) -> Network:
    return networks[request.param]


def variant(name: str) -> str:
    return name.split("/")[0]


# --- placement -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", LAYOUTS)
def test_branches_quantise_what_static_graphs_do(
    network: Network, weights: str, target: Target
) -> None:
    made, gated = network.lower(weights, target=target)
    names = quantised_convolutions(gated).keys()
    assert made.quantised == len(names) >= 100
    by_variant = collections.Counter(map(variant, names))
    seen: set[str] = set()
    depths = (
        network.depths() if target == "onnxruntime" else network.rungs[:: len(network.rungs) - 1]
    )
    for depth in depths:
        lowered, static = network.lower(depth=depth, target=target)
        found = quantised_convolutions(static).keys()
        assert lowered.quantised == len(found)
        counts = collections.Counter(map(variant, found))
        assert counts == {key: by_variant[key] for key in counts}
        assert found <= names
        running = [
            f"{stage.name}.{name}"
            for stage, _ in network.pieces.stages()
            if (name := stage.variant(depth)) is not None
        ]
        assert sum(by_variant[key] for key in running) == len(found)
        seen |= counts.keys()
    if target == "onnxruntime":
        assert seen == by_variant.keys()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", LAYOUTS)
def test_no_convolution_is_forgotten(network: Network, weights: str, target: Target) -> None:
    for depth in (None, network.rungs[0], network.rungs[-1]):
        lowered, model = network.lower(weights if depth is None else "folded", depth, target)
        kept = {item.node: item.reason for item in lowered.kept if item.op == "Conv"}
        assert float_convolutions(model).keys() == kept.keys()
        # A YOLO's head ends with convolutions for boxes and classes of three strides.
        assert len(kept) == (6 if network.family == "anydepth-yolo" else 0)
        assert set(kept.values()) <= {"head output"}
        every = {node.name for _, node in nodes(model, "Conv")}
        assert every == kept.keys() | quantised_convolutions(model).keys()


# --- the borders of Ifs ----------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", LAYOUTS)
def test_what_crosses_the_border_of_an_if_is_float(
    network: Network, weights: str, target: Target
) -> None:
    _, model = network.lower(weights, target=target)
    kinds = value_types(model)
    ifs = 0
    for _, node in nodes(model, "If"):
        ifs += 1
        assert {kinds[name] for name in node.output} <= FLOATS
        for attribute in node.attribute:
            assert {kinds[value.name] for value in attribute.g.output} <= FLOATS
    assert ifs >= 5
    for scope in scopes(model.graph):
        for node in scope.graph.node if scope.outer is not None else ():
            for name in node.input:
                if name and not scope.own(name) and kinds[name] in EIGHT:
                    assert scope.array(name) is not None  # a weight, never an activation
                    assert (node.op_type, list(node.input).index(name)) == (PAIR[1], 0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", LAYOUTS)
def test_scales_and_zero_points_belong_to_their_graph(
    network: Network, weights: str, target: Target
) -> None:
    _, model = network.lower(weights, target=target)
    pairs = list(nodes(model, *PAIR))
    assert len(pairs) > 200
    lost = [node.name for scope, node in pairs if not set(node.input[1:]) <= {*scope.initializers}]
    assert lost == []


@pytest.mark.parametrize("weights", LAYOUTS)
def test_integers_for_tensorrt_belong_to_their_graph(network: Network, weights: str) -> None:
    """Its builder refuses 8-bit constants that come into a branch from outside."""
    _, model = network.lower(weights, target="tensorrt")
    lost = [
        node.name
        for scope, node in nodes(model, PAIR[1])
        if scope.array(node.input[0]) is not None and node.input[0] not in scope.initializers
    ]
    assert lost == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", LAYOUTS)
def test_graphs_are_valid(network: Network, weights: str, target: Target) -> None:
    for depth in (None, network.rungs[0]):
        _, model = network.lower(weights if depth is None else "folded", depth, target)
        onnx.checker.check_model(model, full_check=True)
        names = [
            name for scope in scopes(model.graph) for name in (*scope.makers, *scope.initializers)
        ]
        assert len(names) == len(set(names))
        titles = [node.name for scope in scopes(model.graph) for node in scope.graph.node]
        assert len(titles) == len(set(titles))
        (opset,) = (item.version for item in model.opset_import if item.domain == "")
        assert opset == (19 if target == "tensorrt" else 18)


# --- fusion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [*LAYOUTS, "static"])
def test_onnxruntime_computes_them_in_8_bits(network: Network, layout: str, tmp_path: Path) -> None:
    """Count operators in the graph that ONNX Runtime made of it, branches included."""
    depth = network.rungs[-1] if layout == "static" else None
    lowered, model = network.lower("folded" if depth else layout, depth)
    file = tmp_path / "optimised.onnx"
    quiet_session(model, saved=file)
    optimised = onnx.load(file)
    counts = collections.Counter(node.op_type for _, node in nodes(optimised, *INTEGER))
    assert counts["QLinearConv"] == lowered.quantised
    left = [node.name for _, node in nodes(optimised, "Conv", "FusedConv")]
    assert len(left) == sum(item.op == "Conv" for item in lowered.kept)
    # Every Add, Concat, Mul and Sigmoid between pairs, and no other.
    between = collections.Counter(
        node.op_type for scope, node in nodes(model, *CARRIED) if is_between(scope, node)
    )
    for kind in CARRIED:
        assert counts[f"QLinear{kind}"] == between[kind], kind
    assert between["Add"] >= 8
    if network.family == "anydepth-yolo":
        assert min(between.values()) >= 8
        assert between["Mul"] == between["Sigmoid"]


INTEGER = ("QLinearConv", "QLinearAdd", "QLinearConcat", "QLinearMul", "QLinearSigmoid")
CARRIED = ("Add", "Concat", "Mul", "Sigmoid")


def is_between(scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether all inputs are dequantised, and the result (or its Relu's) is quantised alone."""
    makers = [scope.makers.get(name) for name in node.input]
    if not all(maker is not None and maker.op_type == PAIR[1] for maker in makers):
        return False
    readers = scope.readers(node.output[0])
    if [reader.op_type for reader in readers] == ["Relu"]:
        readers = scope.readers(readers[0].output[0])
    return [reader.op_type for reader in readers] == [PAIR[0]]


# --- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layout", [*LAYOUTS, "static"])
def test_weights_and_biases_are_those_of_the_folded_graph(
    network: Network, layout: str, target: Target
) -> None:
    depth = network.rungs[-1] if layout == "static" else None
    _, model = network.lower("folded" if depth else layout, depth, target)
    _, exact = network.lower("folded", depth, precision="fp32")
    convolutions = float_convolutions(exact)
    beyond = 0
    for name, (scope, node, maker) in quantised_convolutions(model).items():
        outer, original = convolutions[name]
        weight = outer.array(original.input[1])
        assert weight is not None
        found, step = dequantised(scope, maker)
        error = np.abs(found - weight) / step
        # What FP16 makes of a scale moves 127 steps by 0.03 and what lies beyond by more.
        slack = 1e-4 if target == "onnxruntime" else 0.07
        if layout == "shared":  # ties may have fallen to the other side
            assert error.max() < 1.0
            assert (error > 0.5 + slack).mean() <= 1e-3
            beyond += int((error > 0.5 + slack).sum())
        else:
            assert error.max() <= 0.5 + slack, name
        levels = scope.array(maker.input[0])
        assert levels is not None
        assert levels.dtype == np.int8
        assert levels.min() >= -127
        if len(original.input) > 2:
            bias = outer.array(original.input[2])
            assert bias is not None
            check_bias(scope, node, bias, target)
    assert beyond < 200


def check_bias(scope: Scope, node: onnx.NodeProto, bias: Array, target: Target) -> None:
    if target == "tensorrt":
        found = scope.array(node.input[2])
        assert found is not None
        assert np.abs(found - bias).max() <= np.abs(bias).max() * 2.0**-11 + 1e-7
        return
    values, unit = dequantised(scope, scope.makers[node.input[2]])
    assert np.all(np.abs(values - bias) <= unit * 0.51 + np.abs(bias) * 1e-6)
    # Integers of the accumulator, with no scale of their own.
    data, kernel = (scope.makers[name] for name in node.input[:2])
    expected = scope.array(data.input[1]) * scope.array(kernel.input[1])  # type: ignore[operator]
    np.testing.assert_allclose(unit, expected, rtol=1e-6)


MOVES = {"Flatten", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose"}


@pytest.mark.parametrize("layout", ["gated", "static"])
def test_activations_have_the_ranges_of_the_table(network: Network, layout: str) -> None:
    depth = network.rungs[1] if layout == "static" else None
    _, model = network.lower(depth=depth)
    kinds: collections.Counter[str] = collections.Counter()
    for scope, node in nodes(model, PAIR[0]):
        scale, zero = pair_of(scope, node)
        maker = scope.makers.get(node.input[0])
        tensor = node.input[0]
        if maker is not None and maker.op_type == "Sigmoid":
            kinds["sigmoid"] += 1
            assert scale == pytest.approx(1 / 255)
            assert zero == 0
            continue
        before = scope.makers.get(maker.input[0]) if maker is not None else None
        moved = maker is not None and maker.op_type in MOVES
        if moved and before is not None and before.op_type == PAIR[1]:
            kinds["moved"] += 1
            assert (scale, zero) == pair_of(scope, before)
            continue
        (rounded,) = scope.readers(node.output[0])
        readers = scope.readers(rounded.output[0])
        if [reader.op_type for reader in readers] == ["Concat"] and is_between(scope, readers[0]):
            (joined,) = scope.readers(readers[0].output[0])
            kinds["concatenated"] += 1
            assert (scale, zero) == pair_of(scope, joined)
            continue
        entries = network.ranges.tensors[tensor]
        chosen = [entries[str(depth)]] if depth is not None else list(entries.values())
        low, high = min(item.low for item in chosen), max(item.high for item in chosen)
        if sorted(reader.op_type for reader in readers) == ["Mul", "Sigmoid"]:
            kinds["floor"] += low < -8
            low = max(low, -8.0)
        kinds["table"] += 1
        assert scale == pytest.approx((high - low) / 255, rel=1e-6)
        assert abs(zero + low / scale) <= 0.5 + 1e-4
        # The range is covered to half a step at either end.
        assert (0 - zero) * scale == pytest.approx(low, abs=0.51 * scale)
        assert (255 - zero) * scale == pytest.approx(high, abs=0.51 * scale)
    assert kinds["table"] > 40
    if network.family == "anydepth-yolo":
        assert min(kinds["sigmoid"], kinds["moved"], kinds["concatenated"], kinds["floor"]) > 0


def pair_of(scope: Scope, node: onnx.NodeProto) -> tuple[float, int]:
    scale, zero = (scope.array(name) for name in node.input[1:])
    assert scale is not None
    assert zero is not None
    return float(scale), int(zero)


# --- execution -------------------------------------------------------------------------------

# Relative L2 from torch over the ladder, the worst of the four or five rungs, with room for
# another processor's kernels: half as much again as what was measured.
BOUNDS = {
    "anydepth-detr": {"logits": 0.055, "boxes": 0.03},
    "anydepth-yolo": {"boxes": 0.06, "scores": 0.12},
}


@pytest.mark.parametrize("weights", LAYOUTS)
def test_gated_graphs_stay_close_to_torch_at_every_rung(network: Network, weights: str) -> None:
    """As ONNX Runtime runs them, and with every operator as the graph says, pair by pair."""
    _, model = network.lower(weights)
    fused, plain = quiet_session(model), quiet_session(model, optimise=False)
    for row, depth in enumerate(network.rungs):
        for opened in (fused, plain):
            errors = network.errors(run_with_known(opened, images=network.images, depth=row), depth)
            limits = BOUNDS[network.family]
            assert errors.keys() >= limits.keys()
            assert all(errors[name] < limit for name, limit in limits.items()), (depth, errors)


def test_static_graphs_stay_close_to_torch(network: Network) -> None:
    for depth in network.rungs:
        _, model = network.lower(depth=depth)
        errors = network.errors(run_with_known(quiet_session(model), images=network.images), depth)
        limits = BOUNDS[network.family]
        assert all(errors[name] < limit for name, limit in limits.items()), (depth, errors)


def test_shared_and_folded_graphs_compute_the_same(network: Network) -> None:
    opened = {weights: quiet_session(network.lower(weights)[1]) for weights in LAYOUTS}
    for row in range(len(network.rungs)):
        found = [run_with_known(each, images=network.images, depth=row) for each in opened.values()]
        for name, array in found[0].items():
            if array.dtype == np.float32 and "queries" not in name:
                assert relative(array, found[1][name]) < 0.01, name


def test_batches_are_computed_one_by_one(network: Network) -> None:
    _, model = network.lower("shared")
    opened = quiet_session(model)
    images = random_images(3, *network.pieces.size)
    for row in range(len(network.rungs)):
        whole = run_with_known(opened, images=images, depth=row)
        for index in range(len(images)):
            single = run_with_known(opened, images=images[index : index + 1], depth=row)
            for name, array in single.items():
                np.testing.assert_allclose(whole[name][index : index + 1], array, atol=1e-3)


# --- broken layers ---------------------------------------------------------------------------


def without_levels(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    return edited(model, f"{name}.weight/quantised", np.zeros_like)


def doubled(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    return edited(model, f"{name}.weight/scale", lambda scale: scale * 2)


def exceeded(network: Network, model: onnx.ModelProto, depth: Depth, row: int) -> float:
    """By how much the worst of the errors exceeds its bound."""
    errors = network.errors(
        run_with_known(quiet_session(model), images=network.images, depth=row), depth
    )
    return max(errors[name] / limit for name, limit in BOUNDS[network.family].items())


# One of each kind of place: the stem, what opens a stage, the necks, the heads. Found by breaking
# every convolution in turn. Most convolutions of residual blocks (all of a DETR's layer4, all of
# the attention blocks of a YOLO's layers 6 and 8 beyond their first, the last of its head) change
# the outputs by less than 8 bits do: what breaks there, the tests of numbers above see, and
# test_a_broken_layer_shows_where_it_is below.
VISIBLE = {
    "anydepth-detr": (
        "stem.full/Conv_0",
        "layer1.full/Conv_0",
        "layer2.full/Conv_1",
        "layer3.full/Conv_1",
        "encoder.full/Conv_0",
        "queries.full/Conv_0",
    ),
    "anydepth-yolo": (
        "entry.full-full/Conv_0",
        "entry.full-full/Conv_64",
        "layer6.full/Conv_0",
        "layer14.full/Conv_69",
        "layer20.full/Conv_0",
        "head.full/Conv_30",
    ),
}


def test_broken_layers_exceed_the_bounds(network: Network) -> None:
    depth, row = network.rungs[-1], len(network.rungs) - 1
    for name in VISIBLE[network.family]:
        _, model = network.lower(depth=depth)
        assert exceeded(network, without_levels(model, name), depth, row) > 1.5, name
    name = VISIBLE[network.family][1]
    assert exceeded(network, doubled(model, name), depth, row) > 1.5


def test_scales_of_the_other_branch_exceed_the_bounds(network: Network) -> None:
    """The weights' scales of the two branches of all stages, each in the other's place. (Of the
    first stage alone they stay below the bounds: 0.7 and 0.9 of them.)"""
    _, model = network.lower("folded")
    twins: dict[str, dict[str, list[tuple[str, Array]]]] = {}
    for name, (scope, _, maker) in quantised_convolutions(model).items():
        scale = scope.array(maker.input[1])
        assert scale is not None
        branches = twins.setdefault(name.split(".")[0], {})
        branches.setdefault(variant(name), []).append((maker.input[1], scale))
    broken, swapped = model, 0
    for stage, variants in twins.items():
        if len(variants) != 2 or stage == "head":
            continue
        one, other = variants.values()
        for (first, a), (second, b) in zip(one, other, strict=False):
            if a.shape == b.shape and not np.array_equal(a, b):
                broken = edited(broken, first, functools.partial(instead, b))
                broken = edited(broken, second, functools.partial(instead, a))
                swapped += 1
    assert swapped >= 3
    last = len(network.rungs) - 1
    assert exceeded(network, broken, network.rungs[last], last) > 1.0
    assert exceeded(network, model, network.rungs[last], last) < 1.0


def instead(found: Array, _: Array) -> Array:
    return found


def layer_errors(network: Network, model: onnx.ModelProto, depth: Depth) -> dict[str, float]:
    """Relative L2 of what each convolution gives from what it gives in FP32, by its name."""
    _, exact = network.lower(depth=depth, precision="fp32")
    by_name = {node.name: node.output[0] for node in exact.graph.node if node.op_type == "Conv"}
    opened = quiet_session(expose(model, [*by_name.values()]), optimise=False)
    found = run_with_known(opened, images=network.images)
    expected = run_with_known(
        quiet_session(expose(exact, [*by_name.values()])), images=network.images
    )
    return {name: relative(found[t], expected[t]) for name, t in by_name.items()}


def expose(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def test_a_broken_layer_shows_where_it_is(network: Network) -> None:
    """Every fifth convolution without its levels, one after the other from the last: in its own
    result each is worse than any convolution was, whatever the outputs say."""
    depth = network.rungs[-1]
    _, model = network.lower(depth=depth)
    healthy = layer_errors(network, model, depth)
    worst = max(healthy.values())
    assert worst < LAYER_BOUNDS[network.family]
    for name in list(quantised_convolutions(model))[::-1][:: len(healthy) // 8]:
        assert layer_errors(network, without_levels(model, name), depth)[name] > worst, name


LAYER_BOUNDS = {"anydepth-detr": 0.2, "anydepth-yolo": 0.5}


# --- TensorRT --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [*LAYOUTS, "static"])
def test_pairs_for_tensorrt_are_symmetric_and_half(network: Network, layout: str) -> None:
    depth = network.rungs[-1] if layout == "static" else None
    lowered, model = network.lower("folded" if depth else layout, depth, "tensorrt")
    kinds = value_types(model)
    for scope, node in nodes(model, *PAIR):
        scale, zero = (scope.array(name) for name in node.input[1:])
        assert scale is not None
        assert zero is not None
        assert zero.dtype == np.int8
        assert scale.dtype == np.float16
        assert not zero.any()
        assert scale.min() >= TINY_HALF
        assert np.isfinite(scale).all()
        assert kinds[node.output[0]] == (
            onnx.TensorProto.INT8 if node.op_type == PAIR[0] else onnx.TensorProto.FLOAT16
        )
    for scope, node, maker in quantised_convolutions(model).values():
        data = scope.makers[node.input[0]]
        assert (data.op_type, maker.op_type) == (PAIR[1], PAIR[1])
        assert kinds[node.output[0]] == onnx.TensorProto.FLOAT16
        assert len(node.input) < 3 or scope.array(node.input[2]).dtype == np.float16  # type: ignore[union-attr]
    # Only what convolutions read is rounded, and both sides of an Add of which one is.
    for scope, node in nodes(model, PAIR[1]):
        if scope.array(node.input[0]) is None:
            assert {reader.op_type for reader in scope.readers(node.output[0])} <= {"Conv", "Add"}
    assert {item.reason for item in lowered.kept} <= {"head output", "sensitive in half precision"}
    assert {item.op for item in lowered.kept} >= {"Softmax"}


def test_scales_for_tensorrt_cover_the_range_of_the_table(network: Network) -> None:
    depth = network.rungs[0]
    _, model = network.lower(depth=depth, target="tensorrt")
    for scope, node in nodes(model, PAIR[0]):
        tensor = node.input[0].removesuffix("/fp16")
        entry = network.ranges.tensors[tensor][str(depth)]
        low = entry.low
        if silu(scope, node.input[0]):
            low = max(low, -8.0)
        scale, _ = pair_of(scope, node)
        assert scale == pytest.approx(max(-low, entry.high) / 127, rel=2.0**-10)


def silu(scope: Scope, name: str) -> bool:
    return sorted(reader.op_type for reader in scope.readers(name)) == ["Mul", "Sigmoid"]


TENSORRT_BOUNDS = {
    "anydepth-detr": {"logits": 0.055, "boxes": 0.03},
    "anydepth-yolo": {"boxes": 0.06, "scores": 0.12},
}


@pytest.mark.parametrize("weights", LAYOUTS)
def test_graphs_for_tensorrt_stay_close_to_torch(network: Network, weights: str) -> None:
    """On ONNX Runtime, whose WeightBiasQuantization misreads pairs with FP16 scales."""
    _, model = network.lower(weights, target="tensorrt")
    opened = quiet_session(model, without=["WeightBiasQuantization"])
    for row, depth in enumerate(network.rungs):
        errors = network.errors(run_with_known(opened, images=network.images, depth=row), depth)
        limits = TENSORRT_BOUNDS[network.family]
        assert all(errors[name] < limit for name, limit in limits.items()), (depth, errors)


# --- layouts and other precisions ------------------------------------------------------------


def test_shared_graphs_are_smaller(network: Network) -> None:
    """Levels once for both modes; scales, biases and pairs stay in each branch."""
    sizes = {weights: network.lower(weights)[1].ByteSize() for weights in LAYOUTS}
    full = network.lower(depth=network.rungs[-1])[1].ByteSize()
    assert sizes["shared"] < 0.8 * sizes["folded"]
    assert sizes["shared"] < 1.35 * full
    assert sizes["folded"] < 0.5 * network.lower("folded", precision="fp32")[1].ByteSize()


@pytest.mark.parametrize("weights", LAYOUTS)
def test_half_precision_records_what_it_keeps(network: Network, weights: str) -> None:
    lowered, model = network.lower(weights, precision="fp16")
    assert lowered.quantised == 0
    assert {item.reason for item in lowered.kept} == {"sensitive in half precision"}
    by_name = {node.name: node for scope in scopes(model.graph) for node in scope.graph.node}
    assert all(by_name[item.node].op_type == item.op for item in lowered.kept)
    kinds = value_types(model)
    kept = {item.node for item in lowered.kept}
    assert {node.name for _, node in nodes(model, "Softmax", "LayerNormalization")} <= kept
    for _, node in nodes(model, "Conv"):
        assert (kinds[node.output[0]] == onnx.TensorProto.FLOAT) == (node.name in kept)
    full, _ = network.lower(weights, precision="fp32")
    assert (full.kept, full.quantised) == ([], 0)
