"""A gated graph cut into a chain of pieces, against the gated graph itself."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from conftest import random_images
from gated_networks import LAYOUTS, LOWERED, covering, exported, gated_file, lowered, odd
from int8 import Network, networks
from onnx_sessions import rounding_session, run
from trained_networks import FAMILIES

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.depth import Depth, DepthSpace, Gate
from anydepth_deploy.errors import ExportError
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.graph.passes.cut import PREPARES, CutPiece, cut
from anydepth_deploy.graph.passes.resolve import read_gates
from anydepth_deploy.manifest import PIECE_METADATA, RAW_METADATA, StagePiece
from anydepth_deploy.runtimes.onnxruntime.raw_outputs import appended_outputs

__all__ = ["exported", "networks"]  # fixtures

Flow = dict[str, np.ndarray]


class Chain:
    """Runs pieces as their specifications say; what it ran on the same images it runs once."""

    def __init__(
        self, pieces: list[CutPiece], open_session: Callable[[Any], ort.InferenceSession]
    ) -> None:
        self.links = [(piece.spec, open_session(piece.model)) for piece in pieces]
        self.known: dict[tuple[Any, ...], Flow] = {}

    def run(self, images: np.ndarray, depth: Depth, key: int) -> Flow:
        flow = {"images": images}
        path: tuple[Any, ...] = (key,)
        for spec, opened in sorted(self.links, key=lambda link: link[0].order):
            if spec.runs(depth):
                path = (*path, spec.order, spec.variant)
                if path not in self.known:
                    given = {name: flow[tensor] for name, tensor in spec.reads.items()}
                    found = run(opened, **given)
                    self.known[path] = {tensor: found[name] for name, tensor in spec.writes.items()}
                flow = {**flow, **self.known[path]}
        return flow


def add_raw_outputs(proto: onnx.ModelProto) -> None:
    (entry,) = (item for item in proto.metadata_props if item.key == RAW_METADATA)
    present = {value.name for value in proto.graph.output}
    proto.MergeFromString(appended_outputs(json.loads(entry.value), present))


def with_raw(gated: ir.Model) -> ir.Model:
    """The gated graph with its raw outputs, as runtimes add them."""
    proto = ir.to_proto(gated)
    add_raw_outputs(proto)
    proto = onnx.shape_inference.infer_shapes(proto)
    return ir.from_proto(proto)


def compare_all(
    gated: ir.Model,
    pieces: list[CutPiece],
    model: AnyDepthModel,
    size: tuple[int, int],
    open_session: Callable[[Any], ort.InferenceSession],
    check: Callable[[str, Flow, Flow], None],
    rows: Sequence[int] | None = None,
) -> None:
    """All depths, or these; half of them with a batch of 1, half with 2."""
    chain, opened = Chain(pieces, open_session), open_session(with_raw(gated))
    batches = [random_images(batch, *size, seed=batch) for batch in (1, 2)]
    for index, row in enumerate(range(len(model.table.rows)) if rows is None else rows):
        depth = model.table.rows[row]
        which = odd(depth) if rows is None else index % 2
        images = batches[which]
        flow = chain.run(images, depth, which)
        expected = run(opened, images=images, depth=np.asarray(row))
        assert any(name.startswith("raw_") for name in expected)
        assert all(flow[name].dtype == array.dtype for name, array in expected.items())
        check(str(depth), {name: flow[name] for name in expected}, expected)
    ran = {path[-2:] for path in chain.known}
    assert ran == {(piece.spec.order, piece.spec.variant) for piece in pieces}


def check_exactly(what: str, found: Flow, expected: Flow) -> None:
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=f"{name} {what}")


def check_closely(what: str, found: Flow, expected: Flow) -> None:
    """Raw outputs within rounding; queries by their tokens, as rounding decides their order."""
    raw = {name: array for name, array in expected.items() if name.startswith("raw_")}
    if "raw_queries" in raw:
        places = [np.argsort(flow["raw_queries"], axis=1) for flow in (found, raw)]
        found, raw = (
            {
                name: np.stack(
                    [array[index] for array, index in zip(flow[name], order, strict=True)]
                )
                for name in raw
            }
            for flow, order in zip((found, raw), places, strict=True)
        )
        np.testing.assert_array_equal(found["raw_queries"], raw["raw_queries"], err_msg=what)
    for name, array in raw.items():
        message = f"{name} {what}"
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-3, err_msg=message)


@pytest.mark.parametrize("weights", LAYOUTS)
def test_fp32_chains_equal_the_gated_graph_at_every_depth(
    exported: tuple[Bundle, AnyDepthModel], weights: str
) -> None:
    """Folded exactly, for every node is computed by itself; where norms are folded on the way,
    within rounding."""
    bundle, model = exported
    gated = ir.load(gated_file(bundle, weights))
    before = ir.to_proto(gated).SerializeToString(deterministic=True)
    pieces = cut(gated, model.space)
    assert ir.to_proto(gated).SerializeToString(deterministic=True) == before

    check = check_exactly if weights == "folded" else check_closely
    compare_all(gated, pieces, model, (160, 160), rounding_session, check)


@pytest.mark.parametrize(("precision", "target"), LOWERED)
@pytest.mark.parametrize("family", FAMILIES)
def test_lower_precisions_equal_the_gated_graph(
    networks: dict[str, Network], family: str, precision: str, target: str
) -> None:
    """Each piece behind each variant of any stage before it."""
    network = networks[family]
    gated = lowered(network, precision, target, "shared")
    pieces = cut(gated, network.model.space)
    check_structure(pieces, network.model)
    rows, size = covering(network.model.table), network.pieces.size
    compare_all(gated, pieces, network.model, size, rounding_session, check_exactly, rows)


def check_structure(pieces: list[CutPiece], model: AnyDepthModel) -> None:
    """What holds of every chain."""
    specs = [piece.spec for piece in pieces]
    assert {spec.total for spec in specs} == {len(specs)}
    assert [spec.order for spec in specs] == sorted(spec.order for spec in specs)
    assert {spec.order for spec in specs} == set(range(max(spec.order for spec in specs) + 1))
    assert len({(spec.stage, spec.variant) for spec in specs}) == len(specs)
    variants = {
        (stage.name, variant)
        for stage in model.stages((160, 160))
        if stage.gates
        for variant in stage.variants
    }
    assert {(spec.stage, spec.variant) for spec in specs if spec.when} == variants
    dtypes: dict[str, set[str]] = collections.defaultdict(set)
    for piece in pieces:
        graph, spec = piece.model.graph, piece.spec
        proto = ir.to_proto(piece.model)
        onnx.checker.check_model(proto, full_check=True)
        assert not any(node.op_type == "If" for node in graph)
        assert [value.name for value in graph.inputs] == list(spec.reads)
        assert [value.name for value in graph.outputs] == list(spec.writes)
        names = [*spec.reads, *spec.writes, *graph.initializers]
        assert len(set(names)) == len(names)
        assert all(value.uses() for value in graph.inputs)
        for value, tensor in (
            *zip(graph.inputs, spec.reads.values(), strict=True),
            *zip(graph.outputs, spec.writes.values(), strict=True),
        ):
            dtypes[tensor].add(str(value.dtype))
            assert value.shape is not None
            assert str(value.shape[0]) == "N"
            assert all(isinstance(side, int) for side in value.shape[1:])
        assert not {node.op_type for node in graph} <= PREPARES
        assert StagePiece.model_validate_json(piece.model.metadata_props[PIECE_METADATA]) == spec
    assert all(len(found) == 1 for found in dtypes.values()), dtypes
    for depth in model.table.rows:
        running = [spec for spec in specs if spec.runs(depth)]
        assert len({spec.order for spec in running}) == len(running), depth
        present = {"images"}
        for spec in running:
            assert present.issuperset(spec.reads.values()), (depth, spec.stage)
            present.update(spec.writes.values())
        public = {"labels", "boxes", "scores", *(f"raw_{name}" for name in model.raw_outputs)}
        assert public <= present, depth


@pytest.mark.parametrize("weights", LAYOUTS)
def test_chains_are_complete_and_no_larger(
    exported: tuple[Bundle, AnyDepthModel], weights: str, tmp_path: Path
) -> None:
    bundle, model = exported
    pieces = cut(ir.load(gated_file(bundle, weights)), model.space)
    check_structure(pieces, model)
    size = 0
    for piece in pieces:
        ir.save(piece.model, tmp_path / "piece.onnx", format="protobuf")
        size += (tmp_path / "piece.onnx").stat().st_size
        assert not any(node.op_type == "BatchNormalization" for node in piece.model.graph)
    assert size < 1.02 * gated_file(bundle, "folded").stat().st_size


def test_pieces_of_a_detr(bundle: Bundle) -> None:
    """The layers of the decoder write the same tensors; what they skip stays."""
    specs = [piece.spec for piece in cut(ir.load(gated_file(bundle, "shared")), bundle.table.space)]
    stages = ["layer1", "layer2", "layer3", "layer4", "encoder"]
    expected = [("stem", "full")]
    expected += [(stage, variant) for stage in stages for variant in ("full", "skipped")]
    expected += [("queries", "full"), ("decoder2", "full"), ("decoder3", "full")]
    expected += [("postprocess", "full")]
    assert [(spec.stage, spec.variant) for spec in specs] == expected
    second, third = specs[-3], specs[-2]
    assert set(second.writes.values()) == set(third.writes.values())
    assert [(each.gate, each.layer, each.runs) for each in third.when] == [(5, 3, True)]
    assert set(third.writes.values()) <= set(specs[-4].writes.values())


def test_pieces_of_a_yolo(yolo_bundle: Bundle) -> None:
    specs = [
        piece.spec
        for piece in cut(ir.load(gated_file(yolo_bundle, "shared")), yolo_bundle.table.space)
    ]
    entry = [spec for spec in specs if spec.stage == "entry"]
    found = {spec.variant: [condition.runs for condition in spec.when] for spec in entry}
    assert found == {
        "full-full": [True, True],
        "full-skipped": [True, False],
        "skipped-full": [False, True],
        "skipped-skipped": [False, False],
    }
    assert (specs[-1].stage, specs[-1].when) == ("head", [])
    assert specs[-1].writes.keys() == {"labels", "boxes", "scores", "raw_predictions"}


def test_only_the_last_piece_has_raw_outputs(exported: tuple[Bundle, AnyDepthModel]) -> None:
    """There the tensors have their final values, whatever ran; it needs no addition."""
    bundle, model = exported
    *others, last = cut(ir.load(gated_file(bundle, "folded")), model.space)
    assert not any(RAW_METADATA in piece.model.metadata_props for piece in others)
    assert json.loads(last.model.metadata_props[RAW_METADATA]).keys() == model.raw_outputs.keys()
    proto = ir.to_proto(last.model)
    before = proto.SerializeToString(deterministic=True)
    add_raw_outputs(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_graphs_that_do_not_belong_are_refused(bundle: Bundle, yolo_bundle: Bundle) -> None:
    space = bundle.table.space
    with pytest.raises(ExportError, match="another network"):
        cut(ir.load(gated_file(bundle, "shared")), yolo_bundle.table.space)
    with pytest.raises(ExportError, match="no depth table"):
        cut(ir.load(bundle.file(bundle.artifacts("set")[0])), space)
    renamed = tuple(Gate(f"{gate.name}x", gate.group, gate.layers) for gate in space.gates)
    with pytest.raises(ExportError, match=r"does not set the gate 'backbone\.layer1'"):
        cut(ir.load(gated_file(bundle, "shared")), DepthSpace(renamed, space.base_settings))
    gated = ir.load(gated_file(bundle, "shared"))
    table = read_gates(gated).runs.astype(np.int64)
    table[7, 3] ^= 1
    gated.graph.initializers["gates/table"].const_value = ir.tensor(table, name="gates/table")
    with pytest.raises(ExportError, match=r"does not set the gate 'backbone\.layer4'"):
        cut(gated, space)


def test_overwritten_tensors_are_refused(bundle: Bundle) -> None:
    """A layer that reads what the layer before it has replaced in the flow."""
    gated = ir.load(gated_file(bundle, "folded"))
    values = {value.name: value for node in gated.graph for value in node.outputs}
    (third,) = (node for node in gated.graph if node.name == "decoder3/If")
    for node in third.attributes["then_branch"].as_graph():
        for index, value in enumerate(node.inputs):
            if value is values["decoder2/boxes"]:
                node.replace_input_with(index, values["decoder1.full/boxes"])
    with pytest.raises(ExportError, match=r"'decoder1\.full/boxes' is read by 'decoder3' after"):
        cut(gated, bundle.table.space)


def test_a_tensor_of_two_types_is_refused(bundle: Bundle) -> None:
    gated = ir.load(gated_file(bundle, "folded"))
    (node,) = (node for node in gated.graph if node.name == "layer2/If")
    branch = node.attributes["then_branch"].as_graph()
    branch.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    with pytest.raises(ExportError, match="tensor that crosses pieces"):
        cut(gated, bundle.table.space)
