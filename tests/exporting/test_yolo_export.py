"""AnyDepth-YOLO as a bundle: parity at every depth, placement of weights, where suppression is."""

from __future__ import annotations

import collections
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from command_line import Run, fails
from comparisons import assert_equal
from conftest import random_images, random_yolo
from edited_bundles import edit_artifact
from fork_checkpoint import write_fork_checkpoint
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_graphs import assert_names_are_unique, graphs_of, onnx_file
from onnx_sessions import quiet_session
from oracle_yolo import GATED, predictions

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.detections import NOTHING
from anydepth_deploy.errors import BundleError, DepthError, UsageError
from anydepth_deploy.exporting import export as export_module
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.shared.macs import Macs, count_macs
from anydepth_deploy.families.shared.stages import POSTPROCESS, AnyDepthModel, Size, Stage
from anydepth_deploy.families.yolo.model import AnyDepthYOLO
from anydepth_deploy.graph.assemble import assemble_gated
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.manifest import Weights
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.suppression import Suppression, suppress
from anydepth_deploy.verifying.graphs import Report, verify

SIDE = 160
ANCHORS = 20 * 20 + 10 * 10 + 5 * 5
WEIGHTS = pytest.mark.parametrize("weights", ["shared", "folded"])

Export = Callable[..., Bundle]


class _Alone(AnyDepthModel):
    """The last stage of a network as a network: its picture's first channel is the predictions."""

    raw_outputs = {"predictions": "predictions"}  # noqa: RUF012

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def check_size(self, size: Size) -> None:
        """Any will do."""

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        assert self.stage.part == POSTPROCESS
        return [
            Stage("head", "head", ("images",), self.stage.inputs, {"full": _First()}),
            self.stage,
        ]


class _First(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0]


@pytest.fixture(scope="module")
def macs(yolo_model: AnyDepthYOLO) -> Macs:
    return count_macs(yolo_model, (SIDE, SIDE))


