"""Folders of pictures and the way up they are read, as commands see them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Result, Run, fails, strict_json
from marked_pictures import save_marked
from PIL import Image
from seeing import SeeingSession, blind_bundle

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import UsageError
from anydepth_deploy.pictures.budget import MAX_PIXELS


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: SeeingSession())
    return blind_bundle(tmp_path / "bundle").path


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Two sound pictures, a cut one between them, and what a Mac leaves."""
    folder = tmp_path / "street"
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[10:20, 40:60] = 255
    for name in ("a.png", "c.png"):
        save_marked(folder / name, pixels, None)
    whole = save_marked(tmp_path / "whole.jpg", pixels, None).read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "._a.png").write_bytes(b"\0\5\26\7 resource fork")
    return folder


def items(shown: Result) -> list[Any]:
    """What ``predict --json`` says of each picture, those that were skipped last."""
    found = strict_json(shown.out)
    return [*found["predictions"], *found["skipped"]]


BOX = [40.0, 10.0, 60.0, 20.0]


def test_predict_skips_a_bad_picture_and_keeps_the_others(
    run: Run, bundle: Path, street: Path
) -> None:
    shown = run("predict", bundle, street, "--out", "d", "--json")
    fails(shown, 2, "1 of 3 pictures in", "were skipped", "b.jpg")
    content = json.loads(shown.out)
    (a, c), (bad,) = content["predictions"], content["skipped"]
    for item, name in ((a, "a"), (c, "c")):
        assert item["image"] == str(street / f"{name}.png")
        assert [found["box"] for found in item["detections"]] == [BOX]
        assert Path(item["drawn"]).name == f"{name}.pred.png"
    assert set(bad) == {"image", "error"}
    assert bad["image"] == str(street / "b.jpg")
    assert "b.jpg cannot be read" in bad["error"]
    assert sorted(path.name for path in Path("d").iterdir()) == ["a.pred.png", "c.pred.png"]

    shown = run("predict", bundle, street, "--out", "e")
    fails(shown, 2, "1 of 3 pictures in", "b.jpg")
    assert "a.pred.png" in shown.out
    assert "c.pred.png" in shown.out
    assert "skipped: picture " in shown.out
    (street / "b.jpg").unlink()
    assert len(run("predict", bundle, street, "--out", "d", "--json").json["predictions"]) == 2


def test_predict_names_all_that_is_bad(run: Run, bundle: Path, street: Path) -> None:
    for path in street.glob("*.png"):
        path.unlink()
    (street / "d.tif").write_bytes(b"")
    (street / "e.png").symlink_to("nowhere.png")
    shown = run("predict", bundle, street, "--out", "d", "--json")
    fails(shown, 2, "3 of 3 pictures in", "b.jpg", "d.tif", "e.png")
    content = json.loads(shown.out)
    assert content["predictions"] == []
    assert [Path(item["image"]).name for item in content["skipped"]] == ["b.jpg", "d.tif", "e.png"]
    assert not Path("d").exists()
    # Named alone it is an error, without results.
    shown = run("predict", bundle, street / "b.jpg", "--json")
    fails(shown, 2, "b.jpg cannot be read")
    assert [*shown.document] == ["schema_version", "error"]


