"""Where results go is tried before the work, what was measured is shown whatever happens to its
file, and names that nobody chose replace nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, fails
from handmade import FakeGraphs

import anydepth_deploy.bench.combinations as combinations_module
import anydepth_deploy.bench.plots.page as page_module
import anydepth_deploy.calibration.calibrate as calibrate_module
import anydepth_deploy.evaluation as evaluation_module
import anydepth_deploy.exporting.export as export_module
import anydepth_deploy.pictures.shapes as shapes_module
import anydepth_deploy.train.loop as loop_module
from anydepth_deploy.bench.results import read_result
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.detr.model import AnyDepthDETR

QUICK = ("--duration", 0, "--count", 9, "--warmup", 0, "--threads", 1, "--pictures", 1)


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a mount that is read only, also for root, whom permissions do not stop."""
    folder = tmp_path / "closed"
    folder.mkdir()

    def refused(path: Path) -> None:
        if path.absolute().is_relative_to(folder):
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    def guarded(real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, *more: Any, **options: Any) -> None:
            refused(path)
            real(path, *more, **options)

        return call

    for name in ("touch", "mkdir"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))
    return folder


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes long."""

    def work(*_: object, **__: object) -> None:
        pytest.fail("that was work")

    for owner, name in (
        (combinations_module, "_bench"),
        (page_module, "write_figure"),
        (calibrate_module, "export_pieces"),
        (calibrate_module, "choose_pictures"),
        (evaluation_module, "evaluate"),
        (export_module, "export_bundle"),
        (shapes_module, "render_many"),
        (loop_module, "make_recipe"),
        (Bundle, "session"),
    ):
        monkeypatch.setattr(owner, name, work)


COMMANDS = {
    "bench": ("bench", "BUNDLE", *QUICK, "--out", "OUT.json"),
    "bench, a folder": ("bench", "BUNDLE", *QUICK, "--out", "OUT"),
    "calibrate": ("calibrate", "CHECKPOINT", "--images", "PICTURE", "--out", "OUT.json"),
    "calibrate --plot": ("calibrate", "CHECKPOINT", "--images", "PICTURE", "--plot", "OUT.png"),
    "demo": ("demo", "--checkpoint", "CHECKPOINT", "--out", "OUT"),
    "eval --ladder-out": ("eval", "BUNDLE", "--data", "DATA", "--ladder-out", "OUT.json"),
    "predict": ("predict", "BUNDLE", "PICTURE", "--out", "OUT.png"),
    "predict, a folder": ("predict", "BUNDLE", "PICTURE", "--out", "OUT/"),
    "shapes": ("shapes", "--out", "OUT"),
    "train": ("train", "--out", "OUT.pth"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("no_work")
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    run: Run, bundle: Bundle, checkpoint: Path, picture: Path, closed: Path, name: str
) -> None:
    data = picture.with_name("annotations.json")
    data.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    given = {"BUNDLE": bundle.path, "CHECKPOINT": checkpoint, "PICTURE": picture, "DATA": data}
    words = [
        str(word).replace("OUT", str(closed / "new" / "out"))
        if "OUT" in str(word)
        else given.get(str(word), word)
        for word in COMMANDS[name]
    ]
    fails(run(*words), 2, str(closed), "cannot be written: Read-only file system")
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize("option", ["--plot", "--out"])
def test_a_report_is_refused_before_anything_is_drawn(
    run: Run,
    bundle_copy: Path,
    closed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    result = tmp_path / "r.json"
    assert run("bench", bundle_copy, "--depth", "base", *QUICK, "--out", result).code == 0
    monkeypatch.setattr(page_module, "write_figure", lambda *_: pytest.fail("that was work"))
    places = {"--plot": tmp_path / "p.png", "--out": tmp_path / "t.txt"}
    places[option] = closed / places[option].name
    found = run("report", result, "--plot", places["--plot"], "--out", places["--out"])
    fails(found, 2, str(places[option]), "Read-only file system")
    assert not any(place.exists() for place in places.values())


# --- what was measured is not lost -----------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room to try, and none for a result."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.usefixtures("full")
def test_bench_prints_its_table_though_the_file_fails(run: Run, bundle_copy: Path) -> None:
    words = ("bench", bundle_copy, "--depth", "base", *QUICK[:-4], "--threads", "1,2")
    found = run(*words)
    errors = found.err.strip().splitlines()
    assert found.code == 2
    assert errors[-1].startswith("error: result results/")
    assert "cannot be written: No space left on device" in errors[-1]
    assert found.out.count("timed: network") == 2  # both, not only the first
    assert found.out.count("result: not written") == 2
    assert found.out.count("verdict: ") == 2
    assert not list(Path("results").rglob("*"))

    found = run(*words, "--json")
    assert found.code == 2
    one, other = json.loads(found.out)["results"]
    assert one["file"] is other["file"] is None
    assert (one["settings"]["threads"], other["settings"]["threads"]) == (1, 2)


# --- names that nobody chose -----------------------------------------------------------------


def test_results_of_one_second_have_names_of_their_own(
    run: Run, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combinations_module, "result_name", lambda _: "same.json")
    told = []
    for seed in range(3):
        words = ("bench", bundle_copy, "--depth", "base", *QUICK, "--seed", seed)
        found = run(*words)
        assert found.code == 0, found.err
        told.append(found.out.split("result: ")[1].strip())
    assert told == ["results/same.json", "results/same-2.json", "results/same-3.json"]
    assert [read_result(file).settings.seed for file in told] == [0, 1, 2]
    # A name that was chosen is what it says.
    for seed in range(2):
        run("bench", bundle_copy, "--depth", "base", *QUICK, "--seed", seed, "--out", "one.json")
    assert read_result("one.json").settings.seed == 1
    assert not Path("one-2.json").exists()


def test_drawings_by_default_replace_nothing(run: Run, bundle: Bundle, picture: Path) -> None:
    Path("picture.pred.png").write_text("mine")
    words = ("predict", bundle.path, picture, "--depth", "base", "--json")
    drawn = [run(*words).json["predictions"][0]["drawn"] for _ in range(2)]
    assert drawn == ["picture-2.pred.png", "picture-3.pred.png"]
    assert Path("picture.pred.png").read_text() == "mine"
    # And are no pictures of a folder.
    shutil.copy(picture, "one.png")
    words = ("predict", bundle.path, ".", "--depth", "base", "--json", "--out", "d")
    (found,) = run(*words).json["predictions"]
    assert found["image"] == "one.png"
    again = run(*words).json["predictions"]
    assert [item["drawn"] for item in again] == [found["drawn"]]


# --- sizes that only a file asks for ---------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "told"),
    [([8192, 8192], "8192x8192"), ((32, 2080), "32x2080"), ([2080, 64], "2080x64")],
)
def test_a_file_does_not_decide_how_much_memory_is_taken(
    run: Run,
    model: AnyDepthDETR,
    tmp_path: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: list[int],
    told: str,
) -> None:
    path = tmp_path / "large.pth"
    torch.save({"model": model.state_dict(), "input_size": size}, path)
    fake = FakeGraphs().install(monkeypatch)
    monkeypatch.setattr(calibrate_module, "export_pieces", lambda *_, **__: pytest.fail("made"))
    for words in (
        ("export", path, "--out", tmp_path / "b"),
        ("calibrate", path, "--images", picture, "--out", tmp_path / "t.json"),
        ("inspect", path),
    ):
        wanted = (f"checkpoint {path} asks for an input of {told}", f"--size {told}")
        fails(run(*words), 2, *wanted)
    assert fake.exports == 0
    assert not (tmp_path / "b").exists()


def test_what_a_person_asked_for_is_kept(
    model: AnyDepthDETR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.pth"
    torch.save({"model": model.state_dict(), "input_size": [32, 2080]}, path)
    FakeGraphs().install(monkeypatch)
    export_bundle(path, tmp_path / "b", input_size=(32, 2080))
    assert export_bundle(path, tmp_path / "b", ladder="base,super", force=True).size == (32, 2080)


def test_the_largest_that_a_file_may_ask_for(model: AnyDepthDETR, tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    torch.save({"model": model.state_dict(), "input_size": [32, 2048]}, path)
    assert read_checkpoint(path).usual_size() == (32, 2048)
    torch.save({"model": model.state_dict()}, path)
    assert read_checkpoint(path).usual_size() == model.config.input_size