@pytest.fixture
def quick(yolo_pieces: Pieces, macs: Macs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of `yolo_checkpoint` take all pieces but suppression from its first export."""

    def pieces(model: AnyDepthModel, size: Size, **_: Any) -> Pieces:
        assert size == (SIDE, SIDE)
        assert model.suppression is not None
        body = [item for item in yolo_pieces.pieces if item.stage.part != POSTPROCESS]
        if model.suppression.where == "graph":
            alone = _Alone(model.stages(size)[-1])
            body.append(export_pieces(alone, (4 + 8, ANCHORS)).pieces[-1])
        return Pieces(tuple(body), size, yolo_pieces.raw_outputs)

    monkeypatch.setattr(export_module, "export_pieces", pieces)
    monkeypatch.setattr(export_module, "count_macs", lambda *_: macs)


@pytest.fixture
def export(quick: None, yolo_checkpoint: Path, tmp_path: Path) -> Export:
    """Exports `yolo_checkpoint` with these settings of suppression."""

    def make(name: str = "bundle", layouts: tuple[str, ...] = ("gated",), **rule: Any) -> Bundle:
        return export_bundle(
            yolo_checkpoint,
            tmp_path / name,
            layouts=list(layouts),
            suppression=Suppression(**rule) if rule else None,
        )

    return make


def batch(count: int, seed: int = 0, size: Size = (SIDE, SIDE)) -> NDArray[np.float32]:
    return random_images(count, *size, seed)


# --- parity ----------------------------------------------------------------------------------


def assert_passed(report: Report, rows: int) -> None:
    assert len(report.rows) == rows
    assert [(row.artifact, row.depth) for row in report.rows if not row.passed] == []
    assert report.passed
    for row in report.rows:
        assert 0 < row.differences["boxes"] < 5e-4  # exactly 0: nothing was compared
        assert 0 < row.differences["scores"] < 5e-6
        assert row.detections > 0


def verified(bundle: Bundle, checkpoint: Path, *batches: NDArray[np.float32], **how: Any) -> Report:
    return verify(bundle, str(checkpoint), batches, record=False, threads=1, **how)


def test_every_depth_equals_torch(yolo_bundle: Bundle, yolo_checkpoint: Path) -> None:
    """The gated graph with shared weights, one picture at a time."""
    shared = yolo_bundle.artifacts("gated", weights="shared")
    chosen = Bundle(yolo_bundle.path, yolo_bundle.manifest.model_copy(update={"artifacts": shared}))
    images = batch(1)
    report = verified(chosen, yolo_checkpoint, images, depths=chosen.table.rows)
    assert_passed(report, 256)


def test_many_depths_equal_torch(yolo_bundle: Bundle, yolo_checkpoint: Path) -> None:
    """Both gated graphs, several pictures at a time."""
    rows = yolo_bundle.table.rows
    images = batch(3, 1)
    report = verified(yolo_bundle, yolo_checkpoint, images, depths=rows[5::13], layout="gated")
    assert_passed(report, 2 * len(rows[5::13]))


def test_the_ladder_and_the_static_graphs_equal_torch(
    yolo_bundle: Bundle, yolo_checkpoint: Path
) -> None:
    images = [batch(count, count) for count in (1, 3)]
    report = verified(yolo_bundle, yolo_checkpoint, *images)
    assert_passed(report, 15)
    assert [row.level for row in report.rows] == [0, 1, 2, 3, 4] * 3


def test_sizes_that_are_not_square_equal_the_oracle(tmp_path: Path) -> None:
    """Half the repeats, which is quicker to export: the last convolutions of layers 6 and 8 are
    cut, the others have no refinement."""
    model = random_yolo(seed=4, depth=0.5, own_skip_weights=())
    pieces = export_pieces(model, (64, 96))
    state, images = dict(model.state_dict()), batch(2, size=(64, 96))
    kinds: tuple[Weights, ...] = ("shared", "folded")
    for weights in kinds:
        path = tmp_path / f"{weights}.onnx"
        ir.save(assemble_gated(pieces, model.table, weights, raw=True), path)
        onnx.checker.check_model(str(path), full_check=True)
        session = quiet_session(path)
        for row in range(0, 256, 17):
            feeds = {"images": images, "depth": np.asarray(row)}
            (found,) = session.run(["raw_predictions"], feeds)
            skip = [bool(setting) for setting in model.table.rows[row].settings]
            expected = predictions(state, torch.from_numpy(images), skip).numpy()
            assert found.shape == expected.shape == (2, 12, 8 * 12 + 4 * 6 + 2 * 3)
            assert np.abs(found[:, :4] - expected[:, :4]).max() < 1e-3, row
            assert np.abs(found[:, 4:] - expected[:, 4:]).max() < 5e-6, row


def test_layouts_agree_and_depths_do_not(yolo_bundle: Bundle) -> None:
    sessions = [
        yolo_bundle.session(artifact=layout, weights=weights, threads=1, raw=True)
        for layout, weights in (("gated", "shared"), ("gated", "folded"), ("set", None))
    ]
    images = batch(2)
    answers = []
    for depth in yolo_bundle.table.ladder:
        one, two, three = (
            s.run_raw(images, depth)["predictions"].astype(np.float32) for s in sessions
        )
        for other in (two, three):
            np.testing.assert_allclose(one, other, atol=1e-3)
        answers.append(one)
    for index, answer in enumerate(answers):
        for other in answers[:index]:
            assert np.abs(answer - other).max() > 0.01


# --- the graphs ------------------------------------------------------------------------------


def ifs(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for part in graphs_of(graph):
        yield from (node for node in part.node if node.op_type == "If")


@WEIGHTS
def test_each_gate_decides_its_own_ifs(
    yolo_bundle: Bundle, yolo_model: AnyDepthYOLO, weights: str
) -> None:
    model = onnx.load(str(onnx_file(yolo_bundle, "gated", weights)))
    gated = [stage for stage in yolo_model.stages((SIDE, SIDE)) if stage.gates]
    top = [node.name for node in model.graph.node if node.op_type == "If"]
    assert top == [f"{stage.name}/If" for stage in gated]
    found = collections.Counter(node.input[0] for node in ifs(model.graph))
    # An If of the second gate of a stage is in both branches of the If of the first.
    assert found == {
        f"gates/layer{GATED[gate.gate]}/runs": 2**place
        for stage in gated
        for place, gate in enumerate(stage.gates)
    }
    assert len(found) == 8
    for node in ifs(model.graph):
        assert [attribute.name for attribute in node.attribute] == ["then_branch", "else_branch"]
        names = [attribute.g.name for attribute in node.attribute]
        assert names[0].endswith("full")
        assert names[1].endswith("skipped")
    static = onnx.load(str(onnx_file(yolo_bundle, "set")))
    assert not list(ifs(static.graph))


def test_interface_of_the_graphs(yolo_bundle: Bundle) -> None:
    for artifact in yolo_bundle.artifacts():
        path = yolo_bundle.file(artifact)
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path))
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
        assert all(not node.domain for graph in graphs_of(model.graph) for node in graph.node)
        session = quiet_session(path)
        inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
        assert inputs.pop("images") == ("tensor(float)", ["N", 3, SIDE, SIDE])
        depth = inputs.pop("depth", None)
        assert depth == (("tensor(int64)", []) if artifact.layout == "gated" else None)
        assert not inputs
        outputs = {value.name: (value.type, value.shape) for value in session.get_outputs()}
        assert outputs == {
            "labels": ("tensor(int64)", ["N", 100]),
            "boxes": ("tensor(float)", ["N", 100, 4]),
            "scores": ("tensor(float)", ["N", 100]),
        }
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert set(json.loads(metadata["anydepth.raw_outputs"])) == {"predictions"}


@WEIGHTS
def test_names_are_unique_across_branches(yolo_bundle: Bundle, weights: str) -> None:
    assert_names_are_unique(onnx.load(str(onnx_file(yolo_bundle, "gated", weights))))


def test_folded_weights_are_local_to_their_branch(yolo_bundle: Bundle) -> None:
    model = onnx.load(str(onnx_file(yolo_bundle, "gated", "folded")))
    convolutions = 0
    for graph in graphs_of(model.graph):
        local = {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            assert node.op_type != "BatchNormalization"
            if node.op_type == "Conv":
                convolutions += 1
                assert set(node.input[1:]) <= local, node.name
    assert convolutions > 100


def weight_of(
    node: onnx.NodeProto, graph: onnx.GraphProto, outer: onnx.GraphProto
) -> tuple[str, NDArray[Any]]:
    """Where a convolution's weight comes from (local, outer or slice), and the weight."""
    local = {tensor.name: tensor for tensor in graph.initializer}
    known = {tensor.name: tensor for tensor in outer.initializer} | local
    name = node.input[1]
    if name in known:
        return "local" if name in local else "outer", numpy_helper.to_array(known[name])
    (cut,) = (item for item in graph.node if name in item.output)
    assert cut.op_type == "Slice"
    whole, start, end, axis = (numpy_helper.to_array(known[item]) for item in cut.input)
    assert cut.input[0] not in local
    assert (int(start[0]), int(axis[0])) == (0, 1)
    assert 0 < end[0] < whole.shape[1]
    return "slice", whole[:, : int(end[0])]


def test_shared_weights_are_stored_once_or_cut(
    yolo_bundle: Bundle, yolo_model: AnyDepthYOLO
) -> None:
    model = onnx.load(str(onnx_file(yolo_bundle, "gated", "shared")))
    seen: dict[bytes, str] = {}
    for graph in graphs_of(model.graph):
        for tensor in graph.initializer:
            if len(tensor.raw_data) >= 4096:
                key = tensor.raw_data + bytes(str(tensor.dims), "ascii")
                assert key not in seen, (tensor.name, seen[key])
                seen[key] = tensor.name
    state = yolo_model.state_dict()
    sliced = []
    for graph in graphs_of(model.graph):
        if graph is model.graph:
            continue
        readers: dict[str, list[str]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.op_type)
        for node in graph.node:
            if node.op_type != "Conv":
                continue
            source, weight = weight_of(node, graph, model.graph)
            if source != "local":
                # ONNX Runtime folds the norm, and so makes the weight the branch's own.
                assert readers[node.output[0]] == ["BatchNormalization"], node.name
            if source == "slice":
                names = [
                    name
                    for name, value in state.items()
                    if name.endswith("cv2.conv.weight")
                    and value.shape[2:] == weight.shape[2:]
                    and value.shape[0] == weight.shape[0]
                    and np.array_equal(value[:, : weight.shape[1]].numpy(), weight)
                ]
                (name,) = names
                sliced.append(name)
    # Of layers 6 and 8, the skipped mode has weights of its own. The first of two in one stage
    # is in the skipped branch twice.
    assert set(sliced) == {f"model.{n}.cv2.conv.weight" for n in (2, 4, 11, 14, 17, 20)}


@WEIGHTS
def test_no_convolution_stays_slow(yolo_bundle: Bundle, weights: str, tmp_path: Path) -> None:
    """What ONNX Runtime makes of it: no norm and no Slice of a weight is left in any branch, and
    where the static graph has only fast convolutions, so has this."""

    def optimised(source: Path) -> onnx.ModelProto:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)

    def slow(model: onnx.ModelProto) -> int:
        plain = [("", "Conv"), ("com.microsoft", "FusedConv")]
        return sum(
            (node.domain, node.op_type) in plain
            for graph in graphs_of(model.graph)
            for node in graph.node
        )

    found = optimised(onnx_file(yolo_bundle, "gated", weights))
    for graph in graphs_of(found.graph):
        constants = {tensor.name for part in graphs_of(found.graph) for tensor in part.initializer}
        for node in graph.node:
            assert node.op_type != "BatchNormalization", node.name
            assert node.op_type != "Slice" or node.input[0] not in constants, node.name
    if not slow(optimised(onnx_file(yolo_bundle, "set"))):
        assert not slow(found)


