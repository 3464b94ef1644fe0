"""Precisions in Python: what an export makes of them, how close it is, who finds it broken."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from comparisons import assert_equal
from conftest import random_images
from edited_bundles import contents, edit_artifact
from fake_exports import RUNGS, SUM, fake, made_up, ranges
from graph_faults import (
    Change,
    constant,
    convolutions,
    doubled,
    is_quantised,
    scopes,
    shifted,
    swapped,
    zeroed,
)
from handmade import FakeGraphs
from numpy.typing import NDArray
from processors import has_bf16, refuses_int8
from trained_networks import CHECKPOINTS, FAMILIES, lowered_bundle

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.choose import choose_artifacts
from anydepth_deploy.bundle.engines import open_artifacts
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.calibration.keeping import KeepingRules
from anydepth_deploy.calibration.table import default_table, read_table, write_table
from anydepth_deploy.detections import Detections
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import AnyDepthError, BundleError, CalibrationError, UsageError
from anydepth_deploy.evaluation import CocoData, evaluate, precisions_of
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.runtimes.vnni import lacks_vnni
from anydepth_deploy.verifying.graphs import Parity, Report, verify

__all__ = ["fake", "ranges"]  # fixtures

SIDE = 160


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lowered(family: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The trained network in all precisions, gated and static. Read only."""
    return lowered_bundle(family, tmp_path_factory)[0]


