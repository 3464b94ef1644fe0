"""Nested Ifs turned into a chain of Ifs, against the nested ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import random_images
from gated_networks import LAYOUTS, LOWERED, covering, gated_file, lowered, odd
from int8 import Network, networks
from onnx_graphs import assert_names_are_unique, graphs_of
from onnx_sessions import quiet_session, rounding_session, run

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import ExportError
from anydepth_deploy.graph.passes.flatten import flatten

__all__ = ["networks"]  # a fixture


def check_flat(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)
    assert_names_are_unique(proto)
    main, *branches = graphs_of(proto.graph)
    assert any(node.op_type == "If" for node in main.node)
    assert not any(node.op_type == "If" for graph in branches for node in graph.node)


@pytest.mark.parametrize("weights", LAYOUTS)
def test_fp32_is_exact_at_every_depth(yolo_bundle: Bundle, weights: str) -> None:
    path = gated_file(yolo_bundle, weights)
    model = ir.load(path)
    assert flatten(model) == 1
    proto = ir.to_proto(model)
    check_flat(proto)
    flat, nested = rounding_session(proto), rounding_session(ir.load(path))
    assert [v.name for v in flat.get_outputs()] == [v.name for v in nested.get_outputs()]
    batches = [random_images(batch, 160, 160) for batch in (1, 3)]
    for row, depth in enumerate(yolo_bundle.table.rows):
        feeds = {"images": batches[odd(depth)], "depth": np.asarray(row)}
        found, expected = run(flat, **feeds), run(nested, **feeds)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{name} {row}")


@pytest.mark.parametrize(("precision", "target"), LOWERED)
def test_lower_precisions_are_exact(
    networks: dict[str, Network], precision: str, target: str
) -> None:
    """At each setting of the two gates with each of any other."""
    network = networks["anydepth-yolo"]
    table = network.model.table
    model = lowered(network, precision, target, "shared")
    nested = rounding_session(model)
    assert flatten(model) == 1
    check_flat(ir.to_proto(model))
    flat = rounding_session(model)
    for index, row in enumerate(covering(table)):
        images = random_images(1 + index % 2, *network.pieces.size, seed=row)
        feeds = {"images": images, "depth": np.asarray(row)}
        found, expected = run(flat, **feeds), run(nested, **feeds)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{name} {row}")


def test_names_and_constants_stay(yolo_bundle: Bundle) -> None:
    def names(model: ir.Model) -> set[str | None]:
        graphs = [model.graph, *model.graph.subgraphs()]
        values = {value.name for graph in graphs for node in graph for value in node.outputs}
        return values | {name for graph in graphs for name in graph.initializers}

    model = ir.load(gated_file(yolo_bundle, "folded"))
    before, metadata = names(model), dict(model.metadata_props)
    flatten(model)
    # the outputs of the inner Ifs are gone with them
    assert before - names(model) == {"entry.full/layer4", "entry.skipped/layer4"}
    assert model.metadata_props == metadata
    assert flatten(model) == 0


def test_flat_graphs_stay_as_they_are(bundle: Bundle) -> None:
    model = ir.load(gated_file(bundle, "shared"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert flatten(model) == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


NESTED = """
<ir_version: 8, opset_import: ["" : 18]>
nest (float[N, 2] x, bool a, bool b, bool c) => (float[N, 2] y, int64[N, 3] z) {
  y, z = If (a) <
    then_branch = first () => (float[N, 2] y1, int64[N, 3] z1) {
      y1, z1 = If (b) <
        then_branch = second () => (float[N, 2] y2, int64[N, 3] z2) {
          y2, z2 = If (c) <
            then_branch = one () => (float[N, 2] y3, int64[N, 3] z3)
              <float[1] k3 = {1}, int64[1, 3] l3 = {1, 2, 3}> { MIDDLE3 },
            else_branch = two () => (float[N, 2] y4, int64[N, 3] z4)
              <float[1] k4 = {2}, int64[1, 3] l4 = {4, 5, 6}> { MIDDLE4 }
          >
        },
        else_branch = three () => (float[N, 2] y5, int64[N, 3] z5)
          <float[1] k5 = {3}, int64[1, 3] l5 = {7, 8, 9}> { MIDDLE5 }
      >
    },
    else_branch = four () => (float[N, 2] y6, int64[N, 3] z6)
      <float[1] k6 = {4}, int64[1, 3] l6 = {10, 11, 12}> { MIDDLE6 }
  >
}
"""


def nested_by_hand() -> ir.Model:
    """Three gates, four leaves at three heights, two outputs of different types."""
    text = NESTED
    for key in "3456":
        leaf = (
            f"y{key} = Mul(x, k{key}) q{key} = ReduceSum<keepdims = 1>(x, e{key}) "
            f"r{key} = Cast<to = 7>(q{key}) zero{key} = Sub(r{key}, r{key}) "
            f"z{key} = Add(zero{key}, l{key})"
        )
        text = text.replace(f"MIDDLE{key}", leaf).replace(
            f"int64[1, 3] l{key}", f"int64[1] e{key} = {{1}}, int64[1, 3] l{key}"
        )
    model = ir.from_onnx_text(text)
    for index, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph)):
        node.name = f"{node.op_type}_{index}"
    return model


def test_deeper_nests_with_several_outputs() -> None:
    model = nested_by_hand()
    assert flatten(model) == 1
    proto = ir.to_proto(model)
    check_flat(proto)
    flat = quiet_session(proto.SerializeToString())
    x = np.asarray([[1, 2], [3, -4], [5, 6]], np.float32)
    for number in range(8):
        a, b, c = (bool(number >> bit & 1) for bit in range(3))
        factor = 4 if not a else 3 if not b else 2 if not c else 1
        for images in (x, x[:1]):
            found = run(flat, x=images, a=np.asarray(a), b=np.asarray(b), c=np.asarray(c))
            np.testing.assert_array_equal(found["y"], images * factor)
            row = np.arange(3) + 3 * factor - 2
            np.testing.assert_array_equal(found["z"], np.tile(row, (len(images), 1)))


def test_what_cannot_be_flattened_is_refused(tmp_path: Path) -> None:
    model = nested_by_hand()
    (node,) = model.graph
    inner = node.attributes["then_branch"].as_graph()
    extra = ir.Node("", "Identity", [model.graph.inputs[0]], name="extra")
    extra.outputs[0].name = "extra"
    inner.insert_before(inner[0], extra)
    with pytest.raises(ExportError, match="holds an If and 1 more nodes"):
        flatten(model)
    model = nested_by_hand()
    (node,) = model.graph
    node.outputs[0].shape = ir.Shape(["N", "M"])
    with pytest.raises(ExportError, match="expected the batch N and fixed sizes"):
        flatten(model)
