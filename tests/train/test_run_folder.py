"""The folder of a run: what is in it, and that nothing of it is lost whatever happens."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import write_yolo_set
from handmade import InterruptedRunError, stop_after
from PIL import Image
from trained_networks import CHECKPOINTS

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.errors import (
    CheckpointError,
    DivergedError,
    ImageError,
    MissingExtraError,
    UsageError,
)
from anydepth_deploy.families.detr.config import CONFIGS
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.shared.augmentation import DETR, PLAIN
from anydepth_deploy.pictures.shapes import CLASS_NAMES, write_coco
from anydepth_deploy.train import records
from anydepth_deploy.train.checkpointing import resumed_settings
from anydepth_deploy.train.config import Progress, TrainConfig, TrainResult
from anydepth_deploy.train.data.read import read_data_set
from anydepth_deploy.train.loop import StoppedTraining, train
from anydepth_deploy.train.processes import ALONE
from anydepth_deploy.train.source import FileSource
from anydepth_deploy.train.step import StepLosses, Stepper
from anydepth_deploy.train.validation import Validation


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures to train on, and four to measure. Read only."""
    folder = tmp_path_factory.mktemp("data")
    write_coco(folder / "train", 10, 3, "train", size=96)
    write_coco(folder / "val", 4, 3, "val", size=96)
    return folder


def run_config(data: Path, output: Path, **changes: object) -> TrainConfig:
    settings: dict[str, object] = {
        "output": str(output),
        "initial": str(CHECKPOINTS["anydepth-detr"]),
        "data": str(data / "train" / "annotations.json"),
        "val_data": str(data / "val" / "annotations.json"),
        "epochs": 2,
        "batch": 4,
        "input_size": (64, 96),
        "workers": 0,
        "threads": 0,
        "save_every": 0,
        "denoising": 8,
    }
    return TrainConfig.for_family(**{**settings, **changes})  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nothing interrupted: what it was told, what it told, and what it gave."""

    config: TrainConfig
    seen: list[Progress]
    result: TrainResult

    @property
    def folder(self) -> Path:
        return Path(self.config.output)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Two epochs of ten pictures, four a step. Read only."""
    config = run_config(data, tmp_path_factory.mktemp("whole") / "runs" / "one")
    seen: list[Progress] = []
    return Whole(config, seen, train(config, progress=seen.append))


@pytest.fixture(autouse=True)
def _without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than a step; those of ``whole``, which is made before, are real."""
    monkeypatch.setattr(records, "_curves", lambda rows: b"")


@pytest.fixture
def without_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps cost nothing: for what a run does around them."""
    losses = StepLosses({}, {}, 2.0, 1.0)
    monkeypatch.setattr(Stepper, "step", lambda *arguments, **options: losses)


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())))


def state_of(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["ema"]["module"]
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_in_it(whole: Whole) -> None:
    folder, seen, result = whole.folder, whole.seen, whole.result
    assert {path.name for path in folder.iterdir()} == {
        "best.pth", "curves.png", "examples", "last.pth", "metrics.csv", "settings.json",
        "tensorboard",
    }  # fmt: skip
    # Measured after the third and the last step.
    assert [report.step for report in seen if report.accuracy] == [3, 5]
    assert result.steps == 5 == seen[-1].step
    assert result.checkpoint == folder / "best.pth"
    rows = rows_of(folder)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "5")]
    for row, report in zip(rows, (seen[2], seen[4]), strict=True):
        assert report.accuracy is not None
        found = {key[3:]: float(value) for key, value in row.items() if key.startswith("AP ")}
        assert found == dict(report.accuracy)
    for part, row in zip((seen[:3], seen[3:]), rows, strict=True):
        for name in ("super_loss", "base_loss"):
            mean = np.mean([getattr(report, name) for report in part])
            assert float(row[name]) == pytest.approx(mean, rel=1e-4)
    # The best is that of the better mean of both ends.
    scores = [
        (float(row["AP TTTT-T-3"]) + float(row["AP FFFF-F-3"])) / 2 for row in rows
    ]  # fmt: skip
    best = rows[int(np.argmax(scores))]
    assert result.accuracy == {k[3:]: float(v) for k, v in best.items() if k.startswith("AP ")}
    kept = read_checkpoint(result.checkpoint)
    load_model(kept)
    assert (kept.class_names, kept.input_size) == (list(CLASS_NAMES), (64, 96))
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["epochs"], settings["classes"]) == (2, list(CLASS_NAMES))
    with Image.open(folder / "curves.png") as picture:
        assert picture.size == (700, 600)
    assert len(list((folder / "examples").iterdir())) == 8
    with Image.open(folder / "examples" / "0-epoch-0001.jpg") as picture:
        assert picture.width > 2 * picture.height * 0.9
    (events,) = (folder / "tensorboard").iterdir()
    content = events.read_bytes()
    for tag in (b"AP/TTTT-T-3", b"example 0"):
        assert tag in content


