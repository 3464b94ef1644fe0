"""The commands: what they print, and the exit status they end with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import Run, fails, strict_json
from conftest import RUNGS, random_detr
from edited_bundles import edit_artifact
from handmade import FakeGraphs
from onnx import numpy_helper

from anydepth_deploy import cli, train
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.commands import demo
from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.train.config import TrainConfig, TrainResult
from anydepth_deploy.trained import checkpoint_of
from anydepth_deploy.version import __version__


def change_one_weight(graph: onnx.ModelProto) -> None:
    """One number of the first convolution, by a hundredth."""
    (stem,) = (item for item in graph.graph.initializer if list(item.dims)[1:] == [3, 7, 7])
    values = numpy_helper.to_array(stem).copy()
    values[0, 0, 3, 3] += 0.01
    stem.CopyFrom(numpy_helper.from_array(values, stem.name))


# --- inspect ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_inspect(
    run: Run, checkpoint: Path, bundle: Bundle, model: AnyDepthDETR, kind: str
) -> None:
    path = checkpoint if kind == "checkpoint" else bundle.path
    found = run("inspect", path, "--json").json
    assert found["kind"] == kind
    assert (found["family"], found["config"]) == ("anydepth-detr", "tiny")
    assert found["parameters"] == sum(value.numel() for value in model.parameters())
    assert found["input_size"] == [160, 160]
    assert found["weights"] == "ema"
    assert len(found["classes"]) == 8
    assert [gate["choices"] for gate in found["gates"]] == [["F", "T"]] * 5 + [["3", "2", "1"]]
    depths = found["depths"]
    assert [row["index"] for row in depths] == list(range(96))
    assert [row["level"] for row in depths] == [0, 1, 2, 3, *[None] * 92]
    assert [row["depth"] for row in depths[:4]] == list(RUNGS)
    macs = count_macs(model, (160, 160))
    for row in depths:
        assert row["macs"] == macs.at(model.table.find(row["depth"]))
        parts = {name: count for name, count in row["macs"].items() if name != "total"}
        assert row["macs"]["total"] == sum(parts.values()) > 0
        assert set(parts) >= {"backbone", "encoder", "decoder"}


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_inspect_for_people(run: Run, checkpoint: Path, bundle: Bundle, kind: str) -> None:
    path = checkpoint if kind == "checkpoint" else bundle.path
    shown = run("inspect", path)
    assert (shown.code, shown.err) == (0, "")
    for text in ("anydepth-detr tiny", "1.896 M parameters", "96 depths", RUNGS[0], RUNGS[3]):
        assert text in shown.out
    assert "FTFT-F-1" not in shown.out
    assert ("gated-fp32-shared.onnx" in shown.out) == (kind == "bundle")
    assert "FTFT-F-1" in run("inspect", path, "--every").out


def test_inspect_at_another_size(run: Run, checkpoint: Path) -> None:
    small = run("inspect", checkpoint, "--size", "64x96", "--json").json
    large = run("inspect", checkpoint, "--json").json
    assert small["input_size"] == [64, 96]
    assert small["depths"][0]["macs"]["total"] < large["depths"][0]["macs"]["total"]
    fails(run("inspect", checkpoint, "--size", "100x100"), 2, "100x100", "multiples of 32")
    for size in ("big", "64x64x64", "x", "-64", "²x²", "9" * 5000):
        fails(run("inspect", checkpoint, "--size", size), 2, "is not HEIGHTxWIDTH")


def test_inspect_what_is_not_there(run: Run, tmp_path: Path) -> None:
    fails(run("inspect", tmp_path / "nothing.pth"), 2, "nothing.pth does not exist")
    fails(run("inspect", tmp_path), 2, "is not a bundle")
    (tmp_path / "text.pth").write_text("text")
    fails(run("inspect", tmp_path / "text.pth"), 2, "text.pth", "is not a PyTorch file")


def test_inspect_an_altered_bundle(run: Run, bundle_copy: Path) -> None:
    path = bundle_copy / "gated-fp32-shared.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    fails(run("inspect", bundle_copy), 2, "gated-fp32-shared.onnx has", "export it again")


# --- export ----------------------------------------------------------------------------------


def test_export(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeGraphs().install(monkeypatch)
    out = tmp_path / "bundle"
    classes = tmp_path / "names.txt"
    classes.write_text("\n".join(f"thing {index}" for index in range(8)))
    options = ["--out", out, "--classes", classes, "--ladder", "base,FTFT-F-1,super"]
    found = run("export", checkpoint, *options, "--json").json
    assert [item["name"] for item in found["artifacts"]] == ["gated-fp32-shared"]
    assert found["classes"][3] == "thing 3"
    assert [row["level"] for row in found["depths"][:4]] == [0, 1, 2, None]
    assert found["depths"][1]["depth"] == "FTFT-F-1"

    more = ["--layout", "gated,set", "--weights", "shared,folded", "--depth", "all"]
    shown = run("export", checkpoint, *options, *more)
    assert shown.code == 0
    assert "static-fp32-FTFT-F-1.onnx" in shown.out
    assert len(fake.saved) == 5
    found = run("export", checkpoint, *options, *more, "--json").json
    assert len(fake.saved) == len(found["artifacts"]) == 5

    fails(run("export", checkpoint, "--out", out), 2, "holds another export", "--force")
    # What is not named is kept, so this is no other export: the one graph is made anew.
    found = run("export", checkpoint, "--out", out, "--force", "--raw", "--json").json
    assert [item["raw"] for item in found["artifacts"]] == [False] * 4 + [True]
    assert len(fake.saved) == 6
    assert found["classes"][3] == "thing 3"
    assert [row["level"] for row in found["depths"][:4]] == [0, 1, 2, None]


def test_export_again_from_the_real_thing(run: Run, checkpoint: Path, bundle_copy: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in bundle_copy.glob("*.onnx")}
    found = run("export", checkpoint, "--out", bundle_copy, "--json").json
    assert len(found["artifacts"]) == len(before) == 6
    assert {p.name: p.stat().st_mtime_ns for p in bundle_copy.glob("*.onnx")} == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--layout", "heap"], "unknown layout 'heap'"),
        (["--layout", ""], "unknown layout ''"),
        (["--weights", "light"], "unknown weights 'light'"),
        (["--weights", ","], "unknown weights ''"),
        (["--depth", "FFXF-F-1"], "unknown depth 'FFXF-F-1'"),
        (["--ladder", "super,base"], "a ladder goes from base"),
        (["--ladder", "nowhere.json"], "ladder file nowhere.json cannot be read"),
        (["--size", "50x50"], "multiples of 32"),
        (["--size", "0x64"], "multiples of 32"),
        (["--size", "20000"], "at most 8192"),
        (["--classes", "nowhere.txt"], "class names nowhere.txt cannot be read"),
        (["--layout", "gated", "--depth", "base"], "a gated graph holds every depth"),
    ],
)
def test_export_with_bad_options(
    run: Run, checkpoint: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    fails(run("export", checkpoint, "--out", tmp_path / "b", *options), 2, told)
    assert not (tmp_path / "b").exists()


# --- verify ----------------------------------------------------------------------------------


def test_verify(run: Run, checkpoint: Path, bundle_copy: Path) -> None:
    found = run("verify", bundle_copy, "--checkpoint", checkpoint, "--json").json
    assert found["passed"] is True
    assert len(found["rows"]) == 12
    assert {"artifact", "depth", "level", "differences", "selection", "passed"} <= set(
        found["rows"][0]
    )
    shown = run("verify", bundle_copy, "--checkpoint", checkpoint, "--depth", "base")
    assert shown.code == 0
    assert "verified: 3 rows equal the checkpoint" in shown.out
    assert "DIFFERENT" not in shown.out
    results = run("inspect", bundle_copy, "--json").json["results"]
    assert [len(record["rows"]) for record in results["verify"]] == [12, 3]


def test_verify_on_pictures_of_ones_own(
    run: Run, checkpoint: Path, bundle_copy: Path, picture: Path, tmp_path: Path
) -> None:
    command = ["verify", bundle_copy, "--checkpoint", checkpoint, "--depth", "base"]
    assert run(*command, "--layout", "set", "--images", picture, "--json").json["passed"]
    fails(run(*command, "--images", tmp_path / "nothing"), 2, "neither a picture nor a folder")
    text = tmp_path / "text.png"
    text.write_text("x")
    fails(run(*command, "--images", text), 2, "text.png is not a picture")


def test_verify_finds_one_changed_weight(run: Run, checkpoint: Path, bundle_copy: Path) -> None:
    edit_artifact(bundle_copy, "gated-fp32-shared", change_one_weight)
    command = ["verify", bundle_copy, "--checkpoint", checkpoint]
    shown = run(*command, "--json")
    fails(shown, 1, "rows differ from", "do not deploy this bundle")
    found = strict_json(shown.out)
    assert found["passed"] is False
    wrong = {row["artifact"] for row in found["rows"] if not row["passed"]}
    assert wrong == {"gated-fp32-shared"}
    shown = run(*command, "--layout", "gated", "--depth", "super,base")
    fails(shown, 1, "rows differ from")
    assert "DIFFERENT" in shown.out
    assert run(*command, "--layout", "set").code == 0


def test_verify_reports_infinite_differences_as_json(
    run: Run, checkpoint: Path, bundle_copy: Path
) -> None:
    def spoil(graph: onnx.ModelProto) -> None:
        for tensor in graph.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and list(tensor.dims) == [8]:
                values = np.full(8, np.nan, np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    edit_artifact(bundle_copy, f"static-fp32-{RUNGS[0]}", spoil)
    shown = run(
        "verify", bundle_copy, "--checkpoint", checkpoint, "--depth", "base", "--layout", "set",
        "--json",
    )  # fmt: skip
    fails(shown, 1, "1 of 1 rows differ")
    (row,) = strict_json(shown.out)["rows"]
    assert row["differences"]["logits"] is None
    assert run("inspect", bundle_copy, "--json").json["results"]["verify"]


def test_verify_with_another_checkpoint(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save(random_detr(seed=9).state_dict(), other)
    fails(run("verify", bundle.path, "--checkpoint", other), 2, "was made from tiny.pth")
    fails(run("verify", bundle.path, "--checkpoint", tmp_path / "none"), 2, "does not exist")
    fails(run("verify", tmp_path / "none", "--checkpoint", other), 2, "none does not exist")


# --- eval and shapes -------------------------------------------------------------------------


def test_eval(run: Run, bundle_copy: Path, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "shapes", 10, seed=3, size=160)
    # The random network's classes have no names but "class 0" and so on.
    fails(run("eval", bundle_copy, "--data", data), 2, "class 0", "triangle", "--match-by-rank")
    command = ["eval", bundle_copy, "--data", data, "--match-by-rank"]
    ladder = tmp_path / "ladder.json"
    found = run(*command, "--depth", "all", "--ladder-out", ladder, "--json").json
    assert [row["level"] for row in found["rows"]] == [0, 1, 2, 3]
    assert all(0 <= row["ap"] <= row["ap50"] <= 100 for row in found["rows"])
    assert (found["mapped_by"], found["pictures"], found["findings"]) == ("rank", 10, [])
    assert found["matched"][2] == {"class": "class 2", "category": "rectangle"}
    rungs = json.loads(ladder.read_text())["ladder"]
    assert (rungs[0], rungs[-1]) == (RUNGS[0], RUNGS[3])

    shown = run(*command, "--depth", "base", "--batch", "3", "--layout", "set")
    assert shown.code == 0
    assert "average precision on annotations.json (10 pictures" in shown.out
    assert "matched by rank" in shown.out
    # The same numbers from the gated graph, whatever the batch.
    again = run(*command, "--depth", "base", "--batch", "3", "--layout", "gated", "--json").json
    assert again["rows"] == found["rows"][:1]
    results = run("inspect", bundle_copy, "--json").json["results"]
    assert len(results["eval"]) == 3

    fails(run(*command, "--images", tmp_path), 2, "10 of which are not in", "--images")
    fails(run(*command, "--depth", "super", "--ladder-out", ladder), 2, "base and super")
    fails(run("eval", bundle_copy, "--data", tmp_path / "none.json"), 2, "do not exist")


def test_shapes(run: Run, tmp_path: Path) -> None:
    found = run("shapes", "--out", tmp_path / "s", "--count", 2, "--size", 64, "--json").json
    assert found == {
        "schema_version": 1,
        "annotations": str(tmp_path / "s" / "annotations.json"),
        "pictures": 2,
        "seed": 1,
    }
    shown = run("shapes", "--out", tmp_path / "s", "--count", 3, "--size", 64)
    assert "3 pictures: " in shown.out
    assert len(json.loads(Path(found["annotations"]).read_text())["images"]) == 3


# --- predict ---------------------------------------------------------------------------------


def test_predict(run: Run, bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn.png"
    command = ["predict", bundle.path, picture, "--depth", "level:1", "--out", out]
    (found,) = run(*command, "--threshold", "0.3", "--json").json["predictions"]
    assert found["depth"] == RUNGS[1]
    assert found["drawn"] == str(out)
    assert set(found["detections"][0]) == {"class", "label", "score", "box"}
    shown = run(*command, "--threshold", "0.3")
    assert shown.code == 0
    assert f"{found['detections'][0]['score']:.3f}" in shown.out
    assert str(out) in shown.out
    assert run("predict", bundle.path, picture, "--threshold", "1").code == 0
    assert Path("picture.pred.png").is_file()  # in the working folder


def test_predict_what_cannot_be(run: Run, bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("x")
    fails(run("predict", bundle.path, text), 2, "text.jpg is not a picture")
    fails(run("predict", bundle.path, tmp_path / "none.jpg"), 2, "none.jpg")
    fails(run("predict", tmp_path, picture), 2, "is not a bundle")
    fails(run("predict", bundle.path, picture, "--depth", "deep"), 2, "unknown depth 'deep'")
    fails(run("predict", bundle.path, picture, "--runtime", "caffe"), 2, "unknown runtime 'caffe'")
    assert not list(Path().iterdir())


def test_without_a_runtime(
    run: Run, bundle: Bundle, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fails(run("predict", bundle.path, picture), 2, "pip install 'anydepth-deploy[onnxruntime]'")


# --- train and demo: what they hand on and print ---------------------------------------------


def test_train(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[TrainConfig] = []

    def fake(config: TrainConfig, *, progress: object, note: object, resume: bool) -> TrainResult:
        asked.append(config)
        assert not resume
        return TrainResult(Path(config.output), config.steps, 1.5, 8.0, 2.0, 3.0)

    monkeypatch.setattr(train, "train", fake, raising=False)
    command = ["train", "--out", tmp_path / "t.pth", "--steps", 7, "--batch", 2]
    found = run(*command, "--json").json
    assert found["checkpoint"] == str(tmp_path / "t.pth")
    assert (asked[0].steps, asked[0].batch, found["steps"]) == (7, 2, 7)
    shown = run(*command)
    assert (shown.code, "t.pth" in shown.out) == (0, True)
    assert (asked[0].family, asked[0].learning_rate) == ("anydepth-detr", 1e-3)
    assert run(*command, "--family", "anydepth-yolo", "--learning-rate", 0.004).code == 0
    assert (asked[-1].family, asked[-1].learning_rate) == ("anydepth-yolo", 0.004)
    assert run(*command, "--model", "tiny-fine").code == 0
    assert [config.model for config in (asked[0], asked[-1])] == ["tiny", "tiny-fine"]


def test_demo(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(run("demo", "--checkpoint", tmp_path / "none.pth"), 2, "none.pth does not exist")
    asked: list[tuple[object, ...]] = []

    def fake(*arguments: object, **options: object) -> demo.DemoResult:
        asked.append((*arguments, options))
        return demo.DemoResult("engines/demo", True, "demo.png", [{"ap": 1.0}])

    monkeypatch.setattr(demo, "run_demo", fake)
    found = run("demo", "--checkpoint", "c.pth", "--pictures", 20, "--json").json
    assert found["verified"] is True
    assert found["rows"] == [{"ap": 1.0}]
    options = {"pictures": 20, "quiet": True}
    assert asked == [(Path("c.pth"), Path("engines/demo-anydepth-detr"), options)]
    assert run("demo", "--family", "anydepth-yolo", "--out", "d", "--pictures", 20, "--json").json
    committed = checkpoint_of("anydepth-yolo")
    assert asked[-1] == (committed, Path("d"), options)
    fails(run("demo", "--family", "yolov12"), 2, "'yolov12' cannot be trained: choose one of")


# --- use -------------------------------------------------------------------------------------


def test_version_and_help(run: Run) -> None:
    assert run("--version").out == f"anydepth-deploy {__version__}\n"
    shown = run("--help")
    assert shown.code == 0
    for command in ("inspect", "export", "verify", "eval", "predict", "train", "shapes", "demo"):
        assert command in shown.out
        assert run(command, "--help").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["explode"],
        ["inspect"],
        ["inspect", "x", "--unknown"],
        ["export", "x.pth"],
        ["predict", "b", "p.png", "--threshold", "3"],
        ["predict", "b", "p.png", "--layout", "heap"],
        ["eval", "b", "--data", "d.json", "--batch", "0"],
        ["verify", "b"],
    ],
)
def test_bad_use(run: Run, words: list[str]) -> None:
    shown = run(*words)
    assert shown.code == 2
    assert shown.out == ""
    assert shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path, place: int
) -> None:
    words = ["inspect", str(tmp_path / "none.pth")]
    fails(run(*words), 2)
    words.insert(place, "--debug")
    monkeypatch.setattr(sys, "argv", ["anydepth-deploy", *words])
    with pytest.raises(CheckpointError, match=r"none\.pth does not exist"):
        cli.main()  # Python prints the traceback


def test_errors_of_the_system_are_one_line_too(
    run: Run, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anydepth_deploy import describe

    for error in (PermissionError(13, "Permission denied", "x"), MemoryError("too much")):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(describe, "describe_bundle", fail)
        fails(run("inspect", bundle.path), 2, type(error).__name__)


def test_in_a_process_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    environment = {**os.environ, "TERM": "dumb"}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anydepth_deploy", *words]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
        )

    done = call("inspect", str(bundle.path), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert strict_json(done.stdout)["config"] == "tiny"
    done = call("inspect", "nothing.pth", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "CheckpointError: checkpoint nothing.pth does not exist" in done.stderr
    assert shutil.which("anydepth-deploy", path=str(Path(sys.executable).parent))