def test_predict_goes_on_beside_a_closed_folder(
    run: Run, bundle: Path, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (street / "b.jpg").unlink()
    (street / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    shown = run("predict", bundle, street, "--out", "d", "--json")
    fails(shown, 2, "1 of 3", "closed cannot be looked into: Permission denied")
    content = json.loads(shown.out)
    assert [Path(item["image"]).name for item in content["predictions"]] == ["a.png", "c.png"]
    assert [set(item) for item in content["skipped"]] == [{"image", "error"}]


def test_predict_counts_what_it_passes_over(run: Run, bundle: Path, street: Path) -> None:
    (street / "b.jpg").unlink()
    (street / "a.png").rename(street / "a")
    (street / "notes.txt").write_text("x")
    shown = run("predict", bundle, street, "--out", "d", "--json")
    assert shown.code == 0
    content = json.loads(shown.out)["predictions"]
    assert [Path(item["image"]).name for item in content] == ["a", "c.png"]
    assert shown.err == (
        f"note: 1 file is no picture by its name (.txt) in {street}: passed over\n"
    )


def test_predict_turns_a_photo_unless_told_not_to(
    run: Run, bundle: Path, street: Path, tmp_path: Path
) -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[10:20, 40:60] = 255
    photo = save_marked(tmp_path / "photo.png", pixels, 6)
    for words, box in (
        ([], [44.0, 40.0, 54.0, 60.0]),  # x is counted from the other end of the rows
        (["--orientation", "upright"], [44.0, 40.0, 54.0, 60.0]),
        (["--orientation", "stored"], BOX),
    ):
        (found,) = run("predict", bundle, photo, "--json", *words).json["predictions"]
        assert [item["box"] for item in found["detections"]] == [box]


@pytest.mark.parametrize("words", [[], ["--orientation", "upright"], ["--orientation", "stored"]])
def test_calibrate_verify_and_bench_take_the_option(
    run: Run, bundle: Path, street: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    from anydepth_deploy.bench import combinations
    from anydepth_deploy.calibration import calibrate
    from anydepth_deploy.pictures import samples

    (street / "notes.txt").write_text("x")
    asked: list[str] = []

    def reached(*_: Any, orientation: str, **__: Any) -> None:
        asked.append(orientation)
        raise UsageError("reached")

    monkeypatch.setattr(calibrate, "calibrate", reached)
    monkeypatch.setattr(samples, "verification_batches", reached)
    monkeypatch.setattr(combinations, "load_batches", reached)
    Path("c.pth").write_bytes(b"x")
    commands = (
        ["calibrate", "c.pth"],
        ["verify", bundle, "--checkpoint", "c.pth"],
        ["bench", bundle, "--depth", "super"],
    )
    for command in commands:
        shown = run(*command, "--images", street, *words)
        note, error = shown.err.splitlines()
        assert (shown.code, error) == (2, "error: reached")
        assert note == f"note: 1 file is no picture by its name (.txt) in {street}: passed over"
        fails(run(*command, "--images", street, "--orientation", "up"), 2, "'up' is not one of")
    assert asked == [words[-1] if words else "upright"] * 3


# --- the budget of pixels --------------------------------------------------------------------

READERS = ("predict", "eval", "calibrate", "verify", "bench")


@pytest.mark.parametrize("command", READERS)
def test_commands_that_read_pictures_have_a_budget(run: Run, command: str) -> None:
    shown = run(command, "nowhere", "--max-pixels", "0")
    fails(shown, 2, "'--max-pixels'", "greater than or equal to 1")


def test_a_picture_over_the_budget_is_skipped(run: Run, bundle: Path, street: Path) -> None:
    (street / "b.jpg").unlink()
    image = np.zeros((64, 129, 3), np.uint8)
    image[10:20, 40:60] = 255
    save_marked(street / "large.png", image, None)
    budget = 64 * 128
    shown = run("predict", bundle, street, "--no-draw", "--json", "--max-pixels", budget)
    fails(shown, 2, "1 of 3 pictures", "large.png of 129 x 64 pixels is over the budget of 8192 ")
    content = json.loads(shown.out)["predictions"]
    assert [Path(item["image"]).name for item in content] == ["a.png", "c.png"]
    shown = run("predict", bundle, street / "large.png", "--no-draw", "--max-pixels", budget)
    fails(shown, 2, "large.png of 129 x 64 pixels is over the budget", "raise --max-pixels")
    assert run("predict", bundle, street, "--no-draw", "--max-pixels", budget + 64).code == 0


def test_a_raised_budget_goes_beyond_pillows_limit_and_leaves_it(
    run: Run, bundle: Path, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of formats that are judged by Pillow before anybody else can."""
    path = street / "a.webp"
    with Image.open(street / "a.png") as image:
        image.save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    shown = run("predict", bundle, path, "--no-draw", "--max-pixels", MAX_PIXELS + 1)
    assert shown.code == 0
    assert Image.MAX_IMAGE_PIXELS == 100