def test_it_is_not_overwritten(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    config = dataclasses.replace(whole.config, output=str(folder))
    before = {path: path.read_bytes() for path in folder.glob("*.pth")}
    assert len(before) == 2
    with pytest.raises(UsageError, match="holds a run already: --resume goes on with it"):
        train(config)
    assert before == {path: path.read_bytes() for path in folder.glob("*.pth")}
    # What is finished is finished.
    again = train(config, resume=True)
    assert (again.steps, again.accuracy) == (5, whole.result.accuracy)
    for name in ("best.pth", "last.pth"):
        assert same(state_of(folder / name), state_of(whole.folder / name))


@pytest.mark.usefixtures("without_learning")
@pytest.mark.parametrize("name", ["run", "run.pth"])
def test_another_run_is_not_lost(data: Path, tmp_path: Path, name: str) -> None:
    """What an interrupted run left is there after another one was refused, and goes on."""
    config = run_config(data, tmp_path / name, val_data="", save_every=1)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(2))
    before = config.partial.read_bytes()
    held = config.output if config.is_folder else config.partial
    with pytest.raises(UsageError) as caught:
        train(dataclasses.replace(config, seed=3))
    what = "folder" if name == "run" else "file"
    assert str(caught.value) == (
        f"{held} holds a run already: --resume goes on with it, or name another {what} with --out"
    )
    assert config.partial.read_bytes() == before
    assert train(config, resume=True).steps == 5


