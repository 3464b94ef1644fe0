"""The folder of a run: what is in it, and that nothing of it is lost whatever happens."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import InterruptedRunError, stop_after
from PIL import Image
from trained_networks import CHECKPOINTS

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.errors import CheckpointError, DivergedError, UsageError
from anydepth_deploy.pictures.shapes import CLASS_NAMES, write_coco
from anydepth_deploy.train.config import Progress, TrainConfig
from anydepth_deploy.train.loop import StoppedTraining, train
from anydepth_deploy.train.step import Stepper


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


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())))


def state_of(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["ema"]["module"]
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_in_it(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    config = run_config(data, folder)
    seen: list[Progress] = []
    result = train(config, progress=seen.append)
    assert {path.name for path in folder.iterdir()} == {
        "best.pth", "curves.png", "examples", "last.pth", "metrics.csv", "settings.json",
        "tensorboard",
    }  # fmt: skip
    # Two epochs of ten pictures, four a step: measured after the third and the last step.
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


def test_it_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    config = run_config(data, tmp_path / "run", epochs=1, val_data="")
    train(config)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.pth")}
    with pytest.raises(UsageError, match="holds a run already: --resume goes on with it"):
        train(config)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").glob("*.pth")}
    # What is finished is finished.
    again = train(config, resume=True)
    assert again.steps == 3
    assert same(state_of(tmp_path / "run" / "last.pth"), state_of(again.checkpoint))


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    whole = train(run_config(data, tmp_path / "whole"))
    config = run_config(data, tmp_path / "parts", save_every=1)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(4))
    # As if the curves had been written before the interruption, and the weights not.
    metrics = tmp_path / "parts" / "metrics.csv"
    metrics.write_text(metrics.read_text() + "9,99,1,1,0,1,1,1,1,1,1\n")
    parts = train(dataclasses.replace(config, workers=1), resume=True)
    for name in ("best.pth", "last.pth"):
        one, other = (state_of(tmp_path / run / name) for run in ("whole", "parts"))
        assert same(one, other)
    assert parts.accuracy == whole.accuracy
    columns = ("epoch", "step", "learning_rate", "AP TTTT-T-3", "AP FFFF-F-3")
    first, second = (rows_of(tmp_path / run) for run in ("whole", "parts"))
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


def test_a_full_disk_leaves_the_checkpoint_before_whole(data: Path, tmp_path: Path) -> None:
    """No file of that process may grow beyond a limit: what a full disk looks like to torch."""
    config = run_config(data, tmp_path / "run", save_every=1, val_data="", steps=3, epochs=None)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(1))
    path = tmp_path / "run" / "last.pth"
    before = path.read_bytes()
    code = (
        "import sys\n"
        "from anydepth_deploy.errors import CheckpointError\n"
        "from anydepth_deploy.train import TrainConfig, train\n"
        "from pathlib import PosixPath\n"
        f"try:\n    train({config!r}, resume=True)\n"
        "except CheckpointError as error:\n    print(error)\n    sys.exit(7)"
    )
    limit = len(before) // 2

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limited
    )
    assert done.returncode == 7, done.stderr[-2000:]
    assert f"checkpoint {path} cannot be written: File too large" in done.stdout
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir() if item.suffix == ".tmp"] == []
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
        (lambda path: path.write_bytes(b"nothing"), "cannot be read as an unfinished run"),
    ],
)
def test_a_run_that_cannot_go_on(
    data: Path, tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    config = run_config(data, tmp_path / "run", epochs=None, steps=1, val_data="")
    train(config)
    spoil(tmp_path / "run" / "last.pth")
    with pytest.raises(CheckpointError, match=told):
        train(config, resume=True)
