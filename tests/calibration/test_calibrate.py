"""Calibration end to end: what is observed at which depth, under which name."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from calibration_cases import Case, case, detr_pieces, write_pictures, yolo
from conftest import random_detr
from marked_pictures import save_marked, shown
from PIL import Image
from static_detrs import static_detr

from anydepth_deploy.calibration import calibrate as calibrate_module
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.calibration.graphs import stage_runs
from anydepth_deploy.calibration.table import RangeTable, read_table, write_table
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import (
    AnyDepthError,
    CalibrationError,
    CheckpointError,
    DepthError,
    ImageError,
    InputError,
    UsageError,
)
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.stages import Stage
from anydepth_deploy.graph.assemble import assemble_gated, assemble_static
from anydepth_deploy.graph.passes.placement import Keep, graphs_of
from anydepth_deploy.graph.passes.quantise import SCHEMES, quantise
from anydepth_deploy.graph.pieces import Piece, Pieces

__all__ = ["case", "yolo"]  # fixtures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def detr(checkpoint: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    out = tmp_path_factory.mktemp("ranges") / "detr.json"
    return Case(random_detr(), checkpoint, detr_pieces(), folder, out)


def limits(arrays: Sequence[torch.Tensor]) -> tuple[float, float]:
    return min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)


# --- the values that were seen ---------------------------------------------------------------


def flow_limits(case: Case, depth: Depth) -> dict[str, tuple[float, float]]:
    """What torch gives: the limits of every float tensor that a stage binds, by `stage/tensor`."""
    seen: dict[str, list[torch.Tensor]] = {}

    def note(stage: Stage, tensors: dict[str, torch.Tensor]) -> None:
        for tensor in stage.outputs:
            seen.setdefault(f"{stage.name}/{tensor}", []).append(tensors[tensor])

    with torch.no_grad():
        for images in case.images():
            case.model.eval().flow(torch.from_numpy(images), depth, revise=note)
    return {name: limits(arrays) for name, arrays in seen.items()}


def test_joins_and_stage_outputs_have_the_ranges_that_torch_gives(case: Case) -> None:
    for depth in case.depths:
        wanted = flow_limits(case, depth)
        checked = 0
        for stage in case.model.stages(case.pieces.size):
            for tensor in stage.outputs:
                names = (f"{stage.name}/{tensor}", f"{stage.name}.{stage.variant(depth)}/{tensor}")
                for entries in (case.ranges.tensors.get(name, {}) for name in names):
                    if str(depth) not in entries:
                        continue
                    entry = entries[str(depth)]
                    low, high = wanted[f"{stage.name}/{tensor}"]
                    found = (entry.minimum, entry.maximum)
                    assert found == pytest.approx((low, high), rel=1e-4, abs=1e-5)
                    assert (entry.low, entry.high) == pytest.approx(
                        (min(low, 0), max(high, 0)), rel=1e-4, abs=1e-5
                    )
                    checked += 1
        assert checked >= 8


def test_what_convolutions_read_is_what_torch_gives_them(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By limits, whatever the exporter called the tensors."""
    inputs: list[torch.Tensor] = []
    convolve = torch.nn.functional.conv2d

    def note(values: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        inputs.append(values)
        return convolve(values, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", note)  # which modules call as well
    for depth in case.model.table.ladder:
        runs = []
        with torch.no_grad():
            for images in case.images():
                inputs.clear()
                case.model.eval()(torch.from_numpy(images), depth)
                runs.append(list(inputs))
        wanted = np.array([limits(arrays) for arrays in zip(*runs, strict=True)])
        graph = assemble_static(case.pieces, depth, detections=False).graph
        read = {str(n.inputs[0].name) for n in graph if n.op_type == "Conv" and n.inputs[0]}
        assert len(read) > 20
        for name in read:
            entry = case.ranges.at(name, str(depth))
            gaps = np.abs(wanted - [entry.minimum, entry.maximum]).max(1)
            assert gaps.min() <= 1e-4 * max(1, abs(entry.minimum), entry.maximum), name


def test_a_join_has_the_entries_of_what_feeds_it(case: Case) -> None:
    gated = {
        f"{stage.name}/{tensor}": stage
        for stage in case.model.stages(case.pieces.size)
        for tensor in stage.outputs
        if stage.gates
    }
    joins = case.ranges.tensors.keys() & gated.keys()
    assert len(joins) >= 5
    for join in joins:
        assert list(case.ranges.tensors[join]) == case.ranges.depths
        for depth in case.depths:
            tensor = join.split("/")[1]
            feeding = f"{gated[join].name}.{gated[join].variant(depth)}/{tensor}"
            assert case.ranges.at(join, str(depth)) is not None
            if feeding in case.ranges.tensors:
                one, other = case.ranges.at(join, str(depth)), case.ranges.at(feeding, str(depth))
                same = {"low", "high", "minimum", "maximum", "error_own"}
                assert one.model_dump(include=same) == other.model_dump(include=same)


def test_a_stage_that_passes_on_keeps_the_name_of_what_was_before(detr: Case) -> None:
    runs = {
        run.stage.name: run for run in stage_runs(detr.pieces, detr.model.table.find("FFTT-F-1"))
    }
    assert runs["layer3"].outputs == (("layer3.skipped/stride16", "layer3/stride16"),)
    assert runs["layer4"].inputs == runs["layer3"].outputs
    assert runs["decoder1"].outputs[0] == ("decoder1.full/target",) * 2
    assert runs["decoder2"].variant is None
    assert runs["decoder2"].outputs[0] == ("decoder1.full/target", "decoder2/target")
    assert runs["decoder3"].inputs[0] == ("decoder1.full/target", "decoder2/target")
    assert runs["decoder3"].outputs[0] == ("decoder1.full/target", "decoder3/target")
    assert "postprocess" not in runs


# --- the names that are asked for ------------------------------------------------------------


def asked(model: ir.Model, scheme: str, keep: Keep) -> set[str]:
    """The tensors whose ranges or errors a quantisation may look up in a table."""
    found: set[str] = set()

    def ranges(value: ir.Value) -> tuple[float, float]:
        found.add(value.name or "")
        return 0.0, 1.0

    def noting(node: ir.Node, reason: str | None) -> str | None:
        assert node.inputs[0] is not None
        found.add(node.inputs[0].name or "")
        return keep(node, reason)

    quantise(model, SCHEMES[scheme], ranges, noting)
    return found


def keepers(model: ir.Model) -> list[Keep]:
    """Everything is quantised; then half of it, drawn at random."""
    names = sorted(node.name or "" for graph in graphs_of(model.graph) for node in graph)
    rng = np.random.default_rng(2)
    kept = {name for name in names if rng.random() < 0.5}
    return [lambda node, _: None, lambda node, reason: "kept" if node.name in kept else reason]


def test_the_table_holds_what_quantisation_asks_for_and_nothing_else(case: Case) -> None:
    everything: set[str] = set()
    gated = assemble_gated(case.pieces, case.model.table, "folded", detections=False)
    for keep in keepers(gated):
        for scheme in SCHEMES:
            names = asked(gated.clone(), scheme, keep)
            assert names <= case.ranges.tensors.keys()
            everything |= names
    tied: set[str] = set()
    for depth in case.depths:
        static = assemble_static(case.pieces, depth, detections=False)
        made = {value.name for node in static.graph for value in node.outputs} | {"images"}
        for keep in keepers(static):
            for scheme in SCHEMES:
                names = asked(static.clone(), scheme, keep)
                assert all(str(depth) in case.ranges.tensors.get(name, {}) for name in names)
                everything |= names
        for name, entries in case.ranges.tensors.items():  # and at no depth without it
            join = "." not in name.split("/")[0] and name != "images"
            assert (str(depth) in entries) == (join or name in made)
        for node in static.graph:
            if node.op_type == "Concat":
                tied |= {str(value.name) for value in node.inputs if value is not None}
    # What only a Concat reads takes the range of its result, as long as this is computed in 8 bits.
    assert case.ranges.tensors.keys() - everything <= tied


# --- the table -------------------------------------------------------------------------------


def test_every_variant_and_every_depth_asked_for_is_in_the_table(
    detr: Case, yolo: Case, tmp_path: Path
) -> None:
    for each in (detr, yolo):
        ladder = [str(rung) for rung in each.model.table.ladder]
        assert each.ranges.ladder == ladder
        assert each.ranges.depths[: len(ladder)] == ladder
        tables = {name.split("/")[0] for name in each.ranges.tensors}
        assert {piece.prefix for piece in each.pieces.pieces if has_convolution(piece)} <= tables
    _, found = detr.run(tmp_path / "t.json", depth="TFTF-T-2,base", probe=0, count=1, seed=3)
    assert found.depths == [*found.ladder, "TFTF-T-2"]
    assert (found.pictures.count, found.pictures.seed) == (1, 3)
    assert (found.method, found.percentile) == ("percentile", 99.99)


def has_convolution(piece: Piece) -> bool:
    return any(node.op_type == "Conv" for node in piece.graph)


def test_the_file_holds_the_table_and_is_made_again(
    detr: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_table(detr.path) == detr.ranges
    assert [item.name for item in detr.path.parent.iterdir()] == [detr.path.name]
    monkeypatch.chdir(tmp_path)
    path, found = detr.run(None, percentile=99.0, count=1, probe=0)  # type: ignore[arg-type]
    assert path == Path("calib") / f"{detr.checkpoint.stem}.json"
    assert read_table(tmp_path / path) == found
    again, other = detr.run(None, method="minmax", count=1, probe=0)  # type: ignore[arg-type]
    assert again == path
    assert read_table(path) == other != found


def test_errors_are_those_of_the_values(detr: Case, tmp_path: Path) -> None:
    """Quantised one by one, with the range of the depth and with the merged one."""
    _, found = detr.run(tmp_path / "t.json", percentile=99.0, probe=0)
    name = "layer4/stride32"
    low = min(entry.low for entry in found.tensors[name].values())
    high = max(entry.high for entry in found.tensors[name].values())
    assert found.merged(name) == (low, high)
    for depth in detr.depths:
        with torch.no_grad():
            values = np.concatenate(
                [
                    detr.model.eval().flow(torch.from_numpy(x), depth)["stride32"].numpy()
                    for x in detr.images()
                ]
            ).astype(np.float64)
        entry = found.at(name, str(depth))
        for (below, above), error in (
            ((entry.low, entry.high), entry.error_own),
            ((low, high), entry.error_merged),
        ):
            step = (above - below) / 255
            levels = np.clip(np.rint(values / step), np.rint(below / step), np.rint(above / step))
            wanted = np.sqrt(np.sum((levels * step - values) ** 2) / np.sum(values**2))
            assert error == pytest.approx(wanted, rel=0.02)


def test_pictures_are_turned_unless_told_not_to(detr: Case, tmp_path: Path) -> None:
    """The same as with pictures that lie that way without any mark."""
    stored = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    other = copy.copy(detr)
    found: dict[str, RangeTable] = {}
    for name, pixels, orientation in (
        ("marked", stored, 6),
        ("upright", shown(stored, 6), None),
        ("stored", stored, None),
    ):
        other.folder = tmp_path / name
        save_marked(other.folder / "a.png", pixels, orientation)
        _, found[name] = other.run(tmp_path / "t.json", probe=1)
    other.folder = tmp_path / "marked"
    _, found["told"] = other.run(tmp_path / "t.json", probe=1, orientation="stored")
    for one, same in (("marked", "upright"), ("told", "stored")):
        assert found[one].tensors == found[same].tensors
        assert found[one].stages == found[same].stages
    assert found["marked"].tensors != found["told"].tensors
    assert found["marked"].pictures.orientation == "upright"
    assert found["told"].pictures.orientation == "stored"


def test_pictures_that_calibrate_nothing_are_warned_of_and_the_table_says_so(
    detr: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    black = tmp_path / "black"
    black.mkdir()
    for index in range(3):
        Image.new("RGB", (24, 16)).save(black / f"{index}.png")
    monkeypatch.setattr(detr, "folder", black)
    path, found = detr.run(tmp_path / "t.json", probe=0)
    assert found.warnings[:2] == ["3 of 3 are of one colour", "2 of 3 equal another"]
    assert read_table(path).warnings == found.warnings
    (record,) = caplog.records
    told = record.getMessage()
    assert record.levelname == "WARNING"
    assert told.startswith(f"range table {path}: ")
    assert all(reason in told for reason in found.warnings)


# --- interruptions ---------------------------------------------------------------------------


def test_what_is_said_otherwise_begins_anew(folder: Path, tmp_path: Path) -> None:
    """Ranges of two networks are not mixed, though they are of one file."""
    file, out = tmp_path / "c.pth", tmp_path / "table.json"
    torch.save({"model": static_detr("d-fine").state_dict()}, file)
    options: dict[str, Any] = {
        "count": 2,
        "probe": 0,
        "batch": 1,
        "depth": "L1",
        "ladder": "L1,L3",
        "threads": 1,
        "input_size": (96, 160),
    }
    observed: list[str] = []

    def stop(name: str, *_: int) -> None:
        if name.startswith("observing") and observed:
            raise KeyboardInterrupt
        observed.extend([name] if name.startswith("observing") else [])

    with pytest.raises(KeyboardInterrupt):
        calibrate(file, folder, out, progress=stop, **options)
    assert list(tmp_path.glob(".table.json.*.state"))
    count = len(observed)

    said = Said(decoder_activation="silu")
    whole: list[str] = []
    _, found = calibrate(
        file,
        folder,
        out,
        progress=lambda name, *_: whole.append(name),
        said=said,
        **options,
    )
    assert found.said == {"decoder_activation": "silu"}
    assert read_table(out).said == found.said
    assert count == 1
    assert sum(name.startswith("observing") for name in whole) == 2  # both pictures


def test_an_interrupted_calibration_goes_on_and_gives_the_same_table(
    detr: Case, tmp_path: Path
) -> None:
    steps: list[tuple[str, int, int]] = []
    options: dict[str, Any] = {"count": 3, "probe": 1, "batch": 2}
    _, whole = detr.run(
        tmp_path / "whole.json", progress=lambda *step: steps.append(step), **options
    )
    assert [step[1] for step in steps] == sorted(step[1] for step in steps)
    assert {step[2] for step in steps} == {steps[-1][1]}  # one total, and it is reached
    assert len(whole.stages) == 4 * 7

    out = tmp_path / "resumed" / "table.json"
    one, two = (step[0] for step in steps if step[0].startswith("observing"))
    observed: list[int] = []
    for phase in (one, two, "measuring", "nothing"):
        observed.append(0)

        def go(name: str, *_: int, phase: str = phase) -> None:
            observed[-1] += name.startswith("observing")
            if name.startswith(phase):
                raise KeyboardInterrupt

        if phase != "nothing":
            with pytest.raises(KeyboardInterrupt):
                detr.run(out, progress=go, **options)
            if phase != one:
                (state,) = out.parent.iterdir()
                assert state.name.startswith(".table.json.")
        else:
            _, resumed = detr.run(out, progress=go, **options)
    # Each batch of two was run once: that of the first picture, then that of the third.
    assert observed == [1, 2, 1, 0]
    assert resumed.model_dump(exclude={"created"}) == whole.model_dump(exclude={"created"})
    assert [item.name for item in out.parent.iterdir()] == ["table.json"]


# --- bad use and bad input -------------------------------------------------------------------


@pytest.fixture
def bad(detr: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a call that must not come to its long work."""

    def never(*_: Any, **__: Any) -> Pieces:
        raise AssertionError("exported in vain")

    monkeypatch.setattr(calibrate_module, "export_pieces", never)
    return {"checkpoint": detr.checkpoint, "images": detr.folder, "out": tmp_path / "t.json"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "magic"}, UsageError, "unknown method 'magic'"),
        ({"percentile": 0.0}, UsageError, "percentile 0"),
        ({"percentile": 101.0}, UsageError, "percentile 101"),
        ({"probe": -1}, UsageError, "-1 probe pictures"),
        ({"batch": 0}, UsageError, "batch is 0"),
        ({"threads": 0}, UsageError, "0 threads"),
        ({"count": 0}, UsageError, "0 calibration pictures"),
        ({"depth": "FFFF"}, DepthError, "unknown depth 'FFFF'"),
        ({"ladder": "base,FFTT-F-3"}, DepthError, "from base .* to super"),
        ({"input_size": (100, 160)}, InputError, "multiples of 32"),
        ({"checkpoint": Path("nowhere.pth")}, CheckpointError, "nowhere.pth"),
        ({"images": Path("nowhere")}, ImageError, "neither a picture nor a folder"),
    ],
)
def test_bad_use_is_refused_before_the_long_work(
    bad: dict[str, Any], options: dict[str, Any], error: type[AnyDepthError], message: str
) -> None:
    with pytest.raises(error, match=message):
        calibrate(**{**bad, **options})
    assert not bad["out"].exists()


def test_bad_pictures_are_named_before_the_long_work(bad: dict[str, Any], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ImageError, match="holds no picture"):
        calibrate(**{**bad, "images": empty})
    (empty / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(ImageError, match=r"torn\.png"):
        calibrate(**{**bad, "images": empty})


def test_only_a_range_table_is_replaced(detr: Case, bad: dict[str, Any], tmp_path: Path) -> None:
    for content in ("{}", "not JSON", '{"format": "anydepth-deploy bundle"}', "[1]"):
        bad["out"].write_text(content)
        with pytest.raises(CalibrationError, match=r"t\.json exists and is not a range table"):
            calibrate(**bad)
        assert bad["out"].read_text() == content
    with pytest.raises(CalibrationError, match="is a folder"):
        calibrate(**{**bad, "out": tmp_path})
    with pytest.raises(CalibrationError, match="cannot be written"):
        calibrate(**{**bad, "out": tmp_path / "t.json" / "table.json"})
    newer = {**json.loads(detr.path.read_text()), "version": 2}
    bad["out"].write_text(json.dumps(newer))
    with pytest.raises(AssertionError, match="in vain"):  # which is past all checks
        calibrate(**bad)
    write_table(bad["out"], detr.ranges)
    with pytest.raises(AssertionError, match="in vain"):
        calibrate(**bad)


def test_a_place_that_cannot_be_written_is_refused(bad: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="cannot be written"):
        calibrate(**{**bad, "out": tmp_path / "file" / "t.json"})


def test_a_network_that_overflows_is_refused(detr: Case, tmp_path: Path) -> None:
    pieces = []
    for piece in detr.pieces.pieces:
        graph = piece.graph.clone()
        if piece.stage.name == "layer2":
            for name, value in graph.initializers.items():
                tensor = value.const_value
                if tensor is not None and len(tensor.shape) == 4:
                    value.const_value = ir.tensor(tensor.numpy() * np.float32(1e30), name=name)
        pieces.append(Piece(piece.stage, piece.variant, graph))
    broken = Pieces(tuple(pieces), detr.pieces.size, detr.pieces.raw_outputs)
    with pytest.raises(CalibrationError, match=r"layer2\.skipped/.* TTTT-T-3 .*0\.png.*overflows"):
        detr.run(tmp_path / "t.json", pieces=broken, probe=0)
    assert not (tmp_path / "t.json").exists()


def test_a_table_equals_itself_after_a_round_trip(yolo: Case, tmp_path: Path) -> None:
    write_table(tmp_path / "t.json", yolo.ranges)
    found: RangeTable = read_table(tmp_path / "t.json")
    assert found == yolo.ranges
    assert found.sha256 == yolo.ranges.sha256
