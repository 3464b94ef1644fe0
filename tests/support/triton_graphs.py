"""Bundles whose graphs say in their answers who computed them and from what, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import triton_bundle
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from anydepth_deploy.bundle.bundle import Bundle

SIDE, PLACES = triton_bundle.SIDE, triton_bundle.PLACES
GATED = 100
"""Added to the labels of the gated graph."""

SHARES = np.linspace(1, 0.2, PLACES, dtype=np.float32)
CORNERS = np.array([1, 2, 8, 16], np.float32)


MATRIX = 256
"""Sides of what is multiplied where graphs are to take time."""


def graph(row: int | None, work: Sequence[int] | None = None) -> bytes:
    """The static graph of ``row``, or the gated graph: labels tell the row, scores and boxes the
    largest pixel of each image, which does not depend on what else is in a batch. ``work``: how
    many matrices are multiplied on the way, by row; it changes no result."""
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])]
    nodes = []
    constants: dict[str, NDArray[Any]] = {
        "shares": SHARES,
        "corners": CORNERS,
        "axes": np.array([1, 2, 3], np.int64),
        "last": np.array([2], np.int64),
        "column": np.array([-1, 1], np.int64),
    }
    if row is None:
        inputs.append(helper.make_tensor_value_info("depth", TensorProto.INT64, []))
        constants["hundred"] = np.array(GATED, np.int64)
        nodes.append(helper.make_node("Add", ["depth", "hundred"], ["label"]))
    else:
        constants["label"] = np.array(row, np.int64)
    nodes.append(helper.make_node("ReduceMax", ["images", "axes"], ["largest"], keepdims=0))
    if work is not None:
        constants["trips"] = np.array(work if row is None else work[row], np.int64)
        nodes += _working(constants, "depth" if row is None else None)
    nodes += [
        helper.make_node(
            "Reshape", ["largest" if work is None else "worked for", "column"], ["each"]
        ),
        helper.make_node("Mul", ["each", "shares"], ["scores"]),
        helper.make_node("Unsqueeze", ["scores", "last"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "corners"], ["boxes"]),
        helper.make_node("Shape", ["scores"], ["shape"]),
        helper.make_node("Expand", ["label", "shape"], ["labels"]),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.INT64, ["N", PLACES]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", PLACES, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", PLACES]),
    ]
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "telling", inputs, outputs, held),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def _working(constants: dict[str, NDArray[Any]], depth: str | None) -> list[Any]:
    """Nodes that make ``worked for`` of ``largest``, the same numbers: as often as ``trips`` says,
    at ``depth``, a mean is taken of what is the same everywhere."""
    constants |= {
        "mean": np.full((MATRIX, MATRIX), 1 / MATRIX, np.float32),
        "sides": np.array([MATRIX, MATRIX], np.int64),
        "nothing": np.zeros((), np.float32),
    }
    value = helper.make_tensor_value_info
    square = [MATRIX, MATRIX]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("MatMul", ["before", "mean"], ["after"]),
        ],
        "body",
        [
            value("trip", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("before", TensorProto.FLOAT, square),
        ],
        [value("goes", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, square)],
    )
    count = "trips" if depth is None else "own trips"
    gathered = [helper.make_node("Gather", ["trips", str(depth)], [count])] if depth else []
    return [
        *gathered,
        helper.make_node("ReduceMax", ["largest"], ["peak"], keepdims=0),
        helper.make_node("Expand", ["peak", "sides"], ["start"]),
        helper.make_node("Loop", [count, "", "start"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "nothing"], ["zero"]),
        helper.make_node("Add", ["largest", "zero"], ["worked for"]),
    ]


def answer(images: NDArray[np.float32], label: int) -> dict[str, NDArray[np.generic]]:
    """What the graphs compute."""
    scores = images.max((1, 2, 3))[:, None] * SHARES
    return {
        "labels": np.full(scores.shape, label, np.int64),
        "boxes": scores[..., None] * CORNERS,
        "scores": scores,
    }


def bundle(
    path: Path,
    layouts: Sequence[str] = ("gated", "set"),
    work: Sequence[int] | None = None,
    **changes: Any,
) -> Bundle:
    """A gated graph and the static graphs of the ladder; ``changes`` to the manifest."""
    made: list[tuple[str, bytes, dict[str, Any]]] = []
    if "gated" in layouts:
        made.append(("gated-fp32-shared", graph(None, work), {}))
    if "set" in layouts:
        for row, depth in enumerate(handmade.LADDER):
            what = {"layout": "set", "depth": depth, "row": row, "level": row}
            made.append((f"static-{row}", graph(row, work), what))
    return triton_bundle.bundle_of(path, made, **changes)


def raw_bundle(path: Path, anchors: int) -> Bundle:
    """A gated graph that gives so many predictions for each image, all of which survive the
    threshold and overlap with none, for the router to suppress."""
    rows, classes = 4, 3
    predictions = np.ones((1, rows + classes, anchors), np.float32)
    predictions[0, :2] = 4 * np.arange(anchors)
    constants = {
        "predictions": predictions,
        "first": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "rest": np.array([1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "one"], ["count"]),
        helper.make_node("Concat", ["count", "rest"], ["wanted"], axis=0),
        helper.make_node("Expand", ["predictions", "wanted"], ["raw_predictions"]),
    ]
    value = helper.make_tensor_value_info
    inputs = [
        value("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE]),
        value("depth", TensorProto.INT64, []),
    ]
    outputs = [value("raw_predictions", TensorProto.FLOAT, ["N", rows + classes, anchors])]
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "raw", inputs, outputs, held),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    made = [("gated-fp32-shared", bytes(model.SerializeToString()), {"raw": True})]
    host = {"suppression": triton_bundle.HOST, "raw_outputs": {"predictions": "p"}}
    return triton_bundle.bundle_of(path, made, **host)


def engines(path: Path) -> Bundle:
    """Engines for the rungs of the ladder, as the stand-in for TensorRT takes them: graphs."""
    made = [
        (
            f"static-{row}",
            graph(row),
            {**triton_bundle.engine(depth, row), "layout": "set", "level": row},
        )
        for row, depth in enumerate(handmade.LADDER)
    ]
    return triton_bundle.bundle_of(path, made)
