"""`build` with TensorRT-RTX for real: engines built ahead of time, on a machine without a GPU.

What the engines compute is not known here (nothing runs them); that they build, for which device
and in which types, is read back from the builder.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from trained_networks import CHECKPOINTS, FAMILIES, lowered_bundle, without_any_depth

from anydepth_deploy import cli
from anydepth_deploy.building.build import BuildReport, build_bundle
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.errors import BundleError, DeviceError, PrecisionError, UsageError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.manifest import Artifact, BatchProfile

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'anydepth-deploy[rtx]'")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lowered(family: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Gated and static graphs of a trained network in all precisions; a YOLO's end with
    suppression. Read only."""
    return lowered_bundle(family, tmp_path_factory)[0]


@pytest.fixture(scope="module")
def built(lowered: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, BuildReport]:
    """All layouts in FP16, for a T4 and an RTX card in one engine. Read only."""
    path = copy_of(lowered, tmp_path_factory.mktemp("built"))
    report = build(path, ["sm75", "sm89"], ["fp16"], layouts=["gated", "set", "stages"])
    return open_bundle(path), report


def copy_of(bundle: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.path, folder / "bundle"))


def build(
    path: Path, targets: Sequence[str], precision: Sequence[str] | None, **options: Any
) -> BuildReport:
    return build_bundle(
        path, runtime="tensorrt-rtx", capabilities=targets, precision=precision, **options
    )


def engines(bundle: Bundle, layout: str | None = None) -> list[Artifact]:
    return bundle.artifacts(layout, format="tensorrt-rtx")


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Exit status, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["anydepth-deploy", *words])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    output = capsys.readouterr()
    return exit.value.code, output.out, output.err


def test_every_layout_in_half_precision(
    lowered: Bundle, built: tuple[Bundle, BuildReport], family: str
) -> None:
    bundle, report = built
    found = engines(bundle)
    assert report.built == [item.name for item in found]
    assert report.present == []
    assert report.refused == {}
    (gated,) = engines(bundle, "gated")
    static = engines(bundle, "set")
    pieces = engines(bundle, "stages")
    assert [item.depth for item in static] == [str(depth) for depth in bundle.table.ladder]
    assert len(pieces) == pieces[0].piece.total if pieces[0].piece else 0
    assert (gated.weights, static[0].weights) == ("shared", "folded")
    for item in found:
        assert item.engine is not None
        assert item.engine.capabilities == ["sm75", "sm89"]
        assert item.engine.device is None
        assert item.engine.version.startswith("1.")
        assert item.engine.layers.keys() <= {"fp16"}, item.name
        assert item.verified is None
        assert bundle.file(item).stat().st_size == item.bytes > 0
    # A gated engine holds every convolution and product of all depths; chained pieces likewise.
    full = max(sum(item.engine.layers.values()) for item in static if item.engine)
    for layers in ([gated], pieces):
        assert sum(sum(item.engine.layers.values()) for item in layers if item.engine) > full
    assert gated.bytes < sum(item.bytes for item in static)
    ends = {item.engine.detections for item in found if item.engine}
    assert ends == ({True} if family == "anydepth-detr" else {True, False})
    assert open_bundle(lowered.path).artifacts(format="tensorrt-rtx") == []


def test_one_depth_in_every_layout(tmp_path: Path) -> None:
    """Three engines of the same products; that of layout ``stages`` is the whole network."""
    checkpoint = without_any_depth(tmp_path / "plain.pth")
    export_bundle(checkpoint, tmp_path / "b", layouts=["gated"], precision=["fp16"])
    build(tmp_path / "b", ["sm89"], ["fp16"], layouts=["gated", "set", "stages"])
    bundle = open_bundle(tmp_path / "b")
    found = engines(bundle)
    assert [item.layout for item in found] == ["gated", "set", "stages"]
    assert [item.depth for item in found] == [None, "full", None]
    assert len({sum(item.engine.layers.values()) for item in found if item.engine}) == 1
    piece = found[2].piece
    assert piece is not None
    assert (piece.total, piece.reads) == (1, {"images": "images"})
    assert piece.writes == {"raw_predictions": "raw_predictions"}


def test_suppression_is_left_to_the_host(built: tuple[Bundle, BuildReport]) -> None:
    """TensorRT-RTX has no such operator; a DETR needs none."""
    bundle = built[0]
    last = max(engines(bundle, "stages"), key=lambda item: item.piece.order if item.piece else -1)
    assert last.piece is not None
    assert last.engine is not None
    outputs = set(last.piece.writes)
    raw = {f"raw_{name}" for name in bundle.manifest.raw_outputs}
    assert raw <= outputs
    assert ({"labels", "boxes", "scores"} <= outputs) == last.engine.detections
    assert last.engine.detections == (bundle.manifest.suppression is None)


