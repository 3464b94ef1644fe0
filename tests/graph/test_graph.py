"""The exported graphs: parity at every depth, refusal of bad rows, names and weight placement."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from comparisons import assert_equal_by_token
from conftest import random_detr, random_images
from onnx_graphs import assert_names_are_unique, graphs_of, onnx_file
from onnx_sessions import quiet_session
from oracle_detr import run_oracle

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.graph.assemble import assemble_gated, assemble_static
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.graph.torch_exporter import quiet


@pytest.mark.parametrize("weights", ["shared", "folded"])
def test_every_depth_equals_the_oracle(bundle: Bundle, model: AnyDepthDETR, weights: str) -> None:
    """All 96 depths of the gated graph, batch sizes 1 and 3, against the plain function."""
    session = bundle.session(artifact="gated", weights=weights, raw=True, threads=1)
    for (row, depth), batch in itertools.product(enumerate(bundle.table.rows), (1, 3)):
        images = random_images(batch, 160, 160, seed=row)
        found = session.run_raw(images, row)
        expected = run_oracle(model, torch.from_numpy(images), depth.settings)
        assert_equal_by_token(found, expected, str(depth))


def test_static_graphs_equal_the_oracle(bundle: Bundle, model: AnyDepthDETR) -> None:
    session = bundle.session(artifact="set", raw=True, threads=1)
    assert session.depths == bundle.table.ladder
    images = random_images(3, 160, 160)
    for depth in session.depths:
        found = session.run_raw(images, depth)
        expected = run_oracle(model, torch.from_numpy(images), depth.settings)
        assert_equal_by_token(found, expected, str(depth))


@pytest.fixture(scope="module")
def wide_pieces(model: AnyDepthDETR) -> Pieces:
    """Pieces for inputs that are not square."""
    return export_pieces(model, (96, 192))


def test_other_sizes_equal_the_oracle(
    wide_pieces: Pieces, model: AnyDepthDETR, tmp_path: Path
) -> None:
    gated = tmp_path / "gated.onnx"
    ir.save(assemble_gated(wide_pieces, model.table, "shared", raw=True), gated)
    onnx.checker.check_model(str(gated), full_check=True)
    session = quiet_session(gated)
    images = random_images(2, 96, 192)
    names = [value.name for value in session.get_outputs()]
    for text in ("super", "base", "FTTF-F-2", "TFFT-T-1"):
        row = model.table.row(text)
        values = session.run(None, {"images": images, "depth": np.asarray(row)})
        found = dict(zip(names, values, strict=True))
        expected = run_oracle(model, torch.from_numpy(images), model.table.rows[row].settings)
        assert_equal_by_token(found, expected, text)


def test_r50_equals_the_oracle(tmp_path: Path) -> None:
    """The published size: gated, both weight layouts, small non-square pictures."""
    model = random_detr("r50")
    pieces = export_pieces(model, (128, 160))
    images = random_images(2, 128, 160)
    depths = ("super", "base", "FFTF-F-5", "TFFT-T-1")
    expected = {
        text: run_oracle(model, torch.from_numpy(images), model.table.find(text).settings)
        for text in depths
    }
    for weights in ("shared", "folded"):
        path = tmp_path / f"{weights}.onnx"
        ir.save(assemble_gated(pieces, model.table, weights, raw=True), path)
        session = quiet_session(path)
        names = [value.name for value in session.get_outputs()]
        for text in depths:
            feeds = {"images": images, "depth": np.asarray(model.table.row(text))}
            found = dict(zip(names, session.run(None, feeds), strict=True))
            assert_equal_by_token(found, expected[text], text)


def test_torch_cond_agrees(bundle: Bundle, model: AnyDepthDETR) -> None:
    """A second way to one graph for two depths: torch.cond, exported by torch alone."""

    class Conditional(torch.nn.Module):
        """Layer 3 of the backbone behind torch.cond; the rest at super."""

        def __init__(self) -> None:
            super().__init__()
            self.stages = model.stages((160, 160))
            self.holder = torch.nn.ModuleList([s.variants["full"] for s in self.stages])
            layer3 = next(s for s in self.stages if s.name == "layer3")
            self.full, self.skipped = layer3.variants["full"], layer3.variants["skipped"]

        def forward(self, images: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
            flow = {"images": images}
            for stage in self.stages:
                inputs = [flow[name] for name in stage.inputs]
                if stage.name == "layer3":
                    found = torch.cond(
                        skip,
                        lambda x: self.skipped(x).clone(),
                        lambda x: self.full(x).clone(),
                        (inputs[0],),
                    )
                else:
                    found = stage.variants["full"](*inputs)
                outputs = (found,) if isinstance(found, torch.Tensor) else found
                flow.update(zip(stage.outputs, outputs, strict=True))
            return flow["logits"].sort(1).values

    images = random_images(1, 160, 160)
    with quiet(), torch.no_grad():
        program = torch.export.export(
            Conditional().eval(), (torch.from_numpy(images), torch.tensor(True))
        )
        exported = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    assert exported is not None
    proto = exported.model_proto
    assert any(node.op_type == "If" for node in proto.graph.node)
    oracle = quiet_session(proto.SerializeToString())
    names = [value.name for value in oracle.get_inputs()]
    session = bundle.session(artifact="gated", weights="shared", raw=True)
    for skip, depth in ((False, "FFFF-F-3"), (True, "FFTF-F-3")):
        expected = oracle.run(None, dict(zip(names, (images, np.asarray(skip)), strict=True)))[0]
        found = np.sort(session.run_raw(images, depth)["logits"], axis=1)
        assert np.abs(found - expected).max() < 1e-4, depth


@pytest.mark.parametrize("weights", ["shared", "folded"])
@pytest.mark.parametrize("row", [-1, -96, 96, 97, 2**31, -(2**40)])
def test_rows_out_of_range_are_refused_by_the_graph(bundle: Bundle, weights: str, row: int) -> None:
    """Straight in ONNX Runtime, without our session's own check."""
    session = quiet_session(onnx_file(bundle, "gated", weights))
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(None, {"images": random_images(1, 160, 160), "depth": np.asarray(row)})


