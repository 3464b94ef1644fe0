"""One depth taken out of a finished gated graph, against the static graph that export writes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from comparisons import assert_equal_by_token
from conftest import random_images
from gated_networks import LAYOUTS, LOWERED, exported, gated_file, lowered
from int8 import Network, networks
from onnx_graphs import add_raw_outputs, assert_names_are_unique
from onnx_sessions import quiet_session, rounding_session, run
from trained_networks import FAMILIES

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import ExportError
from anydepth_deploy.exporting.lower import Recipe, lower
from anydepth_deploy.families.registry import tolerances
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.graph.passes.fold import constant
from anydepth_deploy.graph.passes.resolve import resolve
from anydepth_deploy.manifest import TABLE_METADATA

__all__ = ["exported", "networks"]  # fixtures


def assert_same_graph(found: ir.Model, expected: ir.Model, ulps: int) -> None:
    """Node by node: two graphs alike here compute the same. Constants may be apart by `ulps`."""

    def structure(model: ir.Model) -> list[tuple[Any, ...]]:
        return [
            (
                node.name,
                node.op_type,
                sorted((item.name, str(item.value)) for item in node.attributes.values()),
                [
                    value.name if value is not None and value.const_value is None else None
                    for value in node.inputs
                ],
                [(value.name, value.dtype, str(value.shape)) for value in node.outputs],
            )
            for node in model.graph
        ]

    def constants(model: ir.Model) -> list[np.ndarray]:
        return [
            value.const_value.numpy()
            for node in model.graph
            for value in node.inputs
            if value is not None and value.const_value is not None
        ]

    assert structure(found) == structure(expected)
    for one, other in zip(constants(found), constants(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if ulps and one.dtype == np.float32:
            np.testing.assert_array_max_ulp(one, other, ulps)
        else:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("weights", LAYOUTS)
def test_fp32_is_the_static_graph_of_every_rung(
    exported: tuple[Bundle, AnyDepthModel], weights: str, tmp_path: Path
) -> None:
    """Node by node, at every rung; and the file is as large.

    The epsilon of a norm, a double at export, is a float in the file of the shared graph: what is
    folded later may differ in the last bits.
    """
    bundle, _ = exported
    gated = ir.load(gated_file(bundle, weights))
    before = ir.to_proto(gated).SerializeToString(deterministic=True)
    statics = bundle.artifacts("set", "fp32")
    assert len(statics) == bundle.table.levels
    for artifact in statics:
        assert artifact.row is not None
        found, expected = resolve(gated, artifact.row), ir.load(bundle.file(artifact))
        assert_same_graph(found, expected, ulps=4 if weights == "shared" else 0)
        assert found.metadata_props == expected.metadata_props
        assert [v.name for v in found.graph.inputs] == ["images"]
        assert [v.name for v in found.graph.outputs] == [v.name for v in expected.graph.outputs]
        assert found.graph.opset_imports == expected.graph.opset_imports
        assert found.graph.name == expected.graph.name
        ir.save(found, tmp_path / "found.onnx", format="protobuf")
        assert (tmp_path / "found.onnx").stat().st_size == pytest.approx(artifact.bytes, rel=2e-3)
    assert ir.to_proto(gated).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("weights", LAYOUTS)
def test_fp32_equals_torch_off_the_ladder(
    exported: tuple[Bundle, AnyDepthModel], weights: str
) -> None:
    bundle, model = exported
    gated = ir.load(gated_file(bundle, weights))
    rows = np.linspace(bundle.table.levels, len(bundle.table.rows) - 1, 4).astype(int)
    for row in rows:
        proto = ir.to_proto(resolve(gated, int(row)))
        onnx.checker.check_model(proto, full_check=True)
        add_raw_outputs(proto)
        opened = quiet_session(proto.SerializeToString())
        for batch in (1, 3):
            images = random_images(batch, 160, 160, seed=int(row))
            found = run(opened, images=images)
            with torch.inference_mode():
                expected = model(torch.from_numpy(images), int(row))
            if "queries" in expected:
                assert_equal_by_token(found, expected, str(bundle.table.rows[row]))
            else:
                gap = np.abs(found["raw_predictions"] - expected["predictions"].numpy())
                assert gap[:, :4].max() < 1e-3
                assert gap[:, 4:].max() < 1e-5


@pytest.mark.parametrize(("precision", "target"), LOWERED)
@pytest.mark.parametrize("family", FAMILIES)
def test_lower_precisions_equal_the_gated_graph(
    networks: dict[str, Network], family: str, precision: str, target: str
) -> None:
    """Exactly, where every operator rounds as the graph says; on and off the ladder."""
    network = networks[family]
    table, (height, width) = network.model.table, network.pieces.size
    for weights in LAYOUTS if precision == "fp16" else LAYOUTS[:1]:
        gated = lowered(network, precision, target, weights)
        opened = rounding_session(gated)
        rows = (0, table.levels - 1, table.levels + 1, len(table.rows) - 2)
        tried = list(zip(rows, (1, 2, 2, 1), strict=True))
        if precision == "fp16":  # half of them in each layout
            tried = tried[LAYOUTS.index(weights) :: 2]
        for row, batch in tried:
            resolved = resolve(gated, row)
            proto = ir.to_proto(resolved)
            onnx.checker.check_model(proto, full_check=True)
            assert_names_are_unique(proto)
            alone = rounding_session(resolved)
            images = random_images(batch, height, width, seed=row)
            found = run(alone, images=images)
            expected = run(opened, images=images, depth=np.asarray(row))
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, err_msg=f"{name} {row}")


def by_convolution(model: ir.Model) -> dict[str | None, list[np.ndarray]]:
    """Weights and biases by the names of the nodes (casts stand elsewhere in a static graph)."""
    return {
        node.name: [array for value in node.inputs if (array := constant(value)) is not None]
        for node in model.graph
        if node.op_type == "Conv"
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_fp16_folded_has_the_weights_of_the_static_graph(
    networks: dict[str, Network], family: str
) -> None:
    network = networks[family]
    gated = lowered(network, "fp16", "onnxruntime", "folded")
    for depth in (network.rungs[0], network.rungs[-1]):
        recipe = Recipe(precision="fp16", depth=depth)
        expected = lower(network.pieces, network.model.table, recipe).model
        found = resolve(gated, network.model.table.row(depth))
        weights, others = by_convolution(found), by_convolution(expected)
        assert weights.keys() == others.keys()
        assert len(weights) > 30
        for name, arrays in weights.items():
            for one, other in zip(arrays, others[name], strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_int8_is_as_near_to_torch_as_parity_asks(
    networks: dict[str, Network], family: str, target: str
) -> None:
    """Its scales are those of all depths together, not those of the static graph."""
    network = networks[family]
    gated = network.lower("shared", target=target)[0].model  # type: ignore[arg-type]
    limits = tolerances(family, network.pieces.size, "int8").raw
    for depth in (network.rungs[0], network.rungs[-1]):
        found = run(
            rounding_session(resolve(gated, network.model.table.row(depth))), images=network.images
        )
        errors = network.errors(found, depth)
        assert errors.keys() <= limits.keys()
        assert all(error < limits[name] for name, error in errors.items()), errors


def test_norms_fold_in_fp32_only(yolo_bundle: Bundle, networks: dict[str, Network]) -> None:
    """An FP16 weight is rounded; its product with a norm would be rounded again."""

    def norms(model: ir.Model) -> int:
        return sum(node.op_type == "BatchNormalization" for node in model.graph)

    def cuts(model: ir.Model) -> int:
        return sum(
            node.op_type == "Slice"
            and node.inputs[0] is not None
            and node.inputs[0].is_initializer()
            for node in model.graph
        )

    assert norms(resolve(ir.load(gated_file(yolo_bundle, "shared")), 0)) == 0
    half = resolve(lowered(networks["anydepth-yolo"], "fp16", "onnxruntime", "shared"), 0)
    assert norms(half) > 50
    assert cuts(half) == 0


@pytest.mark.parametrize("row", [-1, 96, 2**40])
def test_unknown_rows_are_refused(bundle: Bundle, row: int) -> None:
    with pytest.raises(ExportError, match=rf"no depth row {row}: expected 0 to 95"):
        resolve(ir.load(gated_file(bundle, "shared")), row)


def test_other_graphs_are_refused(bundle: Bundle) -> None:
    static = ir.load(bundle.file(bundle.artifacts("set")[0]))
    with pytest.raises(ExportError, match="has no depth table"):
        resolve(static, 0)
    gated = ir.load(gated_file(bundle, "shared"))
    gated.metadata_props[TABLE_METADATA] = '{"rows": ["FFFF-F-3"]}'
    with pytest.raises(ExportError, match="does not go together"):
        resolve(gated, 0)
    gated.metadata_props[TABLE_METADATA] = "rows"
    with pytest.raises(ExportError, match="cannot be read"):
        resolve(gated, 0)
    gated = ir.load(gated_file(bundle, "shared"))
    del gated.metadata_props["anydepth.raw_outputs"]
    with pytest.raises(ExportError, match="raw outputs"):
        resolve(gated, 0)
    gated = ir.load(gated_file(bundle, "shared"))
    node = next(node for node in gated.graph if node.op_type == "If")
    node.replace_input_with(0, gated.graph.inputs[1])
    with pytest.raises(ExportError, match="asks for 'depth', which is no gate"):
        resolve(gated, 0)


def test_no_torch_is_needed() -> None:
    """Engines are built where there is none."""
    names = ("resolve", "cut", "flatten")
    code = "import sys\n" + "".join(
        itertools.chain(
            (f"import anydepth_deploy.graph.passes.{name}\n" for name in names),
            ["assert not {'torch', 'onnxscript', 'onnxruntime'} & set(sys.modules)\n"],
        )
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