def test_file_sizes(yolo_bundle: Bundle) -> None:
    full = max(item.bytes for item in yolo_bundle.artifacts("set"))
    shared, folded = (
        yolo_bundle.artifacts("gated", weights=kind)[0].bytes for kind in ("shared", "folded")
    )
    assert full < shared < 1.2 * full < folded < 2 * full


@WEIGHTS
@pytest.mark.parametrize("row", [-1, -256, 256, 2**31, -(2**40)])
def test_rows_out_of_range_are_refused(yolo_bundle: Bundle, weights: str, row: int) -> None:
    graph = opened(yolo_bundle, weights)
    images = batch(1)
    with pytest.raises(Exception, match="out of data bounds"):
        graph.run(None, {"images": images, "depth": np.asarray(row)})
    session = ours(yolo_bundle, weights)
    with pytest.raises(DepthError, match=rf"unknown depth row {row}: rows go from 0 to 255"):
        session.run(images, row)
    assert len(session.run(images, 255)) == 1


@functools.cache
def opened(bundle: Bundle, weights: str) -> ort.InferenceSession:
    return quiet_session(onnx_file(bundle, "gated", weights))


@functools.cache
def ours(bundle: Bundle, weights: str) -> Session:
    return bundle.session(artifact="gated", weights=weights, threads=1)