def test_interface_of_the_graphs(bundle: Bundle) -> None:
    session = quiet_session(onnx_file(bundle, "gated", "shared"))
    inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    assert inputs == {
        "images": ("tensor(float)", ["N", 3, 160, 160]),
        "depth": ("tensor(int64)", []),
    }
    static = quiet_session(onnx_file(bundle, "set"))
    assert [value.name for value in static.get_inputs()] == ["images"]
    for opened in (session, static):
        outputs = {value.name: (value.type, value.shape) for value in opened.get_outputs()}
        assert outputs == {
            "labels": ("tensor(int64)", ["N", 100]),
            "boxes": ("tensor(float)", ["N", 100, 4]),
            "scores": ("tensor(float)", ["N", 100]),
        }


def test_graphs_pass_the_checker(bundle: Bundle) -> None:
    for artifact in bundle.artifacts():
        onnx.checker.check_model(str(bundle.file(artifact)), full_check=True)


def test_names_are_unique_across_branches(bundle: Bundle) -> None:
    """TensorRT and tables of ranges by name need one meaning per name in the whole model."""
    for weights in ("shared", "folded"):
        assert_names_are_unique(onnx.load(str(onnx_file(bundle, "gated", weights))))


def test_tensors_of_static_graphs_are_named_as_in_the_gated_graph(bundle: Bundle) -> None:
    gated = onnx.load(str(onnx_file(bundle, "gated", "folded")))
    names = {
        name for graph in graphs_of(gated.graph) for node in graph.node for name in node.output
    }
    for artifact in bundle.artifacts("set"):
        static = onnx.load(str(bundle.file(artifact)))
        found = {name for node in static.graph.node for name in node.output}
        assert found <= names


def test_one_if_per_gate_and_none_nested(bundle: Bundle) -> None:
    for weights in ("shared", "folded"):
        model = onnx.load(str(onnx_file(bundle, "gated", weights)))
        ifs = [node for node in model.graph.node if node.op_type == "If"]
        # four backbone stages, the encoder, decoder layers 2 and 3
        assert len(ifs) == 7
        for node in ifs:
            for attribute in node.attribute:
                assert not any(inner.op_type == "If" for inner in attribute.g.node)
    static = onnx.load(str(onnx_file(bundle, "set")))
    assert not any(node.op_type == "If" for node in static.graph.node)


