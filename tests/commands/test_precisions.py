"""Precisions at the command line: what it takes, what it prints, how it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, fails, strict_json
from edited_bundles import contents, edit_artifact
from fake_exports import fake, made_up, ranges
from graph_faults import shifted
from handmade import FakeGraphs
from processors import has_bf16
from trained_networks import CHECKPOINTS, lowered_bundle

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.calibration.table import write_table
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.runtimes.vnni import lacks_vnni

__all__ = ["fake", "ranges"]  # fixtures

DETR = "anydepth-detr"
CHECKPOINT = CHECKPOINTS[DETR]


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The trained DETR in all precisions, gated and static. Read only."""
    return lowered_bundle(DETR, tmp_path_factory)[0]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lowered_bundle(DETR, tmp_path_factory)[1]


@pytest.fixture
def copy(lowered: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lowered.path, tmp_path / "copy"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("shapes"), 6, 5, "val")


# --- export ----------------------------------------------------------------------------------


def test_export(run: Run, checkpoint: Path, ranges: Path, tmp_path: Path, fake: FakeGraphs) -> None:
    command = ["export", checkpoint, "--out", tmp_path / "b", "--json"]
    options = ["--precision", "fp32,fp16,int8", "--target", "onnxruntime, tensorrt"]
    rules = ["--keep", "layer1, *Conv_3", "--quantise", "layer2", "--max-ratio", 8,
             "--max-error", 0.2]  # fmt: skip
    found = run(*command, *options, "--ranges", ranges, *rules).json["artifacts"]
    assert [item["name"] for item in found] == [
        "gated-fp32-shared",
        "gated-fp16-shared",
        "gated-int8-shared",
        "gated-int8-shared-tensorrt",
    ]
    scheme = found[3]["quantisation"]
    assert found[2]["quantisation"] == {**scheme, "target": "onnxruntime"}
    assert (scheme["keep"], scheme["quantise"]) == (["layer1", "*Conv_3"], ["layer2"])
    assert (scheme["max_ratio"], scheme["max_error"]) == (8, 0.2)
    assert scheme["calibration"]["file"] == "ranges.json"
    # The same again, and then with the thresholds that hold by default.
    assert run(*command, *options, "--ranges", ranges, *rules).json["artifacts"] == found
    assert len(fake.saved) == 4
    again = run(*command, "--precision", "int8", "--ranges", ranges).json["artifacts"]
    assert len(fake.saved) == 5
    assert {item["name"]: item["quantisation"] and item["quantisation"]["max_ratio"]
            for item in again} == {
        "gated-fp32-shared": None,
        "gated-fp16-shared": None,
        "gated-int8-shared": 4,
        "gated-int8-shared-tensorrt": 8,
    }  # fmt: skip


def test_export_finds_the_table_in_the_working_folder(
    run: Run, checkpoint: Path, tmp_path: Path, fake: FakeGraphs
) -> None:
    command = ["export", checkpoint, "--out", "b", "--precision", "int8"]
    fails(run(*command), 2, "INT8 needs a range table", "calib/tiny.json does not exist",
          f"'anydepth-deploy calibrate {checkpoint} --images FOLDER'", "--ranges")  # fmt: skip
    assert not list(Path.cwd().iterdir())
    write_table("calib/tiny.json", made_up(checkpoint))
    shown = run(*command)
    assert shown.code == 0
    assert "gated-int8-shared.onnx" in shown.out