# --- where suppression happens ---------------------------------------------------------------


def test_the_host_suppresses_as_the_graph_does(export: Export, yolo_checkpoint: Path) -> None:
    graph = export("graph", ("gated", "set"), where="graph", score_threshold=0.0012)
    host = export("host", ("gated", "set"), where="host", score_threshold=0.0012)
    images = batch(3)
    for layout in ("gated", "set"):
        one, two = graph.session(artifact=layout), host.session(artifact=layout)
        assert one.detects
        assert two.detects
        for depth in ("super", "base", "level:2"):
            found = one.run(images, depth)
            assert (found.labels != NOTHING).sum() > 10
            assert_equal(found, two.run(images, depth))
            both, raw = two.run_both(images, depth)
            assert_equal(both, found)
            rule = host.manifest.suppression
            assert rule is not None
            assert_equal(suppress(raw["predictions"].astype(np.float32), rule, 100), found)
    model = onnx.load(str(onnx_file(host, "gated")))
    assert [value.name for value in model.graph.output] == ["raw_predictions"]
    assert all(item.raw for item in host.artifacts())
    assert not any(node.op_type == "NonMaxSuppression" for node in model.graph.node)
    report = verified(host, yolo_checkpoint, batch(1), images)
    assert_passed(report, 10)
    host.session().warm()