def test_folded_weights_are_local_to_their_branch(bundle: Bundle) -> None:
    """A convolution in a branch with an outer-scope weight misses ONNX Runtime's fast kernels."""
    model = onnx.load(str(onnx_file(bundle, "gated", "folded")))
    branches = 0
    for graph in graphs_of(model.graph):
        if graph is model.graph:
            continue
        branches += 1
        local = {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            assert node.op_type != "BatchNormalization"
            if node.op_type == "Conv":
                assert set(node.input[1:]) <= local, node.name
    assert branches == 14


def test_shared_weights_are_stored_once(bundle: Bundle) -> None:
    """No large constant twice; in branches, an outer weight is followed by its own norm."""
    model = onnx.load(str(onnx_file(bundle, "gated", "shared")))
    seen: dict[bytes, str] = {}
    for graph in graphs_of(model.graph):
        for tensor in graph.initializer:
            if len(tensor.raw_data) >= 4096:
                digest = hashlib.sha256(tensor.raw_data).digest() + bytes(str(tensor.dims), "ascii")
                assert digest not in seen, (tensor.name, seen.get(digest))
                seen[digest] = tensor.name
        if graph is model.graph:
            continue
        local = {tensor.name for tensor in graph.initializer}
        readers = {name: node for node in graph.node for name in node.input}
        for node in graph.node:
            if node.op_type == "Conv" and node.input[1] not in local:
                assert readers[node.output[0]].op_type == "BatchNormalization", node.name


def test_optimised_branches_use_the_fast_convolutions(bundle: Bundle, tmp_path: Path) -> None:
    """Read back what ONNX Runtime made of it: every convolution, in every branch, is NCHWc.

    Holds where the CPU has such kernels at all; the static graph tells.
    """

    def optimised(source: Path) -> collections.Counter[str]:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
        return collections.Counter(
            f"{node.domain}.{node.op_type}"
            for graph in graphs_of(model.graph)
            for node in graph.node
        )

    static = optimised(onnx_file(bundle, "set"))
    fast = static["com.microsoft.nchwc.Conv"]
    plain = static[".Conv"] + static["com.microsoft.FusedConv"]
    assert fast + plain
    for weights in ("shared", "folded"):
        found = optimised(onnx_file(bundle, "gated", weights))
        if fast and not plain:
            assert found[".Conv"] + found["com.microsoft.FusedConv"] == 0, weights
        assert found[".BatchNormalization"] == 0, weights


def test_graphs_explain_themselves(bundle: Bundle) -> None:
    model = onnx.load(str(onnx_file(bundle, "gated", "shared")))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    table = json.loads(metadata["anydepth.depths"])
    assert table == {
        "levels": bundle.table.levels,
        "rows": [str(depth) for depth in bundle.table.rows],
    }
    assert set(json.loads(metadata["anydepth.raw_outputs"])) == {"logits", "boxes", "queries"}
    for artifact in bundle.artifacts():
        props = onnx.load(bundle.file(artifact), load_external_data=False).metadata_props
        assert {entry.key: entry.value for entry in props}["anydepth.source"] == (
            bundle.manifest.source.sha256
        )
    # No stack traces: they can weigh more than the weights.
    assert not any(node.metadata_props for graph in graphs_of(model.graph) for node in graph.node)


def test_file_sizes(bundle: Bundle) -> None:
    """The tiny network has proportionally more small constants than R50 (see benchmarks/)."""
    full = max(item.bytes for item in bundle.artifacts("set"))
    shared, folded = (
        bundle.artifacts("gated", weights=kind)[0].bytes for kind in ("shared", "folded")
    )
    assert shared < 1.06 * full
    assert folded < 1.6 * full


def test_pieces_do_not_grow_with_depths(wide_pieces: Pieces, model: AnyDepthDETR) -> None:
    """One piece per variant of a stage: the count of depths does not enter."""
    names = [piece.prefix for piece in wide_pieces.pieces]
    assert len(names) == len(set(names)) == 16
    assert len(model.space.every) == 96


def test_static_graph_holds_only_what_its_depth_needs(
    wide_pieces: Pieces, model: AnyDepthDETR
) -> None:
    short = assemble_static(wide_pieces, model.space.parse("TTTT-T-2"))
    text = {node.name or "" for node in short.graph}
    assert not any(name.startswith(("layer1.full", "encoder.full", "decoder3")) for name in text)
    # Heads of layers before the exit are dead code in a static graph.
    heads = [name for name in short.graph.initializers if "dec_score_head" in name]
    assert heads
    assert all(name.startswith("decoder2.full/") for name in heads)


def test_the_stages_own_models_state_is_untouched(model: AnyDepthDETR) -> None:
    """Exporting must not register stage views as parameters under second names."""
    keys = list(model.state_dict())
    model.stages((160, 160))
    assert list(model.state_dict()) == keys
