"""Commands with files whose names are not UTF-8, without streams, in folders that are read only."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from command_line import Run, fails
from safetensors.torch import save_file

import anydepth_deploy.bundle.writer as writer_module
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.families.detr.model import AnyDepthDETR

ODD = os.fsdecode(b"caf\xe9\xff \xe4\xb8\x89")
SHOWN = "caf\\xe9\\xff 三"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder whose name is not UTF-8."""
    folder = tmp_path / ODD
    folder.mkdir()
    return folder


def test_a_checkpoint_and_its_bundle(run: Run, checkpoint: Path, odd: Path, picture: Path) -> None:
    path, out = odd / f"{ODD}.pth", odd / "b"
    shutil.copy(checkpoint, path)
    assert SHOWN in run("inspect", path).out
    assert run("inspect", path, "--json").json["path"].endswith(f"{SHOWN}/{SHOWN}.pth")
    shown = run("export", path, "--out", out, "--layout", "set", "--depth", "base,super")
    assert (shown.code, shown.err) == (0, "")
    assert sorted(item.name for item in odd.iterdir()) == sorted(["b", path.name])
    text = (out / MANIFEST).read_bytes().decode()
    assert json.loads(text)["source"]["file"] == f"{SHOWN}.pth"
    assert open_bundle(out).manifest.source.file == f"{SHOWN}.pth"

    assert run("verify", out, "--checkpoint", path, "--depth", "base").code == 0
    again = run("export", path, "--out", out, "--layout", "set", "--depth", "base,super")
    assert again.code == 0

    shutil.copy(picture, odd / f"{ODD}.png")
    drawn = odd / f"{ODD}.pred.png"
    command = ["predict", out, odd / f"{ODD}.png", "--out", drawn, "--depth", "base"]
    found = run(*command)
    assert (found.code, found.err) == (0, "")
    assert f"{SHOWN}.png at" in found.out
    assert drawn.is_file()
    (said,) = run(
        "predict", out, odd / f"{ODD}.png", "--out", drawn, "--depth", "base", "--json"
    ).json["predictions"]
    assert (said["image"], said["drawn"]) == (
        f"{odd.parent}/{SHOWN}/{SHOWN}.png",
        f"{odd.parent}/{SHOWN}/{SHOWN}.pred.png",
    )
    fails(run("predict", out, odd / f"no{ODD}.png"), 2, f"no{SHOWN}.png")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_graphs_in_such_a_folder(
    run: Run, bundle: Bundle, odd: Path, picture: Path, runtime: str
) -> None:
    shutil.copytree(bundle.path, odd / "b")
    command = ["predict", picture, "--depth", "base", "--runtime", runtime, "--no-draw", "--json"]
    expected = run(command[0], bundle.path, *command[1:]).json["predictions"]
    assert run(command[0], odd / "b", *command[1:]).json["predictions"] == expected


def test_safetensors_of_such_a_name(run: Run, model: AnyDepthDETR, odd: Path) -> None:
    path = odd / f"{ODD}.safetensors"
    save_file(model.state_dict(), odd / "plain.safetensors")
    (odd / "plain.safetensors").rename(path)
    found = run("inspect", path, "--json").json
    assert found["parameters"] == sum(value.numel() for value in model.parameters())
    path.write_bytes(path.read_bytes()[:2000])
    fails(run("inspect", path), 2, f"{SHOWN}.safetensors", "fetch it again")


def test_results_name_such_files(bundle_copy: Path, odd: Path) -> None:
    """What is recorded in a manifest can be read back, whatever a data set is called."""
    opened = open_bundle(bundle_copy)
    opened.record("eval", {"data": f"{ODD}.json", "rows": [{"depth": "super", "note": (ODD,)}]})
    (found,) = open_bundle(bundle_copy).manifest.results["eval"]
    assert found["data"] == f"{SHOWN}.json"
    assert found["rows"] == [{"depth": "super", "note": [SHOWN]}]


