"""Folding passes on graphs of a few lines, against onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from anydepth_deploy.graph.passes.fold import fold_batch_norms, merge_parallel_convolutions
from anydepth_deploy.graph.passes.weights import share_constants

RNG = np.random.default_rng(0)


def graph_of(body: str, initializers: dict[str, np.ndarray], channels: int = 4) -> ir.Model:
    """A graph x -> y with random-valued initializers, written as ONNX text."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[N, {channels}, 6, 5] x) => (float[N, M, H, W] y) {{ {body} }}
    """
    proto = onnx.parser.parse_model(text)
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def evaluate(model: ir.Model, x: np.ndarray) -> np.ndarray:
    found = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    assert isinstance(found, list)
    return np.asarray(found[0])


def norm_values(channels: int, prefix: str) -> dict[str, np.ndarray]:
    return {
        f"{prefix}g": RNG.normal(size=channels).astype(np.float32),
        f"{prefix}b": RNG.normal(size=channels).astype(np.float32),
        f"{prefix}m": RNG.normal(size=channels).astype(np.float32),
        f"{prefix}v": RNG.uniform(0.1, 2, size=channels).astype(np.float32),
    }


def weight(out: int, inner: int, size: int) -> np.ndarray:
    return RNG.normal(size=(out, inner, size, size)).astype(np.float32)


def count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


def test_norm_after_convolution_is_folded() -> None:
    body = """t = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)
              y = BatchNormalization <epsilon=0.001> (t, ag, ab, am, av)"""
    model = graph_of(body, {"w": weight(3, 4, 3), **norm_values(3, "a")})
    x = RNG.normal(size=(2, 4, 6, 5)).astype(np.float32)
    before = evaluate(model, x)
    assert fold_batch_norms(model.graph) == 1
    assert count(model, "BatchNormalization") == 0
    assert set(model.graph.initializers) & {"w", "ag"} == set()
    np.testing.assert_allclose(evaluate(model, x), before, rtol=1e-5, atol=1e-5)


def test_norm_after_grouped_convolution_with_bias_is_folded() -> None:
    body = """t = Conv <group=2> (x, w, c)
              y = BatchNormalization (t, ag, ab, am, av)"""
    values = {"w": weight(6, 2, 1), "c": RNG.normal(size=6).astype(np.float32)}
    model = graph_of(body, {**values, **norm_values(6, "a")})
    x = RNG.normal(size=(1, 4, 6, 5)).astype(np.float32)
    before = evaluate(model, x)
    assert fold_batch_norms(model.graph) == 1
    np.testing.assert_allclose(evaluate(model, x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "keep"),
    [
        ("t = Relu(x) y = BatchNormalization (t, ag, ab, am, av)", ()),
        ("t = Conv(x, w) y = BatchNormalization (t, ag, ab, am, av)", ("w",)),
        # The convolution's result is read twice: folding would change the other reader.
        (
            "t = Conv(x, w) u = BatchNormalization (t, ag, ab, am, av) y = Add(t, u)",
            (),
        ),
    ],
)
def test_what_must_not_be_folded_is_kept(body: str, keep: tuple[str, ...]) -> None:
    model = graph_of(body, {"w": weight(4, 4, 1), **norm_values(4, "a")})
    x = RNG.normal(size=(1, 4, 6, 5)).astype(np.float32)
    before = evaluate(model, x)
    assert fold_batch_norms(model.graph, keep=keep) == 0
    assert np.array_equal(evaluate(model, x), before)


def test_parallel_convolutions_are_merged() -> None:
    body = """a = Conv <pads=[1,1,1,1]> (x, w3)
              an = BatchNormalization (a, pg, pb, pm, pv)
              c = Conv (x, w1)
              cn = BatchNormalization (c, qg, qb, qm, qv)
              y = Add(cn, an)"""
    values = {"w3": weight(4, 4, 3), "w1": weight(4, 4, 1)}
    model = graph_of(body, {**values, **norm_values(4, "p"), **norm_values(4, "q")})
    for index, node in enumerate(model.graph):
        node.name = f"n{index}"
    x = RNG.normal(size=(2, 4, 6, 5)).astype(np.float32)
    before = evaluate(model, x)
    assert fold_batch_norms(model.graph) == 2
    assert merge_parallel_convolutions(model.graph) == 1
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert len(model.graph.initializers) == 2
    np.testing.assert_allclose(evaluate(model, x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        # another input; another stride; the 3x3 result is read twice; both are 3x3
        """z = Relu(x) a = Conv <pads=[1,1,1,1]> (x, w3, c) b = Conv (z, w1, c) y = Add(a, b)""",
        """a = Conv <pads=[0,0,0,0]> (x, w3, c) b = Conv <strides=[1,1], pads=[-1,-1,-1,-1]>
           (x, w1, c) y = Add(a, b)""",
        """a = Conv <pads=[1,1,1,1]> (x, w3, c) b = Conv (x, w1, c) d = Add(a, b) y = Add(d, a)""",
        """a = Conv <pads=[1,1,1,1]> (x, w3, c) b = Conv <pads=[1,1,1,1]> (x, w3, c)
           y = Add(a, b)""",
    ],
)
def test_other_sums_are_not_merged(body: str) -> None:
    values = {"w3": weight(4, 4, 3), "w1": weight(4, 4, 1), "c": np.ones(4, np.float32)}
    model = graph_of(body, values)
    for index, node in enumerate(model.graph):
        node.name = f"n{index}"
    assert merge_parallel_convolutions(model.graph) == 0


def branches_of(
    body: str, own: dict[str, dict[str, np.ndarray]]
) -> tuple[ir.Graph, list[ir.Graph]]:
    """An empty main graph and two branches, every name unique."""
    graphs = []
    for name, values in own.items():
        graph = graph_of(body, values).graph
        for value in list(graph.initializers.values()):
            value.name = f"{name}/{value.name}"
        graphs.append(graph)
    return ir.Graph([], [], nodes=[], name="main"), graphs


def test_equal_constants_are_stored_once() -> None:
    shared, mine, yours = (RNG.normal(size=(20, 20)).astype(np.float32) for _ in range(3))
    small = np.ones(4, np.float32)
    main, branches = branches_of(
        "t = MatMul(x, w) u = MatMul(t, v) y = Add(u, s)",
        {
            "full": {"w": shared, "v": mine, "s": small},
            "skipped": {"w": shared.copy(), "v": yours, "s": small},
        },
    )
    assert share_constants(main, branches) == 1
    assert set(main.initializers) == {"full/w"}
    for name, graph in zip(("full", "skipped"), branches, strict=True):
        assert set(graph.initializers) == {f"{name}/v", f"{name}/s"}
        assert next(iter(graph)).inputs[1] is main.initializers["full/w"]
    tensor = main.initializers["full/w"].const_value
    assert tensor is not None
    assert np.array_equal(tensor.numpy(), shared)


@pytest.mark.parametrize(
    ("body", "shared"),
    [
        ("y = Conv(x, w)", False),
        ("t = Conv(x, w) y = BatchNormalization (t, ag, ab, am, av)", True),
        ("t = Conv(x, w) y = Relu(t)", False),
    ],
)
def test_convolutions_share_weights_only_below_a_norm(body: str, shared: bool) -> None:
    values = {"w": weight(32, 32, 1)}
    own = {name: {**values, **norm_values(32, "a")} for name in ("full", "skipped")}
    main, branches = branches_of(body, own)
    assert share_constants(main, branches) == int(shared)
    assert ("full/w" in main.initializers) is shared
