"""A chain of seven pieces that is computed by hand, in Python and as ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from handmade import manifest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from anydepth_deploy.depth import Depth
from anydepth_deploy.manifest import Condition, StagePiece

TABLE = manifest().table()
DEPTHS = TABLE.rows
"""Two skip gates and a count of one or two layers."""

TOTAL = 7
SIDE = 4


def at(text: str) -> Depth:
    """A depth by its name."""
    return DEPTHS[TABLE.row(text)]


def piece(order: int, name: str, when: list[tuple[int, int, bool]], **io: Any) -> StagePiece:
    """`when`: gate, layer, whether it runs."""
    stage, _, variant = name.partition(".")
    return StagePiece(
        order=order,
        total=io.pop("total", TOTAL),
        stage=stage,
        variant=variant or "full",
        when=[Condition(gate=gate, layer=layer, runs=runs) for gate, layer, runs in when],
        reads=io["reads"],
        writes=io["writes"],
    )


PIECES: dict[str, StagePiece] = {
    "stem": piece(0, "stem", [], reads={"images": "images"}, writes={"out": "x", "side": "side"}),
    "one.full": piece(1, "one.full", [(0, 0, True)], reads={"in": "x"}, writes={"out": "x"}),
    "one.skipped": piece(1, "one.skipped", [(0, 0, False)], reads={"in": "x"}, writes={"out": "x"}),
    # Nothing runs where the second gate skips: the flow passes by.
    "two.full": piece(
        2, "two.full", [(1, 0, True)], reads={"in": "x", "also": "side"}, writes={"out": "x"}
    ),
    "layer1": piece(3, "layer1", [], reads={"in": "x"}, writes={"out": "x", "scores": "scores"}),
    "layer2": piece(
        4, "layer2", [(2, 2, True)], reads={"in": "x"}, writes={"out": "x", "scores": "scores"}
    ),
    "head": piece(5, "head", [], reads={"in": "x", "images": "images"}, writes={"boxes": "boxes"}),
}
"""`x` is set up to five times, `scores` once or twice; `images` is read at both ends."""


Function = Callable[..., dict[str, NDArray[np.generic]]]


COMPUTES: dict[str, Function] = {
    "stem": lambda images: {"out": images * 2, "side": images.mean((2, 3))},
    "one.full": lambda **given: {"out": given["in"] + 10},
    "one.skipped": lambda **given: {"out": given["in"] - 3},
    "two.full": lambda **given: {"out": given["in"] * given["also"][:, :, None, None]},
    "layer1": lambda **given: {"out": given["in"] + 1, "scores": given["in"].sum((2, 3))},
    "layer2": lambda **given: {"out": given["in"] * 0.5, "scores": given["in"].max((2, 3))},
    "head": lambda **given: {"boxes": given["in"] - given["images"]},
}


def by_hand(images: NDArray[np.float32], depth: Depth) -> dict[str, NDArray[np.generic]]:
    """What the chain computes, written down without pieces."""
    first, second, layers = depth.settings
    x = images * 2
    x = x + 10 if first == 0 else x - 3
    if second == 0:
        x = x * images.mean((2, 3))[:, :, None, None]
    scores, x = x.sum((2, 3)), x + 1
    if layers == 2:
        scores, x = x.max((2, 3)), x * 0.5
    return {"scores": scores, "boxes": x - images}


def pictures(batch: int, seed: int = 0) -> NDArray[np.float32]:
    """Random images [batch, 3, SIDE, SIDE]."""
    return np.random.default_rng(seed).random((batch, 3, SIDE, SIDE), np.float32)


def _graphs() -> dict[str, onnx.ModelProto]:
    """The same computations as ONNX graphs."""
    node, made = helper.make_node, {}
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])

    def scalar(name: str, value: float) -> TensorProto:
        return helper.make_tensor(name, TensorProto.FLOAT, [], [value])

    bodies: dict[str, tuple[list[Any], list[Any]]] = {
        "stem": (
            [
                node("Mul", ["images", "two"], ["out"]),
                node("ReduceMean", ["images", "axes"], ["side"], keepdims=0),
            ],
            [scalar("two", 2), axes],
        ),
        "one.full": ([node("Add", ["in", "c"], ["out"])], [scalar("c", 10)]),
        "one.skipped": ([node("Sub", ["in", "c"], ["out"])], [scalar("c", 3)]),
        "two.full": (
            [
                node("Unsqueeze", ["also", "axes"], ["wide"]),
                node("Mul", ["in", "wide"], ["out"]),
            ],
            [axes],
        ),
        "layer1": (
            [
                node("Add", ["in", "c"], ["out"]),
                node("ReduceSum", ["in", "axes"], ["scores"], keepdims=0),
            ],
            [scalar("c", 1), axes],
        ),
        "layer2": (
            [
                node("Mul", ["in", "c"], ["out"]),
                node("ReduceMax", ["in", "axes"], ["scores"], keepdims=0),
            ],
            [scalar("c", 0.5), axes],
        ),
        "head": ([node("Sub", ["in", "images"], ["boxes"])], []),
    }
    flat = {"side", "also", "scores"}
    for name, (nodes, constants) in bodies.items():
        spec = PIECES[name]
        values = [
            [
                helper.make_tensor_value_info(
                    value,
                    TensorProto.FLOAT,
                    ["batch", 3] if value in flat else ["batch", 3, SIDE, SIDE],
                )
                for value in names
            ]
            for names in (spec.reads, spec.writes)
        ]
        graph = helper.make_graph(nodes, name, values[0], values[1], constants)
        made[name] = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
        )
    return made


GRAPHS = _graphs()


def assert_arrays(
    found: dict[str, NDArray[np.generic]], expected: dict[str, NDArray[np.generic]]
) -> None:
    """The same tensors within 1e-5, in the same types."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(np.float64(found[name]), np.float64(array), atol=1e-5)