@pytest.fixture(scope="module")
def table(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The range table that `lowered` was made with."""
    return lowered_bundle(family, tmp_path_factory)[1]


def only(bundle: Bundle, *names: str) -> Bundle:
    """The bundle with these artifacts only."""
    kept = [item for item in bundle.manifest.artifacts if item.name in names]
    assert len(kept) == len(names)
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"artifacts": kept}))


# --- what an export makes --------------------------------------------------------------------


def digests(bundle: Bundle) -> dict[str, tuple[str, str]]:
    return {item.name: (item.file, item.sha256) for item in bundle.artifacts()}


def test_every_precision_has_its_own_artifacts(
    tmp_path: Path, checkpoint: Path, ranges: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    found = export_bundle(
        checkpoint,
        out,
        layouts=["set", "gated"],
        weights=["folded", "shared"],
        precision=["int8", "fp32", "fp16"],
        targets=["tensorrt", "onnxruntime"],
        ranges=ranges,
    )
    forms = [("fp32", ""), ("fp16", ""), ("int8", ""), ("int8", "-tensorrt")]
    kinds = [("gated", "shared"), ("gated", "folded"), *(("static", rung) for rung in RUNGS)]
    expected = [f"{kind}-{form}-{what}{end}" for form, end in forms for kind, what in kinds]
    assert [item.name for item in found.artifacts()] == expected
    assert [item.file for item in found.artifacts()] == [f"{name}.onnx" for name in expected]
    assert fake.exports == 1
    sha = read_table(ranges).sha256
    assert sha == file_sha256(ranges)
    for item in found.artifacts():
        form = next(form for form in ("fp32", "fp16", "int8") if f"-{form}-" in item.name)
        assert item.precision == form
        if form != "int8":
            assert item.quantisation is None
            continue
        scheme = item.quantisation
        assert scheme is not None
        target = "tensorrt" if item.name.endswith("-tensorrt") else "onnxruntime"
        assert scheme.model_dump() == {
            "target": target,
            "calibration": {
                "file": "ranges.json",
                "sha256": sha,
                "method": "minmax",
                "pictures": 9,
                "depths": list(RUNGS),
            },
            "max_ratio": 4.0,
            "max_error": 0.1,
            "keep": [],
            "quantise": [],
        }
    assert [item.depth for item in found.artifacts("set", "fp16")] == list(RUNGS)


def test_only_what_is_missing_is_made(
    tmp_path: Path, checkpoint: Path, ranges: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    export_bundle(checkpoint, out)
    options: dict[str, Any]
    for options in (
        {"precision": ["fp32", "fp16"]},
        {"precision": ["int8"], "ranges": ranges},
        {"precision": ["int8"], "ranges": ranges, "targets": ["tensorrt"]},
        {"precision": ["int8"], "ranges": ranges, "layouts": ["set"], "depth": "base"},
    ):
        before, written = contents(out), len(fake.saved)
        export_bundle(checkpoint, out, **options)
        after = contents(out)
        assert len(fake.saved) == written + 1
        assert len(after) == len(before) + 1
        assert all(after[name] == before[name] for name in before if name != MANIFEST)
    whole = contents(out)
    export_bundle(
        checkpoint,
        out,
        precision=["fp32", "fp16", "int8"],
        targets=["onnxruntime", "tensorrt"],
        ranges=ranges,
        rules=KeepingRules(),
    )
    assert contents(out) == whole
    assert fake.exports == 5
    assert [item.name for item in open_bundle(out).artifacts()] == [
        "gated-fp32-shared",
        "gated-fp16-shared",
        "gated-int8-shared",
        "gated-int8-shared-tensorrt",
        f"static-int8-{RUNGS[0]}",
    ]


@pytest.mark.parametrize(
    "rules",
    [
        KeepingRules(max_ratio=2.0),
        KeepingRules(max_error=0.2),
        KeepingRules(keep=("layer1",)),
        KeepingRules(quantise=("layer1",)),
        None,
    ],
)
def test_another_table_or_other_rules_make_the_int8_graphs_again(
    tmp_path: Path, checkpoint: Path, ranges: Path, fake: FakeGraphs, rules: KeepingRules | None
) -> None:
    """`rules` None: the rules stay, the table changes (under the same name)."""
    out = tmp_path / "b"
    precision, targets = ["fp32", "fp16", "int8"], ["onnxruntime", "tensorrt"]
    options: dict[str, Any] = {"precision": precision, "targets": targets, "ranges": ranges}
    export_bundle(checkpoint, out, **options)
    before = contents(out)
    if rules is None:
        write_table(ranges, made_up(checkpoint, pictures={"count": 8, "sha256": SUM, "seed": 1}))
    fake.saved.clear()
    save, written = fake.save, list[str]()

    def save_other(model: Any, path: Path, **_: object) -> None:
        save(model, path)
        path.write_bytes(path.read_bytes() + b"other")
        written.append(path.name)

    fake.save = save_other  # type: ignore[method-assign]
    found = export_bundle(checkpoint, out, **options, rules=rules)
    assert len(fake.saved) == 2
    assert written == [".gated-int8-shared.partial", ".gated-int8-shared-tensorrt.partial"]
    after = contents(out)
    for name in ("gated-fp32-shared.onnx", "gated-fp16-shared.onnx"):
        assert after[name] == before[name]
    assert sorted(name for name in after if not name.endswith(".onnx")) == [
        "golden.safetensors",
        "manifest.json",
    ]
    assert len(after) == 6
    for item in found.artifacts(precision="int8"):
        scheme = item.quantisation
        assert scheme is not None
        assert scheme.calibration.sha256 == file_sha256(ranges)
        wanted = rules or KeepingRules()
        assert (scheme.max_ratio, scheme.max_error) == (wanted.max_ratio, wanted.max_error)
        assert (scheme.keep, scheme.quantise) == ([*wanted.keep], [*wanted.quantise])
        assert after[item.file][0].endswith(b"other")
    export_bundle(checkpoint, out, **options, rules=rules)
    assert len(fake.saved) == 2


def test_the_default_table_is_that_of_the_checkpoint(
    tmp_path: Path, checkpoint: Path, fake: FakeGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"calib/tiny\.json does not exist.*'anydepth-deploy cal"):
        export_bundle(checkpoint, "b", precision=["int8"])
    assert not list(tmp_path.iterdir())
    assert default_table(checkpoint) == Path("calib/tiny.json")
    write_table("calib/tiny.json", made_up(checkpoint))
    found = export_bundle(checkpoint, "b", precision=["int8"])
    scheme = found.artifacts()[0].quantisation
    assert scheme is not None
    assert scheme.calibration.file == "tiny.json"


NEW_FIELDS = ("precision", "quantisation", "quantised", "kept")


def test_a_bundle_without_these_fields_opens(
    bundle_copy: Path, checkpoint: Path, ranges: Path, fake: FakeGraphs
) -> None:
    """One that was written before there were other precisions."""
    content = json.loads((bundle_copy / MANIFEST).read_text())
    for item in content["artifacts"]:
        for name in NEW_FIELDS:
            del item[name]
    (bundle_copy / MANIFEST).write_text(json.dumps(content))
    found = open_bundle(bundle_copy)
    assert {item.precision for item in found.artifacts()} == {"fp32"}
    assert all(item.quantisation is None and not item.kept for item in found.artifacts())
    assert precisions_of(found) == ["fp32"]
    images = random_images(1, SIDE, SIDE)
    assert found.session(artifact="gated").run(images).scores.shape == (1, 100)
    more = export_bundle(checkpoint, bundle_copy, precision=["fp32", "int8"], ranges=ranges)
    assert fake.saved == ["gated shared"]
    assert more.manifest.artifacts[:-1] == found.manifest.artifacts


# --- what cannot be exported -----------------------------------------------------------------


def other_checkpoint(table: dict[str, Any]) -> None:
    table["checkpoint"] = {"file": "older.pth", "sha256": SUM}


def other_size(table: dict[str, Any]) -> None:
    table["size"] = table["preprocess"]["size"] = [96, 192]


def without_a_rung(table: dict[str, Any]) -> None:
    for depths in (table["ladder"], table["depths"]):
        depths.remove(RUNGS[1])
    for entries in table["tensors"].values():
        del entries[RUNGS[1]]


def damaged(table: dict[str, Any]) -> None:
    table["tensors"]["images"][RUNGS[0]]["low"] = 3.0


def of_another_version(table: dict[str, Any]) -> None:
    table["version"] = 2


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (other_checkpoint, {}, r"made from another checkpoint \(older\.pth.*calibrate this one"),
        (other_size, {}, "made for inputs of 96x192 .* this export is for 160x160"),
        (None, {"input_size": (96, 192)}, "inputs of 160x160 .* this export is for 96x192"),
        (without_a_rung, {}, f"no ranges of {RUNGS[1]}; it has .*--depth all,{RUNGS[1]}"),
        (None, {"ladder": "base,TFTF-T-2,super"}, "no ranges of TFTF-T-2"),
        (None, {"depth": "base,TFTF-T-2"}, "no ranges of TFTF-T-2"),
        (None, {"depth": "every", "layouts": ["set"]}, "no ranges of .* and 86 more.*depth every"),
        (damaged, {}, r"is damaged: tensors\.images.TTTT-T-3\.low.*make it again"),
        (of_another_version, {}, "has version 2"),
    ],
)
def test_tables_that_do_not_fit(
    tmp_path: Path,
    checkpoint: Path,
    fake: FakeGraphs,
    change: Callable[[dict[str, Any]], None] | None,
    options: dict[str, Any],
    told: str,
) -> None:
    content = made_up(checkpoint).model_dump(mode="json")
    if change is not None:
        change(content)
    ranges = tmp_path / "ranges.json"
    ranges.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=rf"ranges\.json.*{told}") as caught:
        export_bundle(
            checkpoint, tmp_path / "b", precision=["fp32", "int8"], ranges=ranges, **options
        )
    assert "\n" not in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["ranges.json"]
    assert fake.exports == 0


def test_what_is_only_for_int8(tmp_path: Path, checkpoint: Path, ranges: Path) -> None:
    options: dict[str, Any]
    for options in ({"ranges": ranges}, {"rules": KeepingRules(keep=("layer1",))}):
        with pytest.raises(UsageError, match="for --precision int8 only"):
            export_bundle(checkpoint, tmp_path / "b", precision=["fp32", "fp16"], **options)
    for options, told in (
        ({"precision": ["int4"]}, "unknown precision 'int4': expected fp32 or fp16 or int8"),
        ({"precision": ["bf16"]}, "unknown precision 'bf16'"),
        ({"precision": []}, "unknown precision ''"),
        ({"targets": ["tpu"]}, "unknown target 'tpu': expected onnxruntime or tensorrt"),
        ({"targets": []}, "unknown target ''"),
    ):
        with pytest.raises(UsageError, match=told):
            export_bundle(checkpoint, tmp_path / "b", **options)
    assert [item.name for item in tmp_path.iterdir()] == ["ranges.json"]


def test_a_target_without_int8_is_refused(
    tmp_path: Path, checkpoint: Path, fake: FakeGraphs
) -> None:
    with pytest.raises(UsageError, match="target"):
        export_bundle(checkpoint, tmp_path / "b", precision=["fp16"], targets=["tensorrt"])


@pytest.mark.parametrize("name", ["max_ratio", "max_error"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_a_threshold_is_a_number_that_a_manifest_can_hold(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}: expected a finite number"):
        KeepingRules(**{name: value})  # type: ignore[arg-type]


def test_a_table_under_another_name_makes_nothing_anew(
    tmp_path: Path, checkpoint: Path, ranges: Path, fake: FakeGraphs
) -> None:
    export_bundle(checkpoint, tmp_path / "b", precision=["int8"], ranges=ranges)
    renamed = ranges.rename(tmp_path / "renamed.json")
    export_bundle(checkpoint, tmp_path / "b", precision=["int8"], ranges=renamed)
    assert len(fake.saved) == 1


# --- real graphs -----------------------------------------------------------------------------


def fields_of(bundle: Bundle, name: str) -> Artifact:
    (item,) = (item for item in bundle.artifacts() if item.name == name)
    return item


def test_the_manifest_counts_what_the_graphs_hold(lowered: Bundle) -> None:
    """Read back from the files with onnx alone."""
    for item in lowered.artifacts():
        model = onnx.load(lowered.path / item.file)
        found = convolutions(model)
        eight = {name for name, place in found.items() if is_quantised(*place)}
        assert item.quantised == len(eight)
        if item.precision == "int8":
            assert len(eight) > 30
            kept = {entry.node for entry in item.kept if entry.op == "Conv"}
            constants = {
                name
                for name, (around, node) in found.items()
                if name in eight or constant(around, node.input[1]) is not None
            }
            assert kept == constants - eight
        assert all(entry.op and entry.reason for entry in item.kept)
        known = {node.name for around in scopes(model.graph) for node in around[0].node}
        assert {entry.node for entry in item.kept} <= known
        kinds = {tensor.data_type for around in scopes(model.graph)
                 for tensor in around[0].initializer}  # fmt: skip
        half = item.precision == "fp16" or item.name.endswith("-tensorrt")
        assert (onnx.TensorProto.FLOAT16 in kinds) == half
        assert (onnx.TensorProto.INT8 in kinds) == (item.precision == "int8")
        unsigned = item.precision == "int8" and not half
        assert (onnx.TensorProto.UINT8 in kinds) == unsigned


def test_rules_are_obeyed_and_recorded(
    lowered: Bundle, table: Path, family: str, tmp_path: Path
) -> None:
    stage = "layer2" if family == "anydepth-detr" else "layer11"
    rules = KeepingRules(keep=(f"{stage}.full", "*skipped/Conv_0"), max_ratio=100.0)
    found = export_bundle(
        CHECKPOINTS[family], tmp_path / "b", precision=["int8"], ranges=table, rules=rules
    )
    (item,) = found.artifacts()
    model = onnx.load(found.path / item.file)
    for name, (around, node) in convolutions(model).items():
        if name.startswith(f"{stage}.full/") or name.endswith("skipped/Conv_0"):
            assert not is_quantised(around, node), name
    reasons = {entry.reason for entry in item.kept}
    assert {f"--keep {pattern}" for pattern in rules.keep} <= reasons
    assert 0 < item.quantised < fields_of(lowered, item.name).quantised
    assert item.quantisation is not None
    assert item.quantisation.keep == [*rules.keep]
    assert verified(found, family, "super", "base").passed


@pytest.mark.parametrize("words", [("layr1",), ("layer1", "Layer1"), ("conv_0",)])
def test_a_misspelt_pattern_is_refused(
    lowered: Bundle,
    table: Path,
    family: str,
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    folder = Path(shutil.copytree(lowered.path, tmp_path / "b"))
    before = contents(folder)
    if family == "anydepth-yolo":
        words = tuple(word.replace("layer1", "layer11") for word in words)
    for field in ("keep", "quantise"):
        with pytest.raises(UsageError, match=f"'{words[-1]}' .*matches nothing") as caught:
            export_bundle(
                CHECKPOINTS[family],
                folder,
                precision=["int8"],
                ranges=table,
                rules=KeepingRules(**{field: words}),  # type: ignore[arg-type]
            )
        assert f"'{words[0]}'" not in str(caught.value) or len(words) == 1
    assert contents(folder) == before


def test_a_misspelt_pattern_leaves_nothing(table: Path, family: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="matches nothing"):
        export_bundle(
            CHECKPOINTS[family],
            tmp_path / "b",
            precision=["int8"],
            ranges=table,
            rules=KeepingRules(keep=("layr1",)),
        )
    assert not list(tmp_path.iterdir())


def test_an_int8_graph_without_8_bits_is_refused(table: Path, family: str, tmp_path: Path) -> None:
    with pytest.raises(AnyDepthError, match="quantise"):
        export_bundle(
            CHECKPOINTS[family],
            tmp_path / "b",
            precision=["int8"],
            ranges=table,
            rules=KeepingRules(keep=("*",)),
        )


def test_a_table_of_another_version_of_the_graphs(
    lowered: Bundle, table: Path, family: str, tmp_path: Path
) -> None:
    """It lacks tensors: the bundle stays as it was, FP32 is not made in vain."""
    content = json.loads(table.read_text())
    stage = "layer2.full/" if family == "anydepth-detr" else "layer11.full/"
    for name in [name for name in content["tensors"] if name.startswith(stage)]:
        del content["tensors"][name]
    other = tmp_path / "table.json"
    other.write_text(json.dumps(content))
    folder = Path(shutil.copytree(lowered.path, tmp_path / "b"))
    before = contents(folder)
    for targets in (["onnxruntime"], ["tensorrt"]):
        with pytest.raises(CalibrationError, match=r"no tensor '.*calibrate") as caught:
            export_bundle(
                CHECKPOINTS[family],
                folder,
                layouts=["gated", "set"],
                precision=["fp32", "fp16", "int8"],
                targets=targets,
                ranges=other,
            )
        assert "\n" not in str(caught.value)
    assert contents(folder) == before


# --- parity ----------------------------------------------------------------------------------


def verified(bundle: Bundle, family: str, *depths: str, **options: Any) -> Report:
    return verify(
        bundle,
        str(CHECKPOINTS[family]),
        verification_batches(bundle.manifest.preprocess),
        depths=[bundle.table.find(depth) for depth in depths] or None,
        record=False,
        threads=1,
        **options,
    )


def test_artifacts_in_all_precisions_are_what_they_should_be(lowered: Bundle, family: str) -> None:
    report = verified(lowered, family, "super", "base")
    assert [row for row in report.rows if not row.passed] == []
    # One gated and two static graphs of each form, at super and at base.
    assert len(report.rows) == 4 * 4
    assert set(report.tolerances) == {"fp32", "fp16", "int8"}
    limits = report.tolerances
    assert [limits[name].approximate for name in ("fp32", "fp16", "int8")] == [False, True, True]
    for row in report.rows:
        assert row.precision == row.artifact.split("-")[1]
        tolerance = limits[row.precision]
        assert row.differences.keys() == tolerance.raw.keys()
        assert all(value <= tolerance.raw[name] for name, value in row.differences.items())
        # Zero would mean that nothing was compared.
        assert all(row.differences[name] > 0 for name in row.differences if name != "queries")
        assert row.detections > 0
    errors: dict[str, list[float]] = {name: [] for name in limits}
    for row in report.rows:
        errors[row.precision].append(max(row.differences.values()))
    assert max(errors["fp16"]) < min(errors["int8"])
    others = set(digests(lowered)) - {row.artifact for row in report.rows}
    assert set(report.left_out) == others
    for name, limit in limits["fp16"].raw.items():
        assert limit <= limits["int8"].raw[name]


def test_one_precision_may_be_verified(lowered: Bundle, family: str) -> None:
    report = verified(lowered, family, "base", precision="int8", layout="gated")
    assert [row.artifact for row in report.rows] == [
        "gated-int8-shared",
        "gated-int8-shared-tensorrt",
    ]
    assert set(report.tolerances) == {"int8"}
    assert report.passed
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        verified(lowered, family, "base", precision="int4")
    with pytest.raises(BundleError, match="no artifact for the depths asked for in fp16; it has"):
        verified(only(lowered, "gated-int8-shared"), family, "base", precision="fp16")
    with pytest.raises(UsageError, match="'onnxruntime' cannot compute in bf16"):
        verified(lowered, family, "base", precision="bf16")


Spoil = Callable[[str, Change, str], Parity]


@pytest.fixture
def spoil(lowered: Bundle, family: str, tmp_path: Path) -> Spoil:
    """The verdict on an artifact at a depth after a change to its graph."""

    def run(name: str, change: Change, depth: str) -> Parity:
        item = fields_of(lowered, name)
        folder = tmp_path / "spoiled"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(lowered.path / item.file, folder)
        alone = lowered.manifest.model_copy(update={"artifacts": [item]})
        (folder / MANIFEST).write_text(alone.model_dump_json())
        edit_artifact(folder, name, change)
        (row,) = verified(open_bundle(folder), family, depth).rows
        return row

    return run


# What is broken: by family, the artifact, the change and a depth at which it must show. Stages of
# the trained tiny networks that contribute next to nothing there (attention of the YOLO, the last
# stage of the backbone) have no place in this list: breaking them passes for rounding. So do, in
# INT8, swapped branches of most gates: what a gate changes is less than what 8 bits do.
INT8, FP16 = "gated-int8-shared", "gated-fp16-shared"
BROKEN: dict[str, list[tuple[str, Change, str]]] = {
    "anydepth-detr": [
        (INT8, zeroed("stem.full", 0), "super"),
        (INT8, zeroed("layer2.skipped", -1), "base"),
        (INT8, zeroed("layer3.full", 0), "base"),
        (INT8, zeroed("encoder.skipped", 0), "base"),
        (INT8, doubled("queries.full", 0), "base"),
        (INT8, doubled("layer1.full", -1), "super"),
        (INT8, doubled("layer3.skipped", -1), "base"),
        (INT8, doubled("encoder.full", 0), "super"),
        (INT8, shifted("layer1.skipped", 0), "base"),
        (INT8, shifted("layer2.full", 0), "super"),
        (INT8, shifted("layer4.full", 0), "super"),
        (INT8, shifted("encoder.skipped", -1), "base"),
        (INT8, swapped(0), "super"),
        (INT8, swapped(4), "base"),
        (FP16, zeroed("layer3.full", -1), "super"),
        (FP16, zeroed("layer4.skipped", -1), "base"),
        (FP16, zeroed("encoder.full", -1), "super"),
        (FP16, swapped(2), "super"),
        ("gated-int8-shared-tensorrt", zeroed("layer2.full", 0), "super"),
        ("gated-int8-shared-tensorrt", doubled("encoder.skipped", 0), "base"),
        ("static-int8-TTTT-T-3", doubled("layer1.skipped", 0), "base"),
        ("static-int8-FFFF-F-3-tensorrt", zeroed("layer1.full", 0), "super"),
    ],
    "anydepth-yolo": [
        (INT8, zeroed("entry.full-full", 0), "super"),
        (INT8, zeroed("layer6.full", 0), "super"),
        (INT8, zeroed("layer17.skipped", -1), "base"),
        (INT8, zeroed("layer20.full", 0), "super"),
        (INT8, doubled("entry.skipped-skipped", -1), "base"),
        (INT8, doubled("layer11.full", -1), "super"),
        (INT8, doubled("layer14.skipped", -1), "base"),
        (INT8, shifted("head.full", 0), "super"),
        (INT8, shifted("layer8.full", 0), "super"),
        (INT8, shifted("layer11.skipped", -1), "base"),
        (INT8, shifted("layer20.full", -1), "super"),
        (INT8, swapped(4), "super"),
        (FP16, zeroed("layer6.full", -1), "super"),
        (FP16, zeroed("layer8.skipped", -1), "base"),
        (FP16, zeroed("layer20.skipped", 0), "base"),
        (FP16, swapped(6), "super"),
        ("gated-int8-shared-tensorrt", zeroed("layer14.full", 0), "super"),
        ("static-int8-TTTTTTTT", doubled("layer14.skipped", -1), "base"),
        ("static-int8-FFFFFFFF-tensorrt", zeroed("layer11.full", 0), "super"),
    ],
}


def test_broken_layers_are_found(spoil: Spoil, family: str) -> None:
    """The same artifacts pass when nothing is changed, see above."""
    unseen = []
    for index, (name, change, depth) in enumerate(BROKEN[family]):
        row = spoil(name, change, depth)
        assert row.artifact == name
        if row.passed:
            unseen.append((index, name, depth, row.differences, row.selection, row.unmatched))
    assert not unseen


def test_the_record_says_what_was_computed_in_what(
    lowered: Bundle, family: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(lowered.path, tmp_path / "b"))
    opened = open_bundle(folder)
    batches = verification_batches(opened.manifest.preprocess)[:1]
    depths = [opened.table.find("base")]
    report = verify(
        opened, str(CHECKPOINTS[family]), batches, depths=depths, layout="gated", threads=1
    )
    (record,) = open_bundle(folder).manifest.results["verify"]
    assert record["passed"] is report.passed is True
    assert [(row["artifact"], row["precision"]) for row in record["rows"]] == [
        ("gated-fp32-shared", "fp32"),
        ("gated-fp16-shared", "fp16"),
        ("gated-int8-shared", "int8"),
        ("gated-int8-shared-tensorrt", "int8"),
    ]
    assert {item["sha256"] for item in record["artifacts"]} == {
        item.sha256 for item in opened.artifacts("gated")
    }
    limits = record["tolerances"]
    assert set(limits) == {"fp32", "fp16", "int8"}
    assert limits["fp32"]["approximate"] is False
    assert limits["int8"]["raw"] == dict(report.tolerances["int8"].raw)
    assert (limits["int8"]["confident"], limits["int8"]["unmatched"]) == (0.5, 0.1)


def test_openvino_runs_what_is_made_for_it(lowered: Bundle, family: str) -> None:
    bf16 = has_bf16()
    bundle = only(
        lowered, "gated-fp32-shared", "gated-fp16-shared", "gated-int8-shared",
        "gated-int8-shared-tensorrt",
    )  # fmt: skip
    report = verified(bundle, family, "base", runtime="openvino")
    assert [row for row in report.rows if not row.passed] == []
    if lacks_vnni():  # of INT8, nothing can be said here
        assert [row.precision for row in report.rows] == ["fp32", "fp16"]
        assert report.left_out == ["gated-int8-shared", "gated-int8-shared-tensorrt"]
        with pytest.raises(UsageError, match="CPU without VNNI"):
            verified(only(lowered, "gated-int8-shared"), family, "base", runtime="openvino")
    else:
        assert [row.precision for row in report.rows] == ["fp32", "fp16", "int8"]
        assert report.left_out == ["gated-int8-shared-tensorrt"]
    with pytest.raises(BundleError, match="no artifact for the depths asked for"):
        verified(only(lowered, "gated-int8-shared-tensorrt"), family, "base", runtime="openvino")
    if not bf16:
        pytest.skip("this CPU has no BF16")
    found = verified(bundle, family, "super", runtime="openvino", precision="bf16")
    (row,) = found.rows
    assert (row.artifact, row.precision, row.passed) == ("gated-fp32-shared", "bf16", True)
    assert set(found.tolerances) == {"bf16"}
    assert found.tolerances["bf16"].approximate
    # It is no FP32 that passes for BF16.
    (exact,) = (one for one in report.rows if one.precision == "fp32")
    for name, limit in report.tolerances["fp32"].raw.items():
        if limit:
            assert row.differences[name] > exact.differences[name]


@pytest.fixture(scope="module")
def for_both(family: str, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """INT8 for ONNX Runtime and for OpenVINO, from one range table. Read only."""
    return export_bundle(
        CHECKPOINTS[family],
        tmp_path_factory.mktemp("both") / "bundle",
        layouts=["gated", "set"],
        depth="base,super",
        weights=["shared", "folded"],
        precision=["int8"],
        targets=["openvino", "onnxruntime"],
        ranges=table,
    )


def test_what_is_made_for_openvino(for_both: Bundle, family: str) -> None:
    """OpenVINO takes it before all else, and nobody else does; the rounding is of one table."""
    has_bf16()
    ours = [item for item in for_both.artifacts() if item.name.endswith("-openvino")]
    assert len(ours) == len(for_both.artifacts()) / 2 == 4
    for item in ours:
        assert item.quantisation is not None
        assert item.quantisation.target == "openvino"
        graphs = list(graphs_of(ir.load(for_both.file(item)).graph))
        by_type = Counter(node.op_type for graph in graphs for node in graph)
        assert by_type["QuantizeLinear"] > 10
        zeros = {
            int(array)
            for graph in graphs
            for node in graph
            if node.op_type == "QuantizeLinear"
            and (value := node.inputs[2]) is not None
            and value.const_value is not None
            for array in np.ravel(value.const_value.numpy())
        }
        assert zeros == {0}  # symmetric
    chosen = {
        runtime: [
            item.name for item in choose_artifacts(for_both, None, "int8", None, runtime=runtime)
        ]
        for runtime in ("onnxruntime", "openvino")
    }
    assert chosen == {
        "onnxruntime": ["gated-int8-shared"],
        "openvino": ["gated-int8-shared-openvino"],
    }
    with pytest.raises(UsageError, match=r"is made for openvino, .*'onnxruntime'"):
        only(for_both, "gated-int8-shared-openvino").session(
            precision="int8", target="openvino", threads=1
        )
    elsewhere = verified(for_both, family, "base")
    assert {item.name for item in ours} <= set(elsewhere.left_out)
    assert not any(row.artifact.endswith("-openvino") for row in elsewhere.rows)
    advice = r"is made for openvino, .*: verify it with --runtime openvino"
    with pytest.raises(BundleError, match=advice):
        verified(only(for_both, *(item.name for item in ours)), family, precision="int8")
    if refuses_int8(lambda: for_both.session("openvino", "gated", "int8", threads=1)):
        return
    report = verified(for_both, family, "base", "super", runtime="openvino")
    assert [row for row in report.rows if not row.passed] == []
    assert sum(row.artifact.endswith("-openvino") for row in report.rows) == 2 * 3
    images = verification_batches(for_both.manifest.preprocess)[1]
    assert len(images) > 1
    for depth in ("base", "super"):
        shared, folded = (
            for_both.session("openvino", "gated", "int8", weights=weights, threads=1).run(
                images, depth
            )
            for weights in ("shared", "folded")
        )
        np.testing.assert_allclose(shared.scores, folded.scores, atol=0.03)


def test_openvino_refuses_what_is_made_for_tensorrt(lowered: Bundle) -> None:
    """It would compute something else: its scores are off by tenths."""
    has_bf16()
    with pytest.raises(AnyDepthError, match="tensorrt"):
        lowered.session("openvino", precision="int8", target="tensorrt", threads=1)


# --- accuracy --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoData:
    return CocoData(write_coco(tmp_path_factory.mktemp("shapes"), 12, 5, "val"))


def test_accuracy_is_recorded_by_precision(lowered: Bundle, data: CocoData, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lowered.path, tmp_path / "b"))
    opened = open_bundle(folder)
    depths = [opened.table.find("base"), opened.table.find("super")]
    assert precisions_of(opened) == ["fp32", "fp16", "int8"]
    assert precisions_of(only(opened, "gated-int8-shared-tensorrt")) == []
    assert precisions_of(only(opened, "gated-int8-shared-tensorrt"), target="tensorrt") == ["int8"]
    wanted: list[tuple[str, str, list[str]]] = []
    for precision, target, layout in (
        ("fp16", "onnxruntime", "gated"),
        ("int8", "onnxruntime", "gated"),
        ("int8", "tensorrt", "set"),
    ):
        rows = evaluate(
            opened, data, depths, layout=layout, precision=precision, target=target, threads=1
        )
        assert [(row.precision, row.depth) for row in rows] == [
            (precision, str(depth)) for depth in depths
        ]
        end = "-tensorrt" if target == "tensorrt" else ""
        gated = [f"gated-{precision}-shared{end}"]
        static = [f"static-{precision}-{depth}{end}" for depth in depths]
        wanted.append((precision, target, gated if layout == "gated" else static))
    records = open_bundle(folder).manifest.results["eval"]
    for record, (precision, _, names) in zip(records, wanted, strict=True):
        assert record["precision"] == precision
        assert [item["name"] for item in record["artifacts"]] == names
        hashes = digests(opened)
        assert all(item["sha256"] == hashes[item["name"]][1] for item in record["artifacts"])


# --- sessions --------------------------------------------------------------------------------


def near(one: Detections, other: Detections, score: float) -> bool:
    """Whether each of the confident detections of one has a like in the other."""
    mine, theirs = one.image(0, 0.6), other
    return bool(len(mine.labels[0])) and all(
        (
            (theirs.labels[0] == label)
            & (np.abs(theirs.scores[0] - sure) <= score)
            & (np.abs(theirs.boxes[0] - box).max(-1) < 8)
        ).any()
        for label, box, sure in zip(mine.labels[0], mine.boxes[0], mine.scores[0], strict=True)
    )


@pytest.mark.parametrize("layout", ["gated", "set"])
def test_sessions_in_every_precision(lowered: Bundle, layout: str) -> None:
    pictures = verification_batches(lowered.manifest.preprocess)[0]
    rungs = [str(rung) for rung in lowered.table.ladder]
    options: dict[str, dict[str, Any]] = {
        name: {"precision": name} for name in ("fp32", "fp16", "int8")
    }
    options["int8 for tensorrt"] = {"precision": "int8", "target": "tensorrt"}
    if has_bf16():
        options["bf16"] = {"precision": "bf16", "runtime": "openvino"}
    answers: dict[str, dict[str, Detections]] = {}
    for name, choice in options.items():
        session = lowered.session(artifact=layout, threads=1, **choice)
        assert len(session.depths) == len(rungs if layout == "set" else lowered.table.rows)
        answers[name] = {rung: session.run(pictures, rung) for rung in rungs}
        for rung, found in answers[name].items():
            assert found.scores.dtype == found.boxes.dtype == np.float32
            assert found.labels.dtype == np.int64
            assert near(answers["fp32"][rung], found, 0.2), (name, rung)
    first = {name: found[rungs[0]].scores for name, found in answers.items()}
    for name, other in itertools.combinations(first, 2):  # none is another one in disguise
        if {name, other} != {"fp16", "fp32"}:
            assert not np.array_equal(first[name], first[other])


def test_threads_on_one_int8_graph(lowered: Bundle) -> None:
    session = lowered.session(artifact="gated", precision="int8", threads=1)
    rungs = range(lowered.table.levels)
    work = [(level, seed) for seed in range(6) for level in rungs]
    alone = {item: session.run(inputs(item), item[0]) for item in work}
    found: dict[tuple[int, int], Detections] = {}
    errors: list[BaseException] = []
    ready = threading.Barrier(4)

    def run(mine: Sequence[tuple[int, int]]) -> None:
        try:
            ready.wait()
            for item in mine:
                found[item] = session.run(inputs(item), item[0])
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(work[start::4][::-1],)) for start in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    for item in work:
        assert_equal(found[item], alone[item])
    assert not np.array_equal(alone[0, 0].scores, alone[1, 0].scores)


def inputs(item: tuple[int, int]) -> NDArray[np.float32]:
    return random_images(1 + item[1] % 2, SIDE, SIDE, item[1])


def test_what_a_bundle_does_not_have(lowered: Bundle) -> None:
    part = only(lowered, "gated-fp32-shared", "gated-int8-shared-tensorrt")
    told = "no artifact '{}'; it has: gated fp32 shared, gated int8 shared for tensorrt"
    for options, wanted in (
        ({"precision": "fp16"}, "fp16"),
        ({"precision": "int8"}, "int8 for onnxruntime"),
        ({"precision": "int8", "artifact": "set"}, "set int8 for onnxruntime"),
    ):
        with pytest.raises(BundleError, match=told.format(wanted)) as caught:
            part.session(**options)  # type: ignore[arg-type]
        layout = f" --layout {options['artifact']}" if "artifact" in options else ""
        told_to = f"'export --precision {options['precision']}{layout}' adds it"
        assert told_to in str(caught.value)
    for artifact in ("gated", "set"):
        with pytest.raises(UsageError, match="cannot compute in bf16"):
            lowered.session(artifact=artifact, precision="bf16").run(random_images(1, SIDE, SIDE))


def test_an_artifact_is_opened_as_what_it_is_made_for(lowered: Bundle) -> None:
    """An optimisation of ONNX Runtime goes wrong with FP16 scales; sessions leave it out."""
    images = verification_batches(lowered.manifest.preprocess)[0]
    item = fields_of(lowered, "gated-int8-shared-tensorrt")
    direct = open_artifacts(lowered, [item], threads=1).run(images)
    chosen = lowered.session(precision="int8", target="tensorrt", threads=1).run(images)
    assert_equal(direct, chosen)
    assert near(lowered.session(threads=1).run(images), chosen, 0.2)