@pytest.mark.parametrize("target", ["sm86", "sm89", "sm120"])
def test_eight_bits_on_newer_cards(lowered: Bundle, target: str, tmp_path: Path) -> None:
    path = copy_of(lowered, tmp_path)
    layouts = ["gated", "set", "stages"] if target == "sm89" else ["set"]
    depth = "super" if target != "sm89" else "all"
    if target == "sm89":  # one rung less to build
        manifest = json.loads((path / "manifest.json").read_text())
        super_ = str(lowered.table.space.super)
        keep = [item for item in manifest["artifacts"] if item["depth"] in (None, super_)]
        manifest["artifacts"] = keep
        (path / "manifest.json").write_text(json.dumps(manifest))
        layouts = ["gated", "stages"]
    report = build(path, [target], ["int8"], layouts=layouts, depth=depth)
    bundle = open_bundle(path)
    sources = {item.name: item for item in bundle.artifacts(format="onnx")}
    for layout in layouts:
        found = engines(bundle, layout)
        quantised = sum(item.quantised for item in found)
        computed = sum(item.engine.layers.get("int8", 0) for item in found if item.engine)
        assert found[0].engine is not None
        # The builder computes two convolutions of one input as one.
        assert 0.9 * quantised <= computed <= quantised, layout
        assert quantised == sources[found[0].engine.source].quantised
        types = {name for item in found if item.engine for name in item.engine.layers}
        assert types == {"int8", "fp16"}
    assert report.notes == {}


@pytest.mark.parametrize(
    ("target", "precision", "pictures"), [("sm89", "fp32", 2), ("sm120", "fp16", 1)]
)
def test_other_targets_precisions_and_batches(
    lowered: Bundle, target: str, precision: str, pictures: int, tmp_path: Path
) -> None:
    """Of one picture only, TensorRT-RTX 1.7.1 adds boxes in the layer of the product before."""
    path = copy_of(lowered, tmp_path)
    batch = BatchProfile(smallest=pictures, typical=pictures, largest=pictures)
    build(path, [target], [precision], depth="base", batch=batch, workspace=1 << 30)
    (item,) = engines(open_bundle(path))
    assert item.engine is not None
    assert item.engine.layers.keys() == {precision}
    assert (item.engine.batch, item.engine.workspace) == (batch, 1 << 30)
    assert item.depth == str(lowered.table.space.base)
    # TensorRT-RTX has no operator that suppresses.
    assert item.engine.detections == (lowered.manifest.suppression is None)


def test_what_a_t4_cannot_deliver(lowered: Bundle, tmp_path: Path) -> None:
    """Left out and said where all precisions of the bundle are built; an error where asked for."""
    path = copy_of(lowered, tmp_path)
    report = build(path, ["sm75"], None, depth="super")
    assert [item.precision for item in engines(open_bundle(path))] == ["fp16"]
    assert report.refused.keys() == {"fp32", "int8"}
    assert "FP32 cannot be delivered for sm75" in report.refused["fp32"]
    assert "FP32 GEMM is not supported" in report.refused["fp32"]
    assert "INT8 cannot be delivered for sm75" in report.refused["int8"]
    before = sorted(item.name for item in path.iterdir())
    for precision in ("fp32", "int8"):
        with pytest.raises(PrecisionError, match=f"{precision.upper()} cannot be delivered"):
            build(path, ["sm75"], [precision], depth="super")
    # One engine for several targets computes as the weakest of them does.
    with pytest.raises(PrecisionError, match="leave sm75 out"):
        build(path, ["sm75", "sm89"], ["int8"], depth="super")
    assert sorted(item.name for item in path.iterdir()) == before


def test_a_second_build_makes_only_what_is_missing(
    built: tuple[Bundle, BuildReport], tmp_path: Path
) -> None:
    path = copy_of(built[0], tmp_path)
    pieces = engines(built[0], "stages")
    gone = [pieces[0], engines(built[0], "set")[0]]
    for item in gone:
        (path / item.file).unlink()
    report = build(path, ["sm75", "sm89"], ["fp16"], layouts=["gated", "set", "stages"])
    assert sorted(report.built) == sorted(item.name for item in gone)
    assert len(report.present) == len(engines(built[0])) - 2
    assert len(engines(open_bundle(path))) == len(engines(built[0]))


