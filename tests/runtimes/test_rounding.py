"""Rounding to FP16 where the graph does, on a runtime that leaves it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.onnxruntime.rounding import round_to_half
from anydepth_deploy.runtimes.registry import open_engine

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
SIZE = 8


def product(name: str, source: str, target: str) -> list[onnx.NodeProto]:
    """``target = (source @ weight @ inverse)``, in FP16 between two casts."""
    return [
        helper.make_node("Cast", [source], [f"{name}/half"], to=HALF),
        helper.make_node("MatMul", [f"{name}/half", "weight"], [f"{name}/large"]),
        helper.make_node("MatMul", [f"{name}/large", "inverse"], [f"{name}/small"]),
        helper.make_node("Cast", [f"{name}/small"], [target], to=FLOAT),
    ]


def values(name: str) -> list[onnx.ValueInfoProto]:
    names = [f"{name}/{part}" for part in ("half", "large", "small")]
    return [helper.make_tensor_value_info(item, HALF, [SIZE, SIZE]) for item in names]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two products, one in the main graph and one in a branch, whose values in between are
    ``factor`` times the input."""
    branches = {}
    for name, nodes in (
        ("then_branch", product("then", "y", "z_then")),
        ("else_branch", [helper.make_node("Identity", ["y"], ["z_else"])]),
    ):
        output = helper.make_tensor_value_info(f"z_{name[:4]}", FLOAT, [SIZE, SIZE])
        info = values("then") if name == "then_branch" else []
        branches[name] = helper.make_graph(nodes, name, [], [output], value_info=info)
    graph = helper.make_graph(
        [*product("main", "x", "y"), helper.make_node("If", ["runs"], ["z"], **branches)],
        "rounded",
        [
            helper.make_tensor_value_info("x", FLOAT, [SIZE, SIZE]),
            helper.make_tensor_value_info("runs", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info(name, FLOAT, [SIZE, SIZE]) for name in ("y", "z")],
        initializer=[
            onnx.numpy_helper.from_array(np.eye(SIZE, dtype=np.float16) * 1024, "weight"),
            onnx.numpy_helper.from_array(np.eye(SIZE, dtype=np.float16) / 1024, "inverse"),
        ],
        value_info=values("main"),
    )
    path = tmp_path / "rounded.onnx"
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(found, full_check=True)
    onnx.save(found, path)
    return path


def run(path: Path, x: float, *, runs: bool, rounded: bool) -> dict[str, np.ndarray]:
    engine = open_engine("onnxruntime", path, EngineOptions(threads=1, rounded=rounded))
    feeds = {"x": np.full((SIZE, SIZE), x, np.float32), "runs": np.asarray(runs)}
    return dict(engine.run(feeds, ["y", "z"]))


def test_an_overflow_between_two_products_shows(model: Path) -> None:
    """100 * 1024 is beyond FP16; ONNX Runtime by itself never notices."""
    assert np.isfinite(run(model, 1.0, runs=True, rounded=True)["z"]).all()
    hidden, shown = (run(model, 100.0, runs=False, rounded=rounded) for rounded in (False, True))
    assert np.allclose(hidden["y"], 100)
    assert not np.isfinite(shown["y"]).any()


def test_branches_round_too(model: Path) -> None:
    content = onnx.load(model)
    assert round_to_half(content)
    onnx.checker.check_model(content, full_check=True)
    branch = next(a.g for n in content.graph.node for a in n.attribute if a.name == "then_branch")
    for graph in (content.graph, branch):
        made = [node for node in graph.node if node.op_type == "Identity"]
        makers = {name: node.op_type for node in graph.node for name in node.output}
        assert [makers[node.input[0]] for node in made] == ["MatMul", "Identity"] * 2


def test_a_graph_without_half_is_left_alone(model: Path) -> None:
    content = onnx.load(model)
    for graph in (content.graph, *(a.g for n in content.graph.node for a in n.attribute)):
        del graph.value_info[:]
    before = content.SerializeToString()
    assert not round_to_half(content)
    assert content.SerializeToString() == before
