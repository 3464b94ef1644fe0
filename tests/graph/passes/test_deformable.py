"""Gathers instead of GridSample: the same samples, alone, in branches and in whole networks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from conftest import random_images
from onnx import TensorProto, helper
from onnx_graphs import assert_names_are_unique, graphs_of
from onnx_sessions import run_with_known, unfused_session
from trained_networks import lowered_bundle

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.deformable import gather_samples
from anydepth_deploy.graph.passes.heads import add_raw_outputs
from anydepth_deploy.manifest import Artifact

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def sampler(
    shape: tuple[Any, ...],
    places: tuple[Any, ...] = (None, None),
    *,
    opset: int = 18,
    kinds: tuple[int, int] = (FLOAT, FLOAT),
    **attributes: Any,
) -> onnx.ModelProto:
    """One GridSample of maps of `shape` at a grid [N, *places, 2]."""
    node = helper.make_node("GridSample", ["maps", "grid"], ["out"], "sample", **attributes)
    rank = len(places)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info("maps", kinds[0], shape),
            helper.make_tensor_value_info("grid", kinds[1], ["N", *places, rank]),
        ],
        [helper.make_tensor_value_info("out", kinds[0], [None] * (rank + 2))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def gathered(proto: onnx.ModelProto, count: int = 1) -> onnx.ModelProto:
    """The graph without its samplers, checked."""
    model = ir.from_proto(proto)
    assert gather_samples(model) == count
    found = ir.to_proto(model)
    onnx.checker.check_model(found, full_check=True)
    assert_names_are_unique(found)
    left = {node.op_type for graph in graphs_of(found.graph) for node in graph.node}
    assert "GridSample" not in left
    return found


def brute_force(maps: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Bilinear samples one by one, in float64."""
    batch, channels, height, width = maps.shape
    _, rows, columns, _ = grid.shape
    found = np.zeros((batch, channels, rows, columns))
    for n, row, column in itertools.product(range(batch), range(rows), range(columns)):
        x = ((float(grid[n, row, column, 0]) + 1) * width - 1) / 2
        y = ((float(grid[n, row, column, 1]) + 1) * height - 1) / 2
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        for i, j in itertools.product((0, 1), repeat=2):
            u, v = math.floor(x) + i, math.floor(y) + j
            if 0 <= u < width and 0 <= v < height:
                weight = (1 - abs(x - u)) * (1 - abs(y - v))
                found[n, :, row, column] += weight * maps[n, :, v, u]
    return found


def pixel_centres(length: int) -> np.ndarray:
    """Coordinates of the pixels, of the places between them, and of the first outside."""
    return (np.arange(-2, 2 * length + 3) / length - 1).astype(np.float32)


SHAPES = [(1, 1, 5, 5), (2, 3, 4, 7), (3, 16, 10, 6), (2, 2, 1, 5), (2, 2, 6, 1), (1, 2, 1, 1)]
SHAPES += [(2, 4, 2, 2), (4, 1, 20, 13)]


@pytest.mark.parametrize("opset", [17, 18, 19])
@pytest.mark.parametrize("shape", SHAPES)
def test_samples_as_torch_and_brute_force_do(shape: tuple[int, ...], opset: int) -> None:
    """Inside, on borders, at pixels, between them and around the map; the batch is free."""
    rng = np.random.default_rng(sum(shape))
    proto = sampler(("N", *shape[1:]), (None, None) if opset == 17 else (7, 4), opset=opset)
    opened = unfused_session(gathered(proto))
    for batch in (shape[0], 1):
        maps = rng.normal(size=(batch, *shape[1:])).astype(np.float32)
        grid = rng.uniform(-1.6, 1.6, (batch, 7, 4, 2)).astype(np.float32)
        centres = [pixel_centres(length) for length in (shape[3], shape[2])]
        for axis, choice in enumerate(centres):
            grid[:, :4, :, axis] = rng.choice(choice, (batch, 4, 4))
        grid[:, 6, 0], grid[:, 6, 1] = -1, 1
        found = run_with_known(opened, maps=maps, grid=grid)["out"]
        np.testing.assert_allclose(found, brute_force(maps, grid), rtol=0, atol=1e-5)
        expected = torch.nn.functional.grid_sample(
            torch.from_numpy(maps), torch.from_numpy(grid), align_corners=False
        )
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
        assert np.abs(found).max() > 0.1