def test_engines_from_exported_pieces(family: str, tmp_path: Path) -> None:
    """Where the bundle has pieces they are built as they are; their engines are the same chain."""
    found = export_bundle(
        CHECKPOINTS[family], tmp_path / "bundle", layouts=["stages"], precision=["fp16"]
    )
    build(found.path, ["sm89"], ["fp16"], layouts=["stages"])
    graphs = found.artifacts("stages", format="onnx")
    made = engines(open_bundle(found.path), "stages")
    assert [item.piece and item.piece.when for item in made] == [
        item.piece and item.piece.when for item in graphs
    ]
    assert [item.engine and item.engine.source for item in made] == [item.name for item in graphs]


def test_gathers(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = copy_of(lowered_bundle("anydepth-detr", tmp_path_factory)[0], tmp_path)
    for deformable in ("gridsample", "gather"):
        options = {"depth": "base", "deformable": deformable}
        build(path, ["sm75"], ["fp16"], **options)
    plain, gathered = engines(open_bundle(path))
    assert (plain.deformable, gathered.deformable) == ("gridsample", "gather")
    assert plain.sha256 != gathered.sha256
    yolo = lowered_bundle("anydepth-yolo", tmp_path_factory)[0]
    with pytest.raises(UsageError, match=r"no graph of .* has a GridSample"):
        build(yolo.path, ["sm75"], ["fp16"], depth="base", deformable="gather")


def test_a_graph_is_not_changed_by_building_from_it(built: tuple[Bundle, BuildReport]) -> None:
    for item in built[0].artifacts(format="onnx"):
        ir.load(built[0].file(item))  # which compares the hash


def test_running_needs_a_gpu(built: tuple[Bundle, BuildReport]) -> None:
    with pytest.raises(DeviceError, match="no NVIDIA GPU"):
        built[0].session(runtime="tensorrt-rtx", precision="fp16")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "sm42"], "unknown target 'sm42': .* builds for sm75"),
        ([], "no NVIDIA GPU"),
        (["--target", "sm89", "--layout", "nested"], "unknown layout 'nested': expected gated"),
        (["--target", "sm89", "--precision", "fp8"], "unknown precision 'fp8': expected fp32"),
        (["--target", "sm89", "--batch", "4,2"], "batch '4,2' does not rise"),
        (["--target", "sm89", "--batch", "0"], "batch '0' is not one to three sizes"),
        (["--target", "sm89", "--workspace", "much"], "'much' is not an amount of memory"),
        (["--target", "sm89", "--depth", "FFF"], "depth 'FFF'"),
    ],
)
def test_bad_use(
    lowered: Bundle,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["build", str(lowered.path), "--runtime", "tensorrt-rtx", *words]
    status, out, err = run(monkeypatch, capsys, *command)
    assert (status, out) == (2, "")
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert re.search(message, line), line


def test_a_bundle_without_a_graph_to_build_from(bundle_copy: Path) -> None:
    with pytest.raises(BundleError, match=r"no graph .* int8; it has: gated-fp32.* adds one"):
        build(bundle_copy, ["sm89"], ["int8"])


def test_without_tensorrt(
    lowered: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    command = ["build", str(lowered.path), "--runtime", "tensorrt"]
    status, _, err = run(monkeypatch, capsys, *command)
    assert status == 2
    assert "TensorRT" in err
    assert "JetPack" in err


def test_export_and_build_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--format", "tensorrt-rtx", "--target", "sm89", "--precision", "fp16", "--json"]
    """A network of one depth: the fewest engines."""
    checkpoint, out = without_any_depth(tmp_path / "plain.pth"), tmp_path / "bundle"
    words += ["--out", str(out), "--layout", "stages"]
    status, printed, _ = run(monkeypatch, capsys, "export", str(checkpoint), *words)
    assert status == 0
    made = engines(open_bundle(out), "stages")
    names = {item["name"] for item in json.loads(printed)["artifacts"]}
    assert names == {"gated-fp16-folded", *(item.name for item in made)}
    status, printed, _ = run(monkeypatch, capsys, "inspect", str(out))
    assert re.search(r"engines built with tensorrt-rtx 1\..* for sm89$", printed, re.MULTILINE)
    lines = [line for line in printed.splitlines() if ".engine" in line]
    assert len(lines) == len(made)
    assert all(re.search(r"piece \d+ .* MB .* 1-4 .* unverified", line) for line in lines)
