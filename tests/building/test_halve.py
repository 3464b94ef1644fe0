"""FP16 graphs made of a bundle alone: byte for byte what export makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from static_bundles import static_bundle

import anydepth_deploy as ad
from anydepth_deploy.building.halve import halve_bundle
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.errors import BundleError, DepthError, MissingExtraError, UsageError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.verifying.golden import verify_golden

LAYOUTS = ["gated", "set", "stages"]


def only_fp32(bundle: Bundle, folder: Path) -> Path:
    """A copy without the FP16 graphs."""
    shutil.copytree(bundle.path, folder)
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    for item in content["artifacts"]:
        if item["precision"] == "fp16":
            (folder / item["file"]).unlink()
    content["artifacts"] = [i for i in content["artifacts"] if i["precision"] == "fp32"]
    path.write_text(json.dumps(content))
    return folder


def bytes_of(bundle: Bundle) -> dict[str, bytes]:
    return {
        item.name: bundle.file(item).read_bytes()
        for item in bundle.artifacts(precision="fp16", format="onnx")
    }


APART = ("built_with", "build_seconds", "created", "verified")


def described(bundle: Bundle) -> dict[str, Any]:
    """What the manifest says of the FP16 graphs, but for who made them and when."""
    return {
        item.name: item.model_dump(exclude={*APART}) for item in bundle.artifacts(precision="fp16")
    }


@pytest.fixture(scope="module", params=["detr", "yolo", "rt-detr", "gather"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, bool]:
    """A bundle with all graphs in both precisions, as exported; and whether its FP16 gathers."""
    if request.param == "rt-detr":  # raw outputs, no folded gated graph
        return static_bundle("rt-detr", tmp_path_factory), False
    name = "yolo_checkpoint" if request.param == "yolo" else "checkpoint"
    source = request.getfixturevalue(name)
    out = tmp_path_factory.mktemp(request.param) / "bundle"
    options: dict[str, Any] = {"layouts": LAYOUTS, "weights": ["shared", "folded"]}
    gather = request.param == "gather"
    if not gather:
        return export_bundle(source, out, precision=["fp32", "fp16"], **options), False
    export_bundle(source, out, **options)
    return export_bundle(source, out, precision=["fp16"], deformable="gather", **options), True


def test_they_are_what_export_makes(whole: tuple[Bundle, bool], tmp_path: Path) -> None:
    bundle, gather = whole
    folder = only_fp32(bundle, tmp_path / "copy")
    fp32 = {path.name: path.read_bytes() for path in folder.glob("*.onnx")}
    options: dict[str, Any] = {"deformable": "gather"} if gather else {}
    report = halve_bundle(folder, precision=["fp16"], **options)
    found, wanted = open_bundle(folder), bytes_of(bundle)
    if not bundle.artifacts("gated", "fp32", weights="folded"):  # nothing to cut pieces from
        wanted = {name: data for name, data in wanted.items() if not name.startswith("stages")}
    assert bytes_of(found) == wanted
    told = described(bundle)
    assert described(found) == {name: told[name] for name in wanted}
    assert sorted(report.built) == sorted(wanted)
    assert {path.name: path.read_bytes() for path in folder.glob("*32*.onnx")} == fp32
    again = halve_bundle(folder, precision=["fp16"], **options)
    assert (again.built, sorted(again.present)) == ([], sorted(wanted))


def test_golden_outputs_prove_them(bundle_copy: Path, run: Run) -> None:
    words = ("--runtime", "onnxruntime", "--precision", "fp16")
    told = run("build", bundle_copy, *words, "--layout", "gated", "--weights", "shared")
    assert told.code == 0
    assert "gated-fp16-shared.onnx" in told.out
    report = verify_golden(open_bundle(bundle_copy), precision="fp16", threads=1, record=False)
    assert report.passed
    assert {row.artifact for row in report.rows} == {"gated-fp16-shared"}
    found = run("build", bundle_copy, *words, "--layout", "set", "--depth", "base", "--json").json
    base = open_bundle(bundle_copy).table.space.base
    assert found["built"] == [f"static-fp16-{base}"]


def test_export_finds_them_made(bundle_copy: Path, checkpoint: Path) -> None:
    halve_bundle(bundle_copy, precision=["fp16"])
    before = (bundle_copy / MANIFEST).read_text()
    export_bundle(checkpoint, bundle_copy, precision=["fp16"], layouts=["gated", "set"])
    assert (bundle_copy / MANIFEST).read_text() == before


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"precision": None}, UsageError, "name --precision fp16"),
        ({"precision": ["fp16", "int8"]}, UsageError, "name --precision fp16"),
        ({"layouts": ["heap"]}, UsageError, "unknown layout 'heap'"),
        ({"depth": "deep"}, DepthError, "unknown depth 'deep'"),
        ({"depth": "FFFT-F-3"}, BundleError, "has no fp32 static graph of FFFT-F-3 to lower"),
        ({"layouts": ["set"], "weights": "shared", "depth": "TFFT-F-3"}, BundleError, "TFFT-F-3"),
    ],
)
def test_refused(
    bundle: Bundle, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        halve_bundle(bundle.path, **{"precision": ["fp16"], **options})


BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Block())
from anydepth_deploy.cli import main
main()
"""


def test_without_torch(bundle_copy: Path) -> None:
    words = ["build", str(bundle_copy), "--runtime", "onnxruntime", "--precision", "fp16"]
    words += ["--layout", "gated", "--weights", "shared"]
    for blocked, code in (({"torch", "scipy", "onnxscript", "safetensors"}, 0), ({"onnx_ir"}, 2)):
        found = subprocess.run(
            [sys.executable, "-c", BLOCKED.replace("{blocked}", repr(blocked)), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == code, found.stderr
    assert found.stderr == (
        "error: build needs the package 'onnx_ir', which is not installed: pip install "
        "'anydepth-deploy[graphs]'\n"
    )


def test_verb(bundle_copy: Path) -> None:
    report = ad.build(bundle_copy, "onnxruntime", precision=["fp16"], layouts=["gated"])
    assert report.built == ["gated-fp16-shared", "gated-fp16-folded"]
    assert issubclass(MissingExtraError, Exception)