def test_suppression_may_be_left_to_others(export: Export, yolo_checkpoint: Path) -> None:
    bundle = export(where="none")
    session = bundle.session()
    assert not session.detects
    images = batch(2)
    for call in (session.run, session.run_both):
        with pytest.raises(BundleError, match=r"exported with --nms none.*use run_raw"):
            call(images)
    raw = session.run_raw(images, "base")["predictions"]
    assert raw.shape == (2, 12, ANCHORS)
    with torch.no_grad():
        expected = predictions(
            torch.load(yolo_checkpoint)["ema"]["module"], torch.from_numpy(images), [True] * 8
        )
    assert np.abs(raw[:, 4:] - expected[:, 4:].numpy()).max() < 5e-6
    report = verified(bundle, yolo_checkpoint, images)
    assert report.passed
    assert len(report.rows) == 5
    assert all(0 < row.differences["boxes"] < 5e-4 for row in report.rows)
    assert {(row.detections, row.unmatched) for row in report.rows} == {(0, 0)}


def test_sessions_without_suppression_can_be_warmed(export: Export) -> None:
    export(where="none").session().warm()


def test_thresholds_are_recorded_and_obeyed(export: Export, yolo_checkpoint: Path) -> None:
    images = batch(3)
    rules = {"strict": (0.0012, 0.3), "low": (0.0009, 0.3), "loose": (0.0012, 0.7)}
    counts: dict[str, list[int]] = {name: [] for name in rules}
    for where in ("graph", "host"):
        for name, (score, iou) in rules.items():
            bundle = export(
                f"{where}-{name}", where=where, score_threshold=score, iou_threshold=iou
            )
            assert bundle.manifest.suppression == Suppression.model_validate(
                {"where": where, "score_threshold": score, "iou_threshold": iou}
            )
            found = bundle.session().run(images)
            counts[name].append(int((found.labels != NOTHING).sum()))
            assert found.scores[found.labels != NOTHING].min() > np.float32(score)
            if name == "strict":  # torch suppresses as the bundle says
                depths = bundle.table.ladder[::4]
                assert_passed(verified(bundle, yolo_checkpoint, images, depths=depths), 2)
    assert all(graph == host for graph, host in counts.values())
    assert 0 < counts["strict"][0] < min(counts["low"][0], counts["loose"][0])


def test_another_suppression_is_another_export(export: Export) -> None:
    first = export()
    assert first.manifest.suppression == Suppression()
    again = export(where="graph", score_threshold=0.001, iou_threshold=0.7)
    assert again.manifest == first.manifest
    for rule in (
        {"where": "host"},
        {"where": "none"},
        {"score_threshold": 0.25},
        {"iou_threshold": 0.5},
    ):
        with pytest.raises(BundleError, match=r"holds another export: suppression graph, score"):
            export(**rule)
    assert open_bundle(first.path).manifest == first.manifest


def test_close_thresholds_are_other_exports_too(export: Export) -> None:
    one, other = 0.25, 0.2500001
    assert np.float32(one) != np.float32(other)
    export(where="host", score_threshold=one)
    with pytest.raises(BundleError, match="holds another export: suppression"):
        export(where="host", score_threshold=other)