@pytest.mark.parametrize("error", [ValueError("surrogates not allowed"), OSError(28, "full")])
def test_an_export_that_cannot_begin_leaves_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(folder: Path, *_: object) -> None:
        (folder / ".manifest.json.partial").write_text("half")
        raise error

    monkeypatch.setattr(writer_module, "write_manifest", refuse)
    with pytest.raises((ValueError, AnyDepthError)), BundleWriter(tmp_path / "b", bundle.manifest):
        pass
    assert list(tmp_path.iterdir()) == []
    # What an earlier one has left is kept.
    (tmp_path / ".b.partial").mkdir()
    (tmp_path / ".b.partial" / "done.onnx").write_text("mine")
    with pytest.raises((ValueError, AnyDepthError)), BundleWriter(tmp_path / "b", bundle.manifest):
        pass
    assert (tmp_path / ".b.partial" / "done.onnx").read_text() == "mine"


# --- streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("json_too", [False, True])
def test_work_is_done_without_streams(
    run: Run,
    bundle: Bundle,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    json_too: bool,
) -> None:
    monkeypatch.setattr(sys, name, None)
    out = tmp_path / "drawn.png"
    words = ["--json"] if json_too else []
    found = run("predict", bundle.path, picture, "--depth", "base", "--out", out, *words)
    assert found.code == 0
    assert out.is_file()
    assert bool(found.out) == (name == "stderr")


def test_names_that_an_encoding_lacks(
    run: Run, bundle_copy: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads((bundle_copy / MANIFEST).read_text())
    content["classes"] = [f"三角 {index}" for index in range(len(content["classes"]))]
    (bundle_copy / MANIFEST).write_text(json.dumps(content))
    path = picture.rename(tmp_path / "日本.png")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    out = tmp_path / "drawn.png"
    words = ["--depth", "base", "--threshold", "0.3", "--out", out]
    assert run("predict", bundle_copy, path, *words).code == 0
    assert out.is_file()
    stream.flush()
    # However long the path: a title is broken where the table ends.
    shown = raw.getvalue().decode("latin-1").replace("\n", "")
    assert "\\u65e5\\u672c.pngat" in shown.replace(" ", "")
    assert "\\u4e09\\u89d2" in shown


# --- read-only folders -----------------------------------------------------------------------


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, also for root, whom permissions do not stop."""
    touch = Path.touch

    def refuse(path: Path, **more: bool) -> None:
        if path.parent.resolve() == Path.cwd():
            raise OSError(30, "Read-only file system")
        touch(path, **more)

    monkeypatch.setattr(Path, "touch", refuse)


@pytest.mark.usefixtures("read_only")
def test_json_needs_no_writable_folder(
    run: Run, bundle: Bundle, picture: Path, tmp_path: Path
) -> None:
    command = ["predict", bundle.path, picture, "--depth", "base", "--json"]
    shown = run(*command)
    assert shown.code == 0
    (found,) = json.loads(shown.out)["predictions"]
    assert found["drawn"] is None
    assert shown.err.startswith("note: the working folder cannot be written, so nothing is drawn")
    assert shown.err.count("\n") == 1
    (drawn,) = run(*command, "--out", tmp_path / "there.png").json["predictions"]
    assert drawn == {**found, "drawn": str(tmp_path / "there.png")}
    assert (tmp_path / "there.png").is_file()
    (quiet,) = run(*command, "--no-draw").json["predictions"]
    assert quiet == found
    assert list(Path.cwd().iterdir()) == []


def test_a_drawing_by_default(run: Run, bundle: Bundle, picture: Path) -> None:
    (found,) = run("predict", bundle.path, picture, "--depth", "base", "--json").json["predictions"]
    assert found["drawn"] == "picture.pred.png"
    assert Path("picture.pred.png").is_file()


def test_a_folder_without_drawings(run: Run, bundle: Bundle, picture: Path) -> None:
    command = ["predict", bundle.path, picture.parent, "--depth", "base"]
    fails(run(*command), 2, "give --out FOLDER for drawings, or --no-draw")
    (found,) = run(*command, "--no-draw", "--json").json["predictions"]
    assert found["drawn"] is None
    shown = run(*command, "--no-draw")
    assert (shown.code, ".pred.png" in shown.out) == (0, False)
    fails(run(*command, "--no-draw", "--out", "x"), 2, "--out x is where drawings go")
