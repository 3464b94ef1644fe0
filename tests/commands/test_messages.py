"""Messages say what is there, in words that the reader can type, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, fails
from conftest import random_detr
from fuzzing import examples
from handmade import FakeGraphs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.cli import ADDRESS, COMMANDS
from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.errors import ImageError
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.pictures.draw import draw_detections
from anydepth_deploy.pictures.images import find_images

BUNDLE_COMMANDS = {
    "predict": ["PATH", "picture.png"],
    "eval": ["PATH", "--data", "annotations.json"],
    "verify": ["PATH", "--checkpoint", "c.pth"],
    "build": ["PATH", "--runtime", "tensorrt"],
    "triton": ["PATH", "--out", "models"],
}

# --- one file where a folder is meant, and the other way round ---------------------------------


@pytest.mark.parametrize("command", BUNDLE_COMMANDS)
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.pth", "model.pth is a checkpoint, expected the folder of a bundle"),
        ("best.PT", "best.PT is a checkpoint, expected the folder of a bundle"),
        ("w.safetensors", "'anydepth-deploy export w.safetensors --out FOLDER'"),
        ("x.onnx", "x.onnx is one file of a bundle, expected its folder"),
        ("x.engine", "x.engine is one file of a bundle, expected its folder"),
        ("manifest.json", "name the folder that holds its manifest.json"),
        ("picture.png", "picture.png is a file, expected the folder of a bundle"),
        ("nothing", "bundle nothing does not exist; make one with 'anydepth-deploy export'"),
    ],
)
def test_what_is_no_bundle(run: Run, command: str, name: str, told: str) -> None:
    Path("c.pth").write_bytes(b"x")
    if name != "nothing":
        Path(name).write_bytes(b"x")
    words = [name if word == "PATH" else word for word in BUNDLE_COMMANDS[command]]
    shown = run(command, *words)
    fails(shown, 2, told)
    assert ("does not exist" in shown.err) == (name == "nothing")


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "x.onnx"],
        ["export", "x.onnx", "--out", "b"],
        ["calibrate", "x.onnx", "--images", "."],
        ["bench", "x.onnx"],
        ["demo", "--checkpoint", "x.onnx"],
    ],
)
def test_a_graph_is_no_checkpoint(run: Run, words: list[str]) -> None:
    Path("x.onnx").write_bytes(b"x")
    fails(run(*words), 2, "checkpoint x.onnx is an ONNX graph; expected a PyTorch file", "bundle")


@pytest.mark.parametrize(
    "words", [["export", "b", "--out", "c"], ["calibrate", "b", "--images", "."]]
)
def test_a_bundle_is_no_checkpoint(run: Run, words: list[str]) -> None:
    Path("b").mkdir()
    Path("b", "manifest.json").write_text("{}")
    fails(run(*words), 2, "checkpoint b is a folder, a bundle: name the file that it was exported")


def test_a_file_is_no_repository(run: Run) -> None:
    Path("models").write_text("x")
    fails(run("triton", "models", "--check"), 2, "repository models is a file")


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [row.name for row in COMMANDS])
@pytest.mark.parametrize("form", ["argument", "option", "joined"])
def test_addresses_are_refused_whole(run: Run, command: str, form: str) -> None:
    address = "https://example.org/a//b.png?x=1"
    words = {"argument": [address], "option": ["--out", address], "joined": [f"--out={address}"]}
    fails(run(command, *words[form]), 2, f"'{address}' is an address", "fetch it first")
    assert not list(Path().iterdir())


@examples(200)
@given(
    scheme=st.from_regex(r"[A-Za-z][A-Za-z0-9+.-]{1,8}", fullmatch=True),
    rest=st.text(max_size=30),
)
def test_every_address_is_known(scheme: str, rest: str) -> None:
    for word in (f"{scheme}://{rest}", f"--timing-cache={scheme}://{rest}"):
        found = ADDRESS.match(word)
        assert found is not None
        assert found[1] == f"{scheme}://{rest}"


@pytest.mark.parametrize(
    "word", ["C:\\pictures\\a.png", "C:/a", "a/b://c", "level:2", "--mix=base=3,super=1", "//a/b"]
)
def test_what_is_no_address(word: str) -> None:
    assert ADDRESS.match(word) is None


# --- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "b", "p.png", "--threshold", "2.5"],
        ["predict", "b", "p.png", "--threshold", "much"],
        ["train", "--out", "t.pth", "--steps", "-7"],
        ["train", "--out", "t.pth", "--steps", "1.5"],
        ["bench", "b", "--gpu", "none"],
        ["export", "c.pth", "--out", "b", "--format", "engine"],
    ],
)
def test_bad_values_are_named_with_their_option(run: Run, words: list[str]) -> None:
    shown = run(*words)
    fails(shown, 2, "Invalid value", f"'{words[-1]}'", f"'{words[-2]}'", "--help'")
    assert "Value error" not in shown.err
    assert "Input" not in shown.err


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "b", "p.png", "--threshold", "nan"],
        ["export", "c.pth", "--out", "b", "--nms-score", "nan"],
        ["export", "c.pth", "--out", "b", "--nms-iou", "nan"],
        ["calibrate", "c.pth", "--images", ".", "--percentile", "nan"],
        ["train", "--out", "t.pth", "--learning-rate", "nan"],
        ["bench", "b", "--duration", "nan"],
    ],
)
def test_numbers_that_are_none(run: Run, words: list[str]) -> None:
    shown = run(*words)
    fails(shown, 2, words[-2], "nan", "see 'anydepth-deploy")
    assert not list(Path().iterdir())


# --- what to type next -----------------------------------------------------------------------


def test_an_export_says_how_to_verify_it(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGraphs().install(monkeypatch)
    out = tmp_path / "a bundle"
    shown = run("export", checkpoint, "--out", out).out.splitlines()
    command = f"anydepth-deploy verify {shlex.quote(str(out))} --checkpoint {checkpoint}"
    assert f"not verified yet: 1 of 1 artifacts; next: {command}" in shown
    assert not [line for line in shown if line.startswith("verified")]
    # Afterwards only the name of the file is known.
    command = command.replace(str(checkpoint), checkpoint.name)
    shown = run("inspect", out).out.splitlines()
    assert f"not verified yet: 1 of 1 artifacts; next: {command}" in shown


def test_inspect_counts_what_is_verified(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGraphs().install(monkeypatch)
    out = tmp_path / "b"
    run("export", checkpoint, "--out", out, "--layout", "gated,set")
    bundle = open_bundle(out)
    hashes = [item.sha256 for item in bundle.manifest.artifacts]
    assert len(set(hashes)) == 5

    def record(verdicts: dict[str, bool], **more: str) -> list[str]:
        rows = [{"sha256": digest, "passed": passed} for digest, passed in verdicts.items()]
        bundle.record("verify", {"when": "2025-01-01T00:00:00+00:00", "artifacts": rows, **more})
        lines = run("inspect", out).out.splitlines()
        return [line.split("; next")[0] for line in lines if "verified" in line]

    assert record({hashes[0]: True, hashes[1]: False}) == [
        "verified: 1 of 5 artifacts agree with the checkpoint, 1 DIFFER",
        "not verified yet: 3 of 5 artifacts",
    ]
    assert record(dict.fromkeys(hashes, True)) == [
        "verified: 5 of 5 artifacts agree with the checkpoint"
    ]
    golden = {"compared_with": "golden outputs"}
    assert record({hashes[0]: True}, **golden) == [
        "verified: 5 of 5 artifacts agree with the checkpoint or the golden outputs"
    ]
    assert record(dict.fromkeys(hashes, True), **golden) == [
        "verified: 5 of 5 artifacts agree with the golden outputs"
    ]


def test_the_demo_of_a_family_without_a_trained_network(run: Run) -> None:
    shown = run("demo", "--family", "rt-detr")
    fails(shown, 2, "come with this package for anydepth-detr, anydepth-yolo; make one of your own")
    command = shown.err.split("'anydepth-deploy ")[1].split("'")[0]
    assert command == "train --out tiny.pth --family rt-detr"
    fails(run("demo", "--checkpoint", "."), 2, "checkpoint . is a folder")


# --- another network to start from -------------------------------------------------------------


def test_training_goes_on_with_the_same_family_only(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "first.pth"
    torch.save(AnyDepthDETR(random_detr().config).state_dict(), path)
    family = "anydepth-yolo"
    shown = run("train", "--out", "t.pth", "--initial", path, "--family", family, "--steps", 1)
    told = f"checkpoint {path} is of anydepth-detr tiny, this run trains {family}"
    fails(shown, 2, told)
    assert not Path("t.pth").exists()


# --- places that hold nothing ------------------------------------------------------------------


def test_places_without_a_detection_are_not_drawn() -> None:
    picture = np.full((64, 96, 3), 90, np.uint8)
    one = Detections(
        np.array([[1]]), np.array([[[10, 20, 50, 60]]], np.float32), np.array([[0.9]], np.float32)
    )
    padded = Detections(
        np.array([[1, NOTHING, NOTHING]]),
        np.concatenate([one.boxes, np.zeros((1, 2, 4), np.float32)], 1),
        np.array([[0.9, 0, 0]], np.float32),
    )
    drawn = [draw_detections(picture, found, ["one", "two"], enlarge=2) for found in (one, padded)]
    first, second = (np.asarray(image) for image in drawn)
    assert np.array_equal(first, second)
    nothing = Detections(padded.labels[:, 1:], padded.boxes[:, 1:], padded.scores[:, 1:])
    assert np.array_equal(
        np.asarray(draw_detections(picture, nothing, ["one", "two"])),
        np.asarray(Image.fromarray(picture)),
    )


# --- folders without pictures ------------------------------------------------------------------


def test_what_is_in_a_folder_without_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)

    def told() -> str:
        with pytest.raises(ImageError) as caught:
            find_images(folder)
        return str(caught.value)

    assert f"folder {folder} holds no picture: it holds no file; expected .bmp, " in told()
    (folder / "deeper" / "a.HEIC").write_bytes(b"x")
    (folder / "b.heic").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    assert "holds no picture: its 3 files have .heic, .txt; expected" in told()
    (folder / "manifest.json").write_text("{}")
    assert "it is a bundle, and the pictures are named behind it" in told()
