"""A network of one depth from the checkpoint to detections, in every layout.

The oracles are torch, and the static graph of the same network. A graph that holds all depths has
both inputs here, too, and refuses every row but the only one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from comparisons import assert_close, assert_equal
from conftest import random_images
from onnx.reference import ReferenceEvaluator
from trained_networks import one_depth_bundle, without_any_depth

from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.run import run_bench
from anydepth_deploy.bench.workloads.bundle import BundleWorkload
from anydepth_deploy.bench.workloads.pictures import load_batches
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.choose import Choice
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.calibration.report import draw_report, join_rows, report_rows
from anydepth_deploy.calibration.table import read_table
from anydepth_deploy.depth import DepthSpace, DepthTable, Gate
from anydepth_deploy.describe import describe_bundle, show
from anydepth_deploy.errors import DepthError, ExportError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.yolo.config import ONE_DEPTH_CONFIGS
from anydepth_deploy.families.yolo.model import YOLOv12
from anydepth_deploy.graph.assemble import assemble_gated
from anydepth_deploy.graph.passes.cut import cut
from anydepth_deploy.graph.passes.resolve import resolve
from anydepth_deploy.graph.pieces import export_pieces
from anydepth_deploy.manifest import TABLE_METADATA
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.suppression import Suppression
from anydepth_deploy.verifying.graphs import verify

SIZE = (96, 160)
LAYOUTS = ("gated", "set", "stages")
FULL = DepthSpace((), ())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_any_depth(tmp_path_factory.mktemp("plain") / "plain.pth")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A trained network in all layouts, FP32 and FP16, for inputs that are not square."""
    return one_depth_bundle(tmp_path_factory, SIZE, precision=["fp32", "fp16"])


def graph_of(bundle: Bundle, layout: str) -> Path:
    (artifact,) = bundle.artifacts(layout, "fp32")
    return bundle.file(artifact)


def nodes(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from nodes(attribute.g)


# --- what is made ----------------------------------------------------------------------------


def test_the_manifest(plain: Bundle) -> None:
    found = plain.manifest
    assert (found.family, found.config) == ("yolov12", "tiny")
    assert (found.gates, found.base, found.ladder) == ([], [], ["full"])
    (row,) = found.depths
    assert (row.index, row.depth, row.level) == (0, "full", 0)
    assert row.macs["total"] > 0
    names = {item.name for item in found.artifacts if item.precision == "fp32"}
    assert names == {"gated-fp32-shared", "static-fp32-full", "stages-fp32-entry.full"}


def test_a_graph_of_all_depths_has_no_ifs_and_both_inputs(plain: Bundle) -> None:
    path = graph_of(plain, "gated")
    model = onnx.load(path)
    assert "If" not in set(nodes(model.graph))
    given = [(value.name, len(value.type.tensor_type.shape.dim)) for value in model.graph.input]
    assert given == [("images", 4), ("depth", 0)]
    metadata = {item.key: item.value for item in model.metadata_props}
    assert json.loads(metadata[TABLE_METADATA]) == {"levels": 1, "rows": ["full"]}
    # The lookup of a row is all that the static graph lacks.
    assert path.stat().st_size < graph_of(plain, "set").stat().st_size + 2000


@pytest.mark.parametrize("where", ["graph", "host"])
def test_rows_that_do_not_exist_are_refused(
    where: Any, plain: Bundle, checkpoint: Path, tmp_path: Path
) -> None:
    """Whatever ONNX Runtime optimises away, and whatever the graph ends with."""
    bundle = plain
    if where == "host":
        rule = Suppression(where="host")
        bundle = export_bundle(checkpoint, tmp_path / "b", input_size=SIZE, suppression=rule)
    images = random_images(2, *SIZE)
    for level in onnxruntime.GraphOptimizationLevel.__members__.values():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = level, 4
        session = onnxruntime.InferenceSession(
            graph_of(bundle, "gated"), options, providers=["CPUExecutionProvider"]
        )
        for row in (1, -1, 10**9):
            with pytest.raises(Exception, match="gates/settings"):
                session.run(None, {"images": images, "depth": np.asarray(row, np.int64)})
        assert session.run(None, {"images": images, "depth": np.asarray(0, np.int64)})


def test_the_lookup_means_the_same_to_the_reference(plain: Bundle) -> None:
    """ONNX's own evaluator, of the lookup alone."""
    model = onnx.load(graph_of(plain, "gated"))
    lookup = [node for node in model.graph.node if node.output[0].startswith("gates/")]
    assert [node.op_type for node in lookup] == ["Less", "Where", "Gather"]
    kept = [item for item in model.graph.initializer if item.name.startswith("gates/")]
    out = onnx.helper.make_tensor_value_info("gates/settings", onnx.TensorProto.INT64, [1])
    graph = onnx.helper.make_graph(lookup, "lookup", [model.graph.input[1]], [out], kept)
    run: Any = ReferenceEvaluator(
        onnx.helper.make_model(graph, opset_imports=model.opset_import)
    ).run
    assert run(None, {"depth": np.asarray(0)})[0].tolist() == [1]
    for row in (1, -1):
        with pytest.raises(IndexError):
            run(None, {"depth": np.asarray(row)})


def test_a_static_graph_and_one_piece_are_in_it(plain: Bundle) -> None:
    model = ir.load(graph_of(plain, "gated"))
    static = resolve(model, 0)
    assert [value.name for value in static.graph.inputs] == ["images"]
    feeds = {"images": random_images(2, *SIZE)}
    expected = _run(ir.load(graph_of(plain, "set")), feeds)
    (piece,) = cut(model, FULL)
    assert (piece.spec.total, piece.spec.when) == (1, [])
    assert piece.spec.reads == {"images": "images"}
    for made in (static, piece.model):
        found = _run(made, feeds)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, name)
    with pytest.raises(ExportError, match="has no depth row 1: expected 0 to 0"):
        resolve(model, 1)