def test_every_pixel_is_hit() -> None:
    height, width = 3, 5
    proto = sampler(("N", 2, height, width))
    maps = np.arange(2 * height * width, dtype=np.float32).reshape(1, 2, height, width)
    xs, ys = pixel_centres(width)[3:-2:2], pixel_centres(height)[3:-2:2]
    assert (len(xs), len(ys)) == (width, height)
    grid = np.stack(np.meshgrid(xs, ys), -1)[None]
    found = run_with_known(unfused_session(gathered(proto)), maps=maps, grid=grid)["out"]
    np.testing.assert_allclose(found, maps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("far", [1.5, 3.0, 1e4, 1e10, 3e38, math.inf])
def test_far_outside_there_is_nothing(far: float) -> None:
    """No position is too large for an integer."""
    proto = sampler(("N", 2, 4, 6))
    maps = np.full((1, 2, 4, 6), 3.0, np.float32)
    sides = [(far, 0), (-far, 0), (0, far), (0, -far), (far, far), (-far, far), (-far, -far)]
    grid = np.asarray(sides, np.float32).reshape(1, 1, -1, 2)
    found = run_with_known(unfused_session(gathered(proto)), maps=maps, grid=grid)["out"]
    np.testing.assert_array_equal(found, np.zeros((1, 2, 1, len(sides)), np.float32))


@pytest.mark.parametrize("kinds", [(FLOAT16, FLOAT), (FLOAT16, FLOAT16), (FLOAT, FLOAT16)])
def test_half_maps_and_coordinates(kinds: tuple[int, int]) -> None:
    """FP16 is where it was, and nowhere between: only the result is rounded."""
    rng = np.random.default_rng(3)
    types: dict[int, Any] = {FLOAT: np.float32, FLOAT16: np.float16}
    maps = rng.normal(size=(2, 3, 30, 80)).astype(types[kinds[0]])  # positions beyond 2048
    grid = rng.uniform(-1.1, 1.1, (2, 5, 4, 2)).astype(types[kinds[1]])
    proto = gathered(sampler(("N", 3, 30, 80), kinds=kinds))
    found = run_with_known(unfused_session(proto), maps=maps, grid=grid)["out"]
    assert found.dtype == types[kinds[0]]
    exact = brute_force(maps.astype(np.float64), grid)
    np.testing.assert_allclose(found, exact, rtol=2**-11 if kinds[0] == FLOAT16 else 0, atol=1e-5)


@pytest.mark.parametrize(
    ("proto", "what"),
    [
        (sampler(("N", 2, 4, 4), mode="nearest"), "mode 'nearest'"),
        (sampler(("N", 2, 4, 4), mode="bicubic"), "mode 'bicubic'"),
        (sampler(("N", 2, 4, 4), padding_mode="border"), "padding_mode 'border'"),
        (sampler(("N", 2, 4, 4), padding_mode="reflection"), "padding_mode 'reflection'"),
        (sampler(("N", 2, 4, 4), align_corners=1), "align_corners 1"),
        (sampler(("N", 2, 4, 4, 4), (3, 3, 3), opset=20), "5-D"),
        (sampler(("N", 2, "H", 4)), "height and a width that are fixed"),
        (sampler(("N", 2, 4, 4), kinds=(TensorProto.DOUBLE, FLOAT)), "DOUBLE at FLOAT"),
        (sampler(("N", 1, 4097, 4097)), "4097 x 4097"),
    ],
)
def test_other_samplers_are_refused(proto: onnx.ModelProto, what: str) -> None:
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(ExportError, match=r"^node 'sample' \(GridSample\)") as caught:
        gather_samples(model)
    assert what in str(caught.value)
    assert ir.to_proto(model).SerializeToString() == before


def test_the_word_of_later_opsets_is_understood() -> None:
    assert gathered(sampler(("N", 2, 4, 4), opset=20, mode="linear"))


def nested() -> onnx.ModelProto:
    """A sampler in each branch of an If in a branch of an If, whose results leave as they are."""

    def branch(name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
        kind = helper.make_tensor_value_info(output, FLOAT, ["N", 2, 3, 3])
        return helper.make_graph(nodes, name, [], [kind])

    def sample(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Neg", ["maps"], [f"{name}/neg"], f"{name}/Neg"),
            helper.make_node("GridSample", [f"{name}/neg", "grid"], [f"{name}/out"], name),
        ]

    def choose(name: str, gate: str, one: onnx.GraphProto, other: onnx.GraphProto) -> Any:
        return helper.make_node(
            "If", [gate], [f"{name}/out"], name, then_branch=one, else_branch=other
        )

    inner = choose(
        "inner",
        "second",
        branch("one", sample("a"), "a/out"),
        branch("two", [helper.make_node("GridSample", ["maps", "grid"], ["b/out"], "b")], "b/out"),
    )
    absolute = [
        helper.make_node("Abs", ["grid"], ["c/abs"], "c/Abs"),
        helper.make_node("GridSample", ["maps", "c/abs"], ["c/out"], "c"),
    ]
    outer = choose(
        "outer",
        "first",
        branch("three", [inner], "inner/out"),
        branch("four", absolute, "c/out"),
    )
    graph = helper.make_graph(
        [
            helper.make_node("GridSample", ["maps", "grid"], ["d/out"], "d"),
            outer,
            helper.make_node("Add", ["outer/out", "d/out"], ["sum"], "sum"),
        ],
        "main",
        [
            helper.make_tensor_value_info("maps", FLOAT, ["N", 2, 4, 4]),
            helper.make_tensor_value_info("grid", FLOAT, ["N", 3, 3, 2]),
            helper.make_tensor_value_info("first", TensorProto.BOOL, []),
            helper.make_tensor_value_info("second", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("sum", FLOAT, ["N", 2, 3, 3]),
            helper.make_tensor_value_info("d/out", FLOAT, ["N", 2, 3, 3]),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(proto)


def test_branches_of_branches() -> None:
    proto = nested()
    found = gathered(proto, 4)
    sizes = {g.name: (len(g.node), len(g.initializer)) for g in graphs_of(found.graph)}
    for graph in graphs_of(found.graph):  # constants are of the graph that reads them
        own = {tensor.name for tensor in graph.initializer}
        assert own <= {name for node in graph.node for name in node.input}, sizes
        assert bool(own) == (graph.name != "three"), sizes
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 2, 4, 4)).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (3, 3, 3, 2)).astype(np.float32)
    before, after = unfused_session(proto), unfused_session(found)
    for first, second in itertools.product((True, False), repeat=2):
        feeds = {"first": np.asarray(first), "second": np.asarray(second)}
        expected = run_with_known(before, maps=maps, grid=grid, **feeds)
        got = run_with_known(after, maps=maps, grid=grid, **feeds)
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5)


# --- whole networks --------------------------------------------------------------------------

TOLERANCES = {
    "fp32": {"raw_logits": 1e-4, "raw_boxes": 1e-5},
    "fp16": {"raw_logits": 0.005, "raw_boxes": 0.005},
    "int8": {"raw_logits": 0.005, "raw_boxes": 0.005},
}
"""Of boxes in 0..1. In FP32 what `verify` calls equal: the two forms add the same products in
another order, and three layers of a decoder multiply what that rounds differently. Lower precisions
round intermediate results of either form."""


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return lowered_bundle("anydepth-detr", tmp_path_factory)[0]


def graph_of(bundle: Bundle, artifact: Artifact) -> ir.Model:
    model = ir.load(Path(bundle.file(artifact)))
    add_raw_outputs(model)
    return model


def compare(bundle: Bundle, artifact: Artifact, levels: int) -> None:
    model = graph_of(bundle, artifact)
    before = unfused_session(ir.to_proto(model))
    after = unfused_session(gathered(ir.to_proto(model), count=9))
    height, width = bundle.manifest.preprocess.size
    for row, batch in itertools.product(range(levels), (1, 3)):
        images = random_images(batch, height, width, seed=row)
        feeds = {"images": images, "depth": np.asarray(row, np.int64)}
        expected, found = run_with_known(before, **feeds), run_with_known(after, **feeds)
        # Queries are chosen before anything is sampled.
        np.testing.assert_array_equal(found["raw_queries"], expected["raw_queries"])
        for name, limit in TOLERANCES[artifact.precision].items():
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=limit)


def test_gated_graphs_at_every_rung(bundle: Bundle) -> None:
    for artifact in bundle.artifacts("gated"):
        compare(bundle, artifact, len(bundle.table.ladder))


def test_lower_precisions(lowered: Bundle) -> None:
    chosen = [
        artifact
        for artifact in lowered.artifacts()
        if artifact.layout == "gated" or artifact.depth == str(lowered.table.ladder[-1])
    ]
    assert {(item.precision, item.layout) for item in chosen} == {
        *itertools.product(("fp32", "fp16", "int8"), ("gated", "set"))
    }
    for artifact in chosen:
        compare(lowered, artifact, len(lowered.table.ladder) if artifact.layout == "gated" else 1)


def test_static_graphs_of_every_rung(bundle: Bundle) -> None:
    for artifact in bundle.artifacts("set"):
        compare(bundle, artifact, 1)


def test_networks_without_samplers_stay_as_they_are(yolo_bundle: Bundle) -> None:
    for artifact in yolo_bundle.artifacts("gated"):
        model = ir.load(yolo_bundle.file(artifact))
        before = ir.to_proto(model).SerializeToString()
        assert gather_samples(model) == 0
        assert ir.to_proto(model).SerializeToString() == before