def test_the_best_checkpoint_of_another_run_is_not_lost(data: Path, tmp_path: Path) -> None:
    best = tmp_path / "run" / "best.pth"
    best.parent.mkdir()
    best.write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"best\.pth is of an earlier run, which this one would"):
        train(run_config(data, tmp_path / "run"))
    assert [(path.name, path.read_bytes()) for path in best.parent.iterdir()] == [
        ("best.pth", b"weights")
    ]


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    config = dataclasses.replace(whole.config, output=str(folder), save_every=4)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(4))
    # As if the curves had been written before the interruption, and the weights not.
    metrics = folder / "metrics.csv"
    metrics.write_text(metrics.read_text() + "9,99,1,1,0,1,1,1,1,1,1\n")
    parts = train(config, resume=True)
    for name in ("best.pth", "last.pth"):
        assert same(state_of(whole.folder / name), state_of(folder / name))
    assert parts.accuracy == whole.result.accuracy
    columns = ("epoch", "step", "learning_rate", "AP TTTT-T-3", "AP FFFF-F-3", "super_loss")
    first, second = (rows_of(run) for run in (whole.folder, folder))
    assert [[row[name] for name in columns] for row in first] == [
        [row[name] for name in columns] for row in second
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_the_step(data: Path, tmp_path: Path, number: int) -> None:
    config = run_config(data, tmp_path / "run", val_data="")

    def interrupt(report: Progress) -> None:
        if report.step == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(StoppedTraining, match=r"stopped after step 3; .*last.pth holds it"):
        train(config, progress=interrupt)
    assert signal.getsignal(number) is before
    seen: list[Progress] = []
    train(config, progress=seen.append, resume=True)
    assert [report.step for report in seen] == [4, 5]


def measuring(monkeypatch: pytest.MonkeyPatch, *scores: float) -> list[int]:
    """Average precision is what is said here, one measurement after the other; and how many there
    were."""
    left, calls = iter(scores), [0]

    def run(self: Validation, state: object, progress: object = None) -> dict[str, float]:
        calls[0] += 1
        return dict.fromkeys(self.depths, next(left))

    monkeypatch.setattr(Validation, "run", run)
    return calls


@pytest.mark.usefixtures("without_learning")
@pytest.mark.parametrize("name", ["run", "run.pth"])
def test_accuracy_is_that_of_the_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    measuring(monkeypatch, 50.0, 10.0)
    config = run_config(data, tmp_path / name)
    result = train(config)
    shown = {result.checkpoint: 50.0 if name == "run" else 10.0, config.checkpoint: 10.0}
    assert set(result.accuracy.values()) == {shown[result.checkpoint]}
    for path, score in shown.items():
        figures = torch.load(path, weights_only=True)["train"]["figures"]
        assert set(figures["ap"].values()) == {score}
    if name == "run":
        again = train(config, resume=True)
        assert again.accuracy == result.accuracy
        figures = torch.load(config.checkpoint, weights_only=True)["train"]["figures"]
        assert set(figures["ap"].values()) == {10.0}


@pytest.mark.usefixtures("without_learning")
@pytest.mark.parametrize(
    ("batch", "epochs", "every", "steps", "measured"),
    [
        (10, 5, 2, [1, 2, 3, 4, 5], [2, 4, 5]),
        (30, 9, 2, [1, 2, 3], [1, 2, 3]),
        (30, 9, 4, [1, 2, 3], [2, 3]),
        (4, 2, 2, [3, 5], [5]),
    ],
)
def test_every_epoch_has_a_row_and_some_are_measured(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    epochs: int,
    every: int,
    steps: list[int],
    measured: list[int],
) -> None:
    calls = measuring(monkeypatch, *range(9))
    changes = {"batch": batch, "epochs": epochs, "evaluate_every": every, "augment": False}
    train(run_config(data, tmp_path / "run", **changes))
    rows = rows_of(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == steps
    assert [int(row["step"]) for row in rows if row["AP FFFF-F-3"]] == measured
    assert calls == [len(measured)]


@pytest.mark.usefixtures("without_learning")
def test_time_without_pictures_is_of_the_whole_run(data: Path, tmp_path: Path) -> None:
    config = run_config(data, tmp_path / "run", val_data="", save_every=1)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(2))
    kept = torch.load(config.partial, weights_only=True)
    seen: list[Progress] = []
    train(config, progress=seen.append, resume=True)
    assert seen[0].waited * seen[0].seconds > kept["waited"] > 0


@pytest.mark.usefixtures("without_learning")
def test_a_yolo_set_without_pictures_to_measure_on_is_trained_on(tmp_path: Path) -> None:
    path = write_yolo_set(tmp_path / "set", 3, val="")
    config = run_config(tmp_path, tmp_path / "run", val_data=str(path))
    config = dataclasses.replace(config, data=str(path))
    result = train(config)
    assert f"{path} names no val: accuracy is not measured" in result.notes
    assert (result.checkpoint.name, dict(result.accuracy)) == ("last.pth", {})
    # Where it is named apart, it is meant.
    other = path.with_name("other.yaml")
    shutil.copy(path, other)
    with pytest.raises(ImageError, match=r"other\.yaml has no val: expected a folder of pictures"):
        train(dataclasses.replace(config, output=str(tmp_path / "two"), val_data=str(other)))


def test_a_pass_has_more_than_one_cell(data: Path, tmp_path: Path) -> None:
    config = TrainConfig.for_family(
        "anydepth-yolo", output=str(tmp_path / "run"), input_size=32, batch=4, accumulate=4
    )
    with pytest.raises(UsageError, match="one picture of 32x32 in a pass is one cell"):
        train(config)


def test_nothing_is_read_to_resume_what_is_not_there(tmp_path: Path) -> None:
    named = run_config(tmp_path, tmp_path / "run", val_data="", input_size=(64, 64))
    config = dataclasses.replace(named, data="")
    with pytest.raises(CheckpointError, match=r"no unfinished run at .*last.pth: train without"):
        train(config, resume=True)
    assert not (tmp_path / "run").exists()


def test_no_step_has_pictures_that_the_network_cannot_take(data: Path, tmp_path: Path) -> None:
    """At 96 pixels there are 189 cells, at 128 there are 336."""
    config = run_config(data, tmp_path / "run", input_size=(128, 128))
    for queries, expected in ((200, {128, 160}), (60, {96, 128, 160})):
        model = AnyDepthDETR(CONFIGS["tiny"].replace(queries=queries))
        source = FileSource(
            config, ALONE, torch.device("cpu"), read_data_set(config.data), DETR, "stretch", 9,
            model.check_size,
        )  # fmt: skip
        with source:
            steps = source.steps(0)
            found = {next(steps).batches[0][0].shape[2] for _ in range(12)}
        assert found == expected


def test_a_missing_package_is_named_before_the_first_picture(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes read the pictures: what is raised there says nothing of an extra."""
    monkeypatch.setitem(sys.modules, "kornia", None)
    config = run_config(data, tmp_path / "run", workers=2)
    with pytest.raises(MissingExtraError, match=r"kornia.*anydepth-deploy\[train\]"):
        train(config)
    # Pictures as inference sees them need none.
    pictures = read_data_set(config.data)
    check = AnyDepthDETR(CONFIGS["tiny"]).check_size
    FileSource(config, ALONE, torch.device("cpu"), pictures, PLAIN, "stretch", 9, check)


def test_more_objects_than_queries_are_refused_at_once(data: Path, tmp_path: Path) -> None:
    path = data / "train" / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] += content["annotations"][:1] * 61
    (tmp_path / "many.json").write_text(json.dumps(content))
    config = dataclasses.replace(
        run_config(data, tmp_path / "run", val_data=""),
        data=str(tmp_path / "many.json"),
        images=str(data / "train"),
    )
    with pytest.raises(UsageError, match=r"1 of 10 pictures have more objects .* queries \(60\)"):
        train(config)


def moments_of_another(content: dict[str, Any]) -> None:
    content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"family": ["a"]}, "settings that no run has .family: "),
        ({"family": None}, "settings that no run has .family: "),
        ({"input_size": 3}, "settings that no run has .input_size: "),
        ({"input_size": ["a", "b"]}, r"settings that no run has .input_size\.0: "),
        ({"epochs": "x"}, "settings that no run has .epochs: "),
        ({"said": 3}, "settings that no run has .said: "),
        ({"batch": None}, "settings that no run has .batch: "),
    ],
)
def test_settings_that_no_run_has(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    settings = dataclasses.asdict(run_config(tmp_path, tmp_path / "run"))
    path = tmp_path / "last.pth"
    torch.save({"train": {"settings": {**settings, **changes}}, "class_names": ["a"]}, path)
    with pytest.raises(CheckpointError, match=told) as caught:
        resumed_settings(path, {})
    assert str(path) in str(caught.value)


def test_settings_of_another_version_are_left_out(tmp_path: Path) -> None:
    config = run_config(tmp_path, tmp_path / "run", plain_epochs=1)
    settings = {**dataclasses.asdict(config), "newer": 3}
    del settings["accumulate"]
    path = tmp_path / "last.pth"
    torch.save({"train": {"settings": settings}, "class_names": ["a"]}, path)
    assert resumed_settings(path, {"workers": 1}) == dataclasses.replace(config, workers=1)


def test_losses_that_are_no_numbers_end_a_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(data, tmp_path / "run", save_every=1, val_data="", augment=False)
    plain, calls = Stepper.step, [0]

    def broken(self: Stepper, *arguments: object, **options: object) -> object:
        calls[0] += 1
        if calls[0] == 3:
            with torch.no_grad():  # boxes that are no numbers any more
                next(iter(self.recipe.model.parameters())).fill_(float("nan"))
        return plain(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Stepper, "step", broken)
    with pytest.raises(DivergedError, match=r"at step 3, pictures 0000\d\d\.png.*last.pth holds"):
        train(config)
    state = state_of(tmp_path / "run" / "last.pth")
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["step"] == 2


@contextlib.contextmanager
def no_file_larger_than(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond ``limit`` bytes: what a full disk looks like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("without_learning")
def test_a_full_disk_leaves_the_checkpoint_before_whole(data: Path, tmp_path: Path) -> None:
    config = run_config(data, tmp_path / "run", save_every=1, val_data="", steps=3, epochs=None)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(1))
    path = tmp_path / "run" / "last.pth"
    before = path.read_bytes()
    with (
        no_file_larger_than(len(before) // 2),
        pytest.raises(CheckpointError) as caught,
    ):
        train(config, resume=True)
    assert f"checkpoint {path} cannot be written: File too large" in str(caught.value)
    assert path.read_bytes() == before
    assert [
        item.name for item in path.parent.iterdir() if item.suffix in (".tmp", ".partial")
    ] == []
    # Once there is room, it goes on.
    assert train(config, resume=True).steps == 3


def spoilt(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return apply


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoilt(lambda content: content.pop("optimizer")), "cannot be read as an unfinished run"),
        (spoilt(lambda content: content.pop("train")), "cannot be read as an unfinished run"),
        (spoilt(lambda content: content.update(pictures=99)), "started with other data: 99 pict"),
        (spoilt(lambda content: content.update(class_names=["a"])), "pictures of the classes a,"),
        (spoilt(lambda content: content.update(step=-3)), "says that -3 steps are done"),
        (spoilt(moments_of_another), r"exp_avg has the shape \[3\], expected \[64, 128, "),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read as an unfinished run"),
    ],
)
def test_a_run_that_cannot_go_on(
    whole: Whole, tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    config = dataclasses.replace(whole.config, output=str(tmp_path), val_data="")
    shutil.copy(whole.folder / "last.pth", tmp_path)
    spoil(tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match=told):
        train(config, resume=True)
