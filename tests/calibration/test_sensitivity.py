"""What 8 bits cost whole stages, which joins stay in float, and the report of both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from calibration_cases import Case, case, detr_pieces, write_pictures, yolo
from conftest import random_detr
from numpy.typing import NDArray

from anydepth_deploy.calibration.keeping import KeepingRules
from anydepth_deploy.calibration.report import draw_report, join_rows, report_rows, stage_rows
from anydepth_deploy.calibration.sensitivity import stage_errors
from anydepth_deploy.calibration.table import RangeTable
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import CalibrationError, MissingExtraError, UsageError
from anydepth_deploy.exporting.lower import Recipe, lower
from anydepth_deploy.graph.assemble import assemble_gated, assemble_static
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.passes.quantise import SCHEMES, quantise
from anydepth_deploy.graph.pieces import Piece, Pieces

__all__ = ["case", "yolo"]  # fixtures

PICTURES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), PICTURES)


@pytest.fixture(scope="module")
def detr(checkpoint: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    out = tmp_path_factory.mktemp("ranges") / "detr.json"
    return Case(random_detr(), checkpoint, detr_pieces(), folder, out, probe=PICTURES)


# --- against the whole graph -----------------------------------------------------------------


def run(model: ir.Model, tensors: Sequence[str], case: Case) -> list[NDArray[np.float64]]:
    """The values of `tensors` for all pictures, one array."""
    proto = onnx.ModelProto()
    proto.ParseFromString(ir.to_proto(model).SerializeToString())
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [session.run(None, {"images": images}) for images in case.images()]
    return [
        np.concatenate([values.ravel() for values in found]) for found in zip(*runs, strict=True)
    ]


def brute_force(
    case: Case,
    pieces: Pieces,
    ranges: RangeTable,
    depth: Depth,
    stage: str,
    outputs: Sequence[str] | None = None,
    *,
    merged: bool,
) -> float:
    """The error of one stage: the whole graph is quantised, but everything else kept in float."""
    stages = {item.name: item for item in case.model.stages(pieces.size)}
    prefix = f"{stage}.{stages[stage].variant(depth)}/"
    joins = {
        f"{item.name}.{item.variant(depth)}/{tensor}": f"{item.name}/{tensor}"
        for item in stages.values()
        for tensor in item.outputs
        if item.gates
    }

    def range_of(value: ir.Value) -> tuple[float, float]:
        name = value.name or ""
        if not merged:
            entry = ranges.at(name, str(depth))
            return entry.low, entry.high
        return ranges.merged(name if name.startswith(prefix) else joins.get(name, name))

    model = assemble_static(pieces, depth, detections=False)
    names = [prefix + tensor for tensor in outputs or stages[stage].outputs]
    wanted = run(model, names, case)
    # In a graph that is quantised as a whole, the next stage reads these in 8 bits.
    for value in [value for node in model.graph for value in node.outputs]:
        if value.name in names and value.name in ranges.tensors:
            model.graph.outputs.append(value)
    quantise(
        model,
        SCHEMES["onnxruntime"],
        range_of,
        lambda node, reason: reason if (node.name or "").startswith(prefix) else "elsewhere",
    )
    made = {value.name for node in model.graph for value in node.outputs}
    names = [name + "/dequantised" if name + "/dequantised" in made else name for name in names]
    found = run(model, names, case)
    error = sum(float(np.sum((f - w) ** 2)) for f, w in zip(found, wanted, strict=True))
    return float(np.sqrt(error / sum(float(np.sum(w**2)) for w in wanted)))


def test_errors_equal_those_in_the_whole_graph(case: Case) -> None:
    ladder = case.model.table.ladder
    stages = {item.name: item for item in case.model.stages(case.pieces.size)}
    for first, depth in enumerate((ladder[0], ladder[-1])):
        found = stage_errors(case.pieces, case.ranges, [depth], case.images(), threads=1)
        assert len(found) >= 7
        for item in found[first::2]:
            # Which tokens become queries is a choice: only what lies before it is measured.
            outputs = ["memory"] if item.stage == "queries" else None
            assert item.variant == stages[item.stage].variant(depth)
            for merged, error in ((False, item.error_own), (True, item.error_merged)):
                wanted = brute_force(
                    case, case.pieces, case.ranges, depth, item.stage, outputs, merged=merged
                )
                assert error == pytest.approx(wanted, rel=1e-3), (item, merged)
                assert error > 0


def test_every_stage_with_convolutions_is_measured_at_every_depth(detr: Case) -> None:
    convolutional = [
        "stem", "layer1", "layer2", "layer3", "layer4", "encoder", "queries",
    ]  # fmt: skip
    assert [(item.depth, item.stage) for item in detr.ranges.stages] == [
        (depth, stage) for depth in detr.ranges.depths for stage in convolutional
    ]
    for index, depth in enumerate(detr.depths[:2]):
        errors = stage_errors(detr.pieces, detr.ranges, [depth], detr.images(), threads=1)
        assert errors == detr.ranges.stages[index * 7 : index * 7 + 7]


# --- a network whose depths differ -----------------------------------------------------------


def widened(pieces: Pieces, stage: str, tensor: str, factor: float) -> Pieces:
    """The skipped path of `stage` gives `factor` times as much."""
    found = []
    for piece in pieces.pieces:
        graph = piece.graph.clone()
        if piece.stage.name == stage and piece.variant == "skipped":
            index = piece.stage.outputs.index(tensor)
            old = graph.outputs[index]
            name = f"{piece.prefix}/factor"
            constant = ir.tensor(np.float32(factor), name=name)
            value = ir.val(name, constant.dtype, [], const_value=constant)
            graph.register_initializer(value)
            node = ir.Node("", "Mul", [old, value], name=f"{piece.prefix}/widen")
            new = node.outputs[0]
            new.type, new.shape, new.name = old.type, old.shape, old.name
            old.name = f"{old.name}_before"
            graph.append(node)
            graph.outputs[index] = new
        found.append(Piece(piece.stage, piece.variant, graph))
    return Pieces(tuple(found), pieces.size, pieces.raw_outputs)


@pytest.mark.parametrize(
    ("family", "stage", "tensor", "reader"),
    [("detr", "layer4", "stride32", "encoder"), ("yolo", "layer20", "layer20", "head")],
)
def test_a_join_whose_range_differs_between_depths_stays_in_float(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    family: str,
    stage: str,
    tensor: str,
    reader: str,
) -> None:
    case: Case = request.getfixturevalue(family)
    pieces, factor = widened(case.pieces, stage, tensor, 16.0), 16.0
    _, ranges = case.run(tmp_path / "t.json", pieces=pieces, method="minmax", probe=0)
    join = f"{stage}/{tensor}"

    gate = next(item.gates[0] for item in case.model.stages(pieces.size) if item.name == stage)
    widths = []
    for depth in case.depths:
        entry = case.ranges.at(join, str(depth))
        widths.append((entry.high - entry.low) * (1 if gate.runs(depth) else factor))
    assert ranges.ratio(join) == pytest.approx(max(widths) / min(widths), rel=1e-5)
    assert ranges.ratio(join) > 4

    top = str(case.model.table.space.super)
    assert ranges.at(join, top).error_merged > 5 * ranges.at(join, top).error_own
    widest = str(case.depths[int(np.argmax(widths))])
    entry = ranges.at(join, widest)
    low, high = ranges.merged(join)
    assert entry.error_merged < 1.1 * entry.error_own * (high - low) / (entry.high - entry.low)
    at_top = stage_errors(pieces, ranges, [case.model.table.find(top)], case.images(), threads=1)
    (measured,) = (item for item in at_top if item.stage == reader)
    assert measured.error_merged > 1.2 * measured.error_own
    wanted = brute_force(case, pieces, ranges, case.model.space.super, reader, merged=True)
    assert measured.error_merged == pytest.approx(wanted, rel=1e-3)

    # What stays in float is what reads such a join, for no other reason.
    wide = {
        name
        for name, entries in ranges.tensors.items()
        if "." not in name.split("/")[0]
        and max(e.high - e.low for e in entries.values())
        > 4 * min(e.high - e.low for e in entries.values())
    }
    assert join in wide
    gated = assemble_gated(pieces, case.model.table, "folded", detections=False)
    convolutions = [
        node for graph in graphs_of(gated.graph) for node in graph if node.op_type == "Conv"
    ]
    readers = {node.name for node in convolutions if node.inputs[0].name in wide}  # type: ignore[union-attr]
    rules = KeepingRules(max_error=1.0)
    recipe = Recipe(precision="int8", ranges=ranges, rules=rules, detections=False)
    kept = lower(pieces, case.model.table, recipe).kept
    assert {item.node for item in kept if item.reason != "head output"} == readers
    assert readers

    # And the report says so, with the usual thresholds as well.
    for used in (rules, KeepingRules()):
        recipe = Recipe(precision="int8", ranges=ranges, rules=used, detections=False)
        reasons = {item.node: item.reason for item in lower(pieces, case.model.table, recipe).kept}
        rows = join_rows(ranges, used)
        assert {row.tensor for row in rows} >= wide
        for row in rows:
            read = [node for node in convolutions if node.inputs[0].name == row.tensor]  # type: ignore[union-attr]
            assert read
            assert {reasons.get(node.name or "") for node in read} == {row.kept}
        assert rows[0].kept is not None
        assert rows[-1].kept is None


# --- the report ------------------------------------------------------------------------------


def test_rows_name_the_worst_first(detr: Case) -> None:
    rows = join_rows(detr.ranges)
    assert len(rows) == 7
    assert [row.ratio for row in rows] == sorted((row.ratio for row in rows), reverse=True)
    for row in rows:
        entries = detr.ranges.tensors[row.tensor]
        assert row.error_own == max(entry.error_own for entry in entries.values())
        assert row.error_own == entries[row.own_at].error_own
        assert row.error_merged == max(entry.error_merged for entry in entries.values())
        assert row.error_merged == entries[row.merged_at].error_merged
    stages = stage_rows(detr.ranges)
    worst = [max(row.error_merged.values()) for row in stages]
    assert worst == sorted(worst, reverse=True)
    for item in detr.ranges.stages:
        (row_of,) = (row for row in stages if row.stage == item.stage)
        if item.depth in detr.ranges.ladder:
            assert row_of.error_own[item.depth] == item.error_own
            assert row_of.error_merged[item.depth] == item.error_merged
    content = json.loads(json.dumps(report_rows(detr.ranges, KeepingRules(max_ratio=1.0001))))
    assert content["max_ratio"] == 1.0001
    assert [row["tensor"] for row in content["joins"]]
    assert "differs" in content["joins"][0]["kept"]
    assert len(content["stages"]) == len(stages)


def test_a_report_is_drawn_with_all_its_rows(detr: Case, tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        draw_report(detr.ranges, tmp_path / "deep" / "report.svg")
    text = (tmp_path / "deep" / "report.svg").read_text()
    for name in (*detr.ranges.ladder, *(row.stage for row in stage_rows(detr.ranges))):
        assert f">{name}<" in text
    for row in join_rows(detr.ranges):
        assert f">{row.tensor}<" in text
        assert f">{row.ratio:.2f}x<" in text
    assert "in float<" in text
    assert "matplotlib.pyplot" not in sys.modules
    without = detr.ranges.model_copy(update={"stages": []})
    draw_report(without, tmp_path / "report.png", KeepingRules(max_ratio=1.0001))
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_that_cannot_be_drawn_says_why(
    detr: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"report\.docx.*\.png or \.pdf or \.svg"):
        draw_report(detr.ranges, tmp_path / "report.docx")
    (tmp_path / "file").touch()
    with pytest.raises(CalibrationError, match="cannot be written"):
        draw_report(detr.ranges, tmp_path / "file" / "report.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"anydepth-deploy\[plot\]"):
        draw_report(detr.ranges, tmp_path / "report.png")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_reporting_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, anydepth_deploy.calibration.report\n"
        "assert not {'torch', 'matplotlib', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