def test_a_family_without_suppression_refuses_its_options(
    checkpoint: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    with pytest.raises(UsageError, match="without non-maximum suppression"):
        export_bundle(checkpoint, out, suppression=Suppression())
    for option in (["--nms", "graph"], ["--nms-score", "0.1"], ["--nms-iou", "0.5"]):
        fails(run("export", checkpoint, "--out", out, *option), 2, "options that begin with --nms")
    assert not out.exists()


# --- the commands ----------------------------------------------------------------------------


def test_commands(
    run: Run, quick: None, yolo_checkpoint: Path, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    options = ["--nms", "host", "--nms-score", "0.0005", "--nms-iou", "0.6"]
    found = run("export", yolo_checkpoint, "--out", out, *options, "--json").json
    assert [item["name"] for item in found["artifacts"]] == ["gated-fp32-shared"]
    rule = Suppression(where="host", score_threshold=0.0005, iou_threshold=0.6)
    manifest = open_bundle(out).manifest
    assert manifest.suppression == rule
    assert manifest.preprocess.resize == "letterbox"

    for path in (yolo_checkpoint, out):
        found = run("inspect", path, "--json").json
        assert (found["family"], found["config"]) == ("anydepth-yolo", "tiny")
        assert len(found["depths"]) == 256
        assert [row["depth"] for row in found["depths"][:5]] == list(manifest.ladder)
        assert run("inspect", path, "--every").code == 0

    report = run("verify", out, "--checkpoint", yolo_checkpoint, "--json").json
    assert report["passed"] is True
    assert set(report["rows"][0]["differences"]) == {"boxes", "scores"}

    data = write_coco(tmp_path / "shapes", 6, seed=3, size=SIDE)
    found = run("eval", out, "--data", data, "--depth", "base,super", "--match-by-rank",
                "--json").json  # fmt: skip
    assert [row["level"] for row in found["rows"]] == [0, 4]

    (found,) = run("predict", out, picture, "--threshold", "0.0007", "--json").json["predictions"]
    assert found["depth"] == "FFFFFFFF"
    assert found["detections"]
    for one in found["detections"]:
        x1, y1, x2, y2 = one["box"]
        assert 0 <= x1 <= x2 <= 120
        assert 0 <= y1 <= y2 <= 90
    (found,) = run("predict", out, picture, "--threshold", "0.9", "--json").json["predictions"]
    assert found["detections"] == []

    export = ("export", yolo_checkpoint, "--out", out)
    fails(run(*export, "--nms", "none"), 2, "another export: suppression")


def test_commands_without_suppression(
    run: Run, quick: None, yolo_checkpoint: Path, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    run("export", yolo_checkpoint, "--out", out, "--nms", "none", "--json")
    assert run("verify", out, "--checkpoint", yolo_checkpoint, "--json").json["passed"]
    fails(run("predict", out, picture), 2, "exported with --nms none")
    data = write_coco(tmp_path / "shapes", 2, seed=3, size=SIDE)
    fails(run("eval", out, "--data", data, "--match-by-rank"), 2, "exported with --nms none")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--nms", "maybe"], "maybe"),
        (["--nms-score", "-1"], "--nms-score"),
        (["--nms-score", "1"], "--nms-score"),
        (["--nms-iou", "0"], "--nms-iou"),
        (["--nms-iou", "1.5"], "--nms-iou"),
        (["--nms-score", "nan"], "--nms-score"),
        (["--nms", "none", "--nms-score", "0.3"], "nothing that thresholds could apply to"),
        (["--size", "33x64"], "multiples of 32"),
        (["--depth", "FFTT"], "unknown depth 'FFTT'"),
    ],
)
def test_bad_options(
    run: Run, yolo_checkpoint: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    fails(run("export", yolo_checkpoint, "--out", tmp_path / "b", *options), 2, told)
    assert not (tmp_path / "b").exists()


def test_a_pickled_network_of_the_fork_exports(
    quick: None, yolo_model: AnyDepthYOLO, tmp_path: Path
) -> None:
    """As the authors save it: objects of classes that are not installed here, losses among them."""
    names = {index: f"thing {index}" for index in range(8)}
    path = write_fork_checkpoint(
        tmp_path / "best.pt",
        yolo_model,
        half=False,
        names=names,
        criterion=True,
        cuda=True,
        train_args={"imgsz": SIDE},
    )
    bundle = export_bundle(path, tmp_path / "bundle")
    assert bundle.classes == list(names.values())
    assert bundle.manifest.source.weights == "ema"
    report = verify(bundle, str(path), [batch(2)], depths=bundle.table.ladder, record=False)
    assert report.passed
    assert len(report.rows) == 5


# --- sabotage --------------------------------------------------------------------------------


@pytest.fixture
def spoiled(yolo_bundle: Bundle, yolo_checkpoint: Path, tmp_path: Path) -> Callable[..., Report]:
    """Verifies an artifact after a change to it."""

    def check(change: Callable[[onnx.ModelProto], None], *depths: str, name: str) -> Report:
        folder = Path(shutil.copytree(yolo_bundle.path, tmp_path / "copy"))
        edit_artifact(folder, name, change)
        bundle = open_bundle(folder)
        artifacts = [item for item in bundle.manifest.artifacts if item.name == name]
        bundle = Bundle(folder, bundle.manifest.model_copy(update={"artifacts": artifacts}))
        chosen = [bundle.table.find(depth) for depth in depths]
        return verified(bundle, yolo_checkpoint, batch(1), depths=chosen)

    return check


@pytest.mark.parametrize("gate", range(8))
def test_swapped_branches_are_found(spoiled: Callable[..., Report], gate: int) -> None:
    def swap(model: onnx.ModelProto) -> None:
        nodes = [
            node for node in ifs(model.graph) if node.input[0] == f"gates/layer{GATED[gate]}/runs"
        ]
        assert nodes
        for node in nodes:
            one, other = node.attribute
            one.name, other.name = other.name, one.name

    report = spoiled(swap, "super", "base", name="gated-fp32-folded")
    assert [row.passed for row in report.rows] == [False, False]


def test_swapped_norms_are_found(spoiled: Callable[..., Report], yolo_model: AnyDepthYOLO) -> None:
    """The first norm set of one convolution where the second belongs, and the other way round."""
    key = "model.5"

    def exchange(model: onnx.ModelProto) -> None:
        found = []
        for graph in graphs_of(model.graph):
            known = {
                tensor.name: tensor for tensor in (*model.graph.initializer, *graph.initializer)
            }
            for node in graph.node:
                if node.op_type != "BatchNormalization":
                    continue
                scale = numpy_helper.to_array(known[node.input[1]])
                for norm in ("bn", "bn_skip"):
                    if np.array_equal(
                        scale, yolo_model.get_parameter(f"{key}.{norm}.weight").detach()
                    ):
                        found.append((node, [known[name] for name in node.input[1:]]))
        assert len(found) == 2
        (_, one), (_, other) = found
        for first, second in zip(one, other, strict=True):
            first.raw_data, second.raw_data = second.raw_data, first.raw_data

    report = spoiled(exchange, "super", "base", "FFTFFFFF", name="gated-fp32-shared")
    assert [row.passed for row in report.rows] == [False, False, False]


def test_another_threshold_in_the_graph_is_found(spoiled: Callable[..., Report]) -> None:
    """Predictions are the same, detections are not."""

    def raise_threshold(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.op_type == "NonMaxSuppression")
        (tensor,) = (item for item in model.graph.initializer if item.name == node.input[4])
        values = numpy_helper.to_array(tensor) * 2
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))

    report = spoiled(raise_threshold, "super", "base", name="gated-fp32-folded")
    for row in report.rows:
        assert not row.passed
        assert row.unmatched > 0
        assert row.differences["boxes"] < 5e-4