def test_export_repeats_what_the_table_says_of_its_pictures(
    run: Run,
    checkpoint: Path,
    tmp_path: Path,
    fake: FakeGraphs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pictures = {"count": 512, "sha256": "0" * 64, "seed": 0}
    told = ["3 of 512 are blue", "2 of 512 are green"]
    write_table("sound.json", made_up(checkpoint, pictures=pictures))
    write_table("doubted.json", made_up(checkpoint, pictures=pictures, warnings=told))
    write_table("few.json", made_up(checkpoint, pictures={**pictures, "count": 3}))
    command = ["export", checkpoint, "--out", tmp_path / "b", "--precision", "fp32,int8"]

    def warnings(name: str) -> list[str]:
        caplog.clear()
        assert run(*command, "--ranges", name).code == 0
        return [item.getMessage() for item in caplog.records]

    assert warnings("sound.json") == []
    for _ in range(2):  # also where nothing is missing
        (line,) = warnings("doubted.json")
        assert line.startswith("range table doubted.json: ")
        assert all(reason in line for reason in told)
    (line,) = warnings("few.json")
    assert "in all: 3, at least" in line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--precision", "int4"], "unknown precision 'int4': expected fp32 or fp16 or int8"),
        (["--precision", "bf16"], "unknown precision 'bf16'"),
        (["--precision", ","], "unknown precision ''"),
        (["--precision", "FP16"], "unknown precision 'FP16'"),
        (["--precision", "int8", "--target", "tpu"], "unknown target 'tpu'"),
        (["--precision", "int8", "--ranges", "none.json"], "none.json does not exist"),
        (["--precision", "int8", "--ranges", "."], "cannot be read"),
        (["--precision", "int8", "--ranges", "text.json"], "text.json is not valid JSON"),
        (["--precision", "int8", "--ranges", "list.json"], "list.json is not a range table"),
        (["--precision", "int8", "--max-ratio", "0.5"], "--max-ratio"),
        (["--precision", "int8", "--max-error", "-1"], "--max-error"),
        (["--precision", "int8", "--max-error", "nan"], "--max-error"),
        (["--keep", "layer1"], "for --precision int8 only"),
        (["--quantise", "layer1"], "for --precision int8 only"),
        (["--precision", "fp16", "--max-ratio", "4"], "for --precision int8 only"),
        (["--precision", "fp16", "--ranges", "list.json"], "for --precision int8 only"),
    ],
)
def test_export_with_bad_options(
    run: Run, checkpoint: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    Path("text.json").write_text("text")
    Path("list.json").write_text("[]")
    fails(run("export", checkpoint, "--out", tmp_path / "b", *options), 2, told)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["cwd"]


def test_export_with_a_table_of_something_else(
    run: Run, checkpoint: Path, table: Path, tmp_path: Path, fake: FakeGraphs
) -> None:
    command = ["export", checkpoint, "--out", tmp_path / "b", "--precision", "fp32,int8"]
    fails(run(*command, "--ranges", table), 2, "made from another checkpoint (anydepth-detr-tiny")
    command[1] = CHECKPOINT
    fails(run(*command, "--ranges", table, "--size", "96x192"), 2, "inputs of 160x160", "96x192")
    every = ["--layout", "set", "--depth", "every"]
    fails(run(*command, "--ranges", table, *every), 2, "has no ranges of", "--depth every")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["cwd"]
    assert not fake.saved


def test_export_without_a_limit_for_ratios(
    run: Run, checkpoint: Path, ranges: Path, tmp_path: Path, fake: FakeGraphs
) -> None:
    command = ["export", checkpoint, "--out", tmp_path / "b"]
    assert run(*command).code == 0
    run(*command, "--precision", "int8", "--ranges", ranges, "--max-ratio", "inf")
    assert run("inspect", tmp_path / "b").code == 0


def test_export_with_a_misspelt_pattern(run: Run, table: Path, copy: Path) -> None:
    before = contents(copy)
    command = ["export", CHECKPOINT, "--out", copy, "--precision", "int8", "--ranges", table]
    fails(run(*command, "--keep", "layer1,layr2"), 2, "'layr2' (of --keep", "matches nothing",
          "stem, layer1, layer2")  # fmt: skip
    fails(run(*command, "--quantise", "?ayer"), 2, "'?ayer'", "matches nothing")
    assert contents(copy) == before


# --- calibrate -------------------------------------------------------------------------------


def test_calibrate_without_what_it_needs(run: Run, tmp_path: Path) -> None:
    fails(run("calibrate", CHECKPOINT), 2, "--images")
    command = ["calibrate", CHECKPOINT, "--images"]
    fails(run(*command, "nowhere"), 2, "nowhere is neither a picture nor a folder")
    Path("empty").mkdir()
    fails(run(*command, "empty"), 2, "holds no picture")
    Path("empty/torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    fails(run(*command, "empty"), 2, "torn.png")
    Path("notes.json").write_text('{"mine": 1}')
    fails(run(*command, "empty", "--out", "notes.json"), 2, "notes.json exists and is not a range")
    assert Path("notes.json").read_text() == '{"mine": 1}'
    fails(run(*command, "empty", "--out", "empty"), 2, "is a folder")
    fails(run(*command, "empty", "--method", "magic"), 2, "--method")
    fails(run("calibrate", "none.pth", "--images", "empty"), 2, "none.pth does not exist")
    assert not (Path("calib") / f"{CHECKPOINT.stem}.json").exists()


# --- verify ----------------------------------------------------------------------------------


def test_verify(run: Run, copy: Path) -> None:
    command = ["verify", copy, "--checkpoint", CHECKPOINT, "--depth", "base"]
    shown = run(*command)
    assert shown.code == 0
    verdicts = [line.split()[0] + " " + line.split()[-1] for line in shown.out.splitlines()
                if line.rstrip().endswith(("equal", "close", "DIFFERENT"))]  # fmt: skip
    assert verdicts == [
        "gated-fp32-shared equal",
        "static-fp32 equal",
        "gated-fp16-shared close",
        "static-fp16 close",
        "gated-int8-shared close",
        "static-int8 close",
        "gated-int8-shared-tensorrt close",
        "static-int8-tensorrt close",
    ]
    assert "verified: 2 rows equal the checkpoint, 6 rows (fp16, int8) are close to it" in shown.out
    assert "not tried: static-fp32-TTTT-F-3" in shown.out
    found = run(*command, "--precision", "int8", "--layout", "gated", "--json").json
    assert [row["artifact"] for row in found["rows"]] == [
        "gated-int8-shared",
        "gated-int8-shared-tensorrt",
    ]
    assert set(found["tolerances"]) == {"int8"}
    assert found["tolerances"]["int8"]["approximate"] is True
    records = open_bundle(copy).manifest.results["verify"]
    assert [set(record["tolerances"]) for record in records] == [{"fp32", "fp16", "int8"}, {"int8"}]
    shown = run("inspect", copy)
    assert "verified: 8 of 20 artifacts agree with the checkpoint" in shown.out


def test_verify_finds_a_broken_int8_graph(run: Run, copy: Path) -> None:
    edit_artifact(copy, "gated-int8-shared", shifted("queries.full", 0))
    command = ["verify", copy, "--checkpoint", CHECKPOINT, "--depth", "base", "--layout", "gated"]
    shown = run(*command, "--json")
    fails(shown, 1, "1 of 4 rows differ from", "int8: 0.1 (logits)", "do not deploy this bundle")
    found = strict_json(shown.out)
    assert [row["artifact"] for row in found["rows"] if not row["passed"]] == ["gated-int8-shared"]
    assert run(*command, "--precision", "fp16").code == 0
    fails(run(*command, "--precision", "int8"), 1, "1 of 2 rows differ")
    assert "1 DIFFER" in run("inspect", copy).out


def test_verify_with_openvino(run: Run, copy: Path) -> None:
    bf16 = has_bf16()
    command = ["verify", copy, "--checkpoint", CHECKPOINT, "--layout", "gated", "--depth", "base",
               "--runtime", "openvino"]  # fmt: skip
    shown = run(*command)
    assert shown.code == 0
    if lacks_vnni():  # of INT8, nothing can be said here
        assert "not tried: gated-int8-shared, gated-int8-shared-tensorrt" in shown.out
        fails(run(*command, "--precision", "int8"), 2, "CPU without VNNI")
    else:
        assert "not tried: gated-int8-shared-tensorrt" in shown.out
    if bf16:
        found = run(*command, "--precision", "bf16", "--json").json
        assert [row["precision"] for row in found["rows"]] == ["bf16"]
        assert found["tolerances"]["bf16"]["approximate"] is True


def test_a_verdict_in_bf16_is_none_on_fp32(run: Run, copy: Path) -> None:
    if not has_bf16():
        pytest.skip("this CPU has no BF16")
    command = ["verify", copy, "--checkpoint", CHECKPOINT, "--layout", "gated", "--depth", "base"]
    edit_artifact(copy, "gated-fp32-shared", add_a_little)
    fails(run(*command, "--precision", "fp32"), 1, "1 of 1 rows differ")
    assert run(*command, "--precision", "bf16", "--runtime", "openvino").code == 0
    assert "1 DIFFER" in run("inspect", copy).out


def add_a_little(model: Any) -> None:
    """Enough for FP32 to differ, too little for BF16."""
    from onnx import numpy_helper

    (stem,) = (item for item in model.graph.initializer if list(item.dims)[1:] == [3, 7, 7])
    values = numpy_helper.to_array(stem).copy()
    values[0, 0, 3, 3] += 0.002
    stem.CopyFrom(numpy_helper.from_array(values, stem.name))


def test_verify_what_is_not_there(run: Run, copy: Path) -> None:
    command = ["verify", copy, "--checkpoint", CHECKPOINT]
    fails(run(*command, "--precision", "bf16"), 2, "'onnxruntime' cannot compute in bf16")
    fails(run(*command, "--precision", "int4"), 2, "--precision", "int4")
    keep_only(copy, "gated-fp32-shared")
    fails(run(*command, "--precision", "int8"), 2, "no artifact", "int8", "gated-fp32-shared")


def keep_only(folder: Path, *names: str) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["artifacts"] = [item for item in content["artifacts"] if item["name"] in names]
    (folder / MANIFEST).write_text(json.dumps(content))


# --- eval ------------------------------------------------------------------------------------


def test_eval_in_all_precisions(run: Run, copy: Path, data: Path) -> None:
    command = ["eval", copy, "--data", data, "--depth", "base,super", "--layout", "gated",
               "--threads", 1]  # fmt: skip
    rows = run(*command, "--precision", "all", "--json").json["rows"]
    depths = ["TTTT-T-3", "FFFF-F-3"]
    assert [(row["precision"], row["depth"]) for row in rows] == [
        (precision, depth) for precision in ("fp32", "fp16", "int8") for depth in depths
    ]
    for precision in ("fp32", "fp16", "int8"):
        alone = run(*command, "--precision", precision, "--json").json["rows"]
        assert alone == [row for row in rows if row["precision"] == precision]
    records = open_bundle(copy).manifest.results["eval"]
    assert [record["precision"] for record in records] == 2 * ["fp32", "fp16", "int8"]
    ap = {(row["precision"], row["depth"]): row["ap"] for row in rows}
    ladder = Path("ladder.json")
    shown = run(*command, "--precision", "int8,fp32", "--ladder-out", ladder)
    assert shown.code == 0
    (line,) = (line for line in shown.out.splitlines() if depths[0] in line)
    lost = ap["fp32", depths[0]] - ap["int8", depths[0]]
    assert f"{ap['int8', depths[0]]:.1f}" in line
    assert f"{ap['fp32', depths[0]]:.1f} ({lost:+.1f})" in line
    assert "AP int8" in shown.out
    assert shown.out.count(depths[0]) == 1
    assert json.loads(ladder.read_text())["ladder"][0] == depths[0]


def test_eval_of_graphs_for_tensorrt(run: Run, copy: Path, data: Path) -> None:
    command = ["eval", copy, "--data", data, "--depth", "base", "--threads", 1, "--json"]
    options = ["--precision", "int8", "--layout", "gated"]
    rows = run(*command, *options, "--target", "tensorrt").json["rows"]
    assert [row["precision"] for row in rows] == ["int8"]
    (record,) = open_bundle(copy).manifest.results["eval"]
    assert [item["name"] for item in record["artifacts"]] == ["gated-int8-shared-tensorrt"]


def test_eval_of_what_is_not_there(run: Run, copy: Path, data: Path) -> None:
    command = ["eval", copy, "--data", data, "--depth", "base"]
    fails(run(*command, "--precision", "int4"), 2, "unknown precision 'int4'")
    fails(run(*command, "--precision", "bf16"), 2, "'onnxruntime' cannot compute in bf16")
    fails(run(*command, "--precision", "all,fp32"), 2, "unknown precision 'all'")
    fails(run(*command, "--target", "tpu"), 2, "--target")
    keep_only(copy, "gated-fp32-shared")
    fails(run(*command, "--precision", "int8"), 2, "no artifact 'int8 for onnxruntime'",
          "gated fp32 shared", "'export --precision int8' adds it")  # fmt: skip
    rows = run(*command, "--precision", "all", "--json").json["rows"]
    assert [row["precision"] for row in rows] == ["fp32"]


def test_eval_in_no_precision(run: Run, copy: Path, data: Path) -> None:
    fails(run("eval", copy, "--data", data, "--precision", ","), 2, "precision")


def test_eval_looks_before_it_begins(run: Run, copy: Path, data: Path) -> None:
    keep_only(copy, "gated-fp32-shared")
    command = ["eval", copy, "--data", data, "--depth", "base"]
    fails(run(*command, "--precision", "fp32,int8"), 2, "no artifact 'int8 for onnxruntime'")
    assert not open_bundle(copy).manifest.results


def test_eval_with_a_runtime_that_the_graphs_are_not_made_for(
    run: Run, copy: Path, data: Path
) -> None:
    has_bf16()
    fails(run("eval", copy, "--data", data, "--depth", "base", "--runtime", "openvino",
              "--precision", "int8", "--target", "tensorrt"), 2, "tensorrt")  # fmt: skip


# --- predict and inspect ---------------------------------------------------------------------


def test_predict(run: Run, copy: Path, data: Path) -> None:
    picture = next(path for path in sorted(data.parent.rglob("*.png")))
    command = ["predict", copy, picture, "--depth", "base", "--threshold", 0.3, "--json"]
    found = {}
    for precision in ("fp32", "fp16", "int8"):
        (item,) = run(*command, "--precision", precision, "--out", f"{precision}.png").json[
            "predictions"
        ]
        assert Path(item["drawn"]).is_file()
        found[precision] = item["detections"]
    assert found["fp32"]
    assert found["int8"] != found["fp32"]
    best = {name: rows[0] for name, rows in found.items()}
    assert {row["class"] for row in best.values()} == {best["fp32"]["class"]}
    for row in best.values():
        assert abs(row["score"] - best["fp32"]["score"]) < 0.1
    fails(run(*command, "--precision", "bf16"), 2, "'onnxruntime' cannot compute in bf16")
    fails(run(*command, "--precision", "int4"), 2, "int4")
    keep_only(copy, "gated-int8-shared-tensorrt")
    fails(run(*command), 2, "no artifact 'fp32'")
    fails(run(*command, "--precision", "int8"), 2, "no artifact 'int8 for onnxruntime'")


def test_inspect(run: Run, lowered: Bundle, table: Path) -> None:
    found = run("inspect", lowered.path, "--json").json["artifacts"]
    manifest = json.loads((lowered.path / MANIFEST).read_text())
    assert found == manifest["artifacts"]
    assert {item["precision"] for item in found} == {"fp32", "fp16", "int8"}
    assert all(item["quantised"] > 0 for item in found if item["precision"] == "int8")
    shown = run("inspect", lowered.path).out
    sha = next(item["quantisation"]["calibration"]["sha256"] for item in found
               if item["quantisation"])  # fmt: skip
    for target in ("onnxruntime", "tensorrt"):
        line = f"int8 for {target}: ranges of {table.name} (sha256 {sha[:12]}…, percentile, 64 pict"
        assert line in shown
    assert "fp16: 142 kept (sensitive in half precision): " in shown.replace("\n", " ")
    (line,) = (line for line in shown.splitlines() if "gated-int8-shared.onnx" in line)
    count = next(item["quantised"] for item in found if item["name"] == "gated-int8-shared")
    assert line.split()[1:5] == ["gated", "int8", "shared", "all"]
    assert str(count) in line.split()


def test_inspect_says_what_was_evaluated_in_bf16(run: Run, copy: Path, data: Path) -> None:
    if not has_bf16():
        pytest.skip("this CPU has no BF16")
    command = ["eval", copy, "--data", data, "--depth", "base", "--layout", "gated"]
    assert run(*command, "--precision", "bf16", "--runtime", "openvino").code == 0
    (line,) = (line for line in run("inspect", copy).out.splitlines() if line.startswith("AP of"))
    assert "bf16" in line.lower()