def _run(model: ir.Model, feeds: dict[str, Any]) -> dict[str, Any]:
    data = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_one_gate_of_one_layer() -> None:
    """The other network of one depth: its gate is there, and has one setting."""
    space = DepthSpace((Gate("decoder", 0, layers=1),), (1,))
    model = randomise(YOLOv12(ONE_DEPTH_CONFIGS["tiny"]))
    pieces = export_pieces(model, (64, 96))
    made = assemble_gated(pieces, DepthTable(space, (space.super,)))
    assert json.loads(made.metadata_props[TABLE_METADATA]) == {"levels": 1, "rows": ["L1"]}
    images = random_images(2, 64, 96)
    found = _run(made, {"images": images, "depth": np.asarray(0)})
    with torch.no_grad():
        expected = model.detect(torch.from_numpy(images))
    np.testing.assert_allclose(found["scores"], expected["scores"].numpy(), atol=1e-5)
    with pytest.raises(Exception, match="gates/settings"):
        _run(made, {"images": images, "depth": np.asarray(1)})
    (piece,) = cut(made, space)
    assert piece.spec.when == []


# --- what it computes ------------------------------------------------------------------------


def test_parity_with_torch(plain: Bundle, checkpoint: Path) -> None:
    batches = verification_batches(plain.manifest.preprocess)
    report = verify(plain, str(checkpoint), batches, record=False)
    assert report.passed, [row for row in report.rows if not row.passed]
    assert {(row.precision, row.depth, row.level) for row in report.rows} == {
        ("fp32", "full", 0),
        ("fp16", "full", 0),
    }
    assert len(report.rows) == 2 * len(LAYOUTS)
    assert sum(row.detections for row in report.rows) > 10


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sessions(plain: Bundle, layout: str, runtime: str) -> None:
    session = plain.session(runtime=runtime, artifact=layout, threads=1)
    assert [str(depth) for depth in session.depths] == ["full"]
    images = random_images(3, *SIZE)
    found = session.run(images)
    names: list[Any] = ["full", "base", "level:0", "0", 0, ["super", "base", 0]]
    for name in names:
        assert_equal(session.run(images, name), found)
    assert_close(found, plain.session(artifact="set", threads=1).run(images))
    unknown: list[Any] = ["F", "level:1", 1, -1]
    for name in unknown:
        with pytest.raises(DepthError, match="unknown depth"):
            session.run(images, name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["interleaved", "switching"])
def test_bench(plain: Bundle, layout: str, mode: Any) -> None:
    """One point: it is its own reference, and there is no other depth to switch from."""
    workload = BundleWorkload(
        plain,
        Choice(layout=layout, threads=1),
        lambda recipe: load_batches(recipe, 1),
        "detections",
    )
    options = Options(duration=0, count=3, warmup=0, mode=mode)
    result = run_bench(workload, plain.table.ladder, options, threads=1)
    (row,) = result.depths
    assert (row.depth, row.level, row.switch_ms) == ("full", 0, None)
    assert row.speedup is not None
    assert (row.speedup.value, row.speedup.low) == (1.0, None)


def test_inspect(plain: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    found = describe_bundle(plain.path)
    assert found["gates"] == []
    show(found, every=True, as_json=False)
    assert "gates: none; one depth\n" in capsys.readouterr().out


def test_eight_bits(checkpoint: Path, tmp_path: Path) -> None:
    """From ranges of one depth, which merge with nothing."""
    write_coco(tmp_path / "pictures", 6, 7, "train")
    path, table = calibrate(
        checkpoint, tmp_path / "pictures", tmp_path / "t.json", input_size=SIZE, probe=1, batch=3
    )
    assert (table.ladder, table.depths) == (["full"], ["full"])
    assert join_rows(table) == []
    stages = report_rows(table)["stages"]
    assert {stage["stage"] for stage in stages} > {"entry", "layer6", "layer20"}
    assert all(stage["error_own"] == stage["error_merged"] for stage in stages)
    draw_report(read_table(path), tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
    bundle = export_bundle(
        checkpoint,
        tmp_path / "b",
        layouts=LAYOUTS,
        precision=["int8"],
        input_size=SIZE,
        ranges=path,
    )
    batches = verification_batches(bundle.manifest.preprocess)
    report = verify(open_bundle(tmp_path / "b"), str(checkpoint), batches, record=False)
    assert report.passed, report.rows
    assert len(report.rows) == len(LAYOUTS)
