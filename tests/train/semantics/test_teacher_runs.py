"""Whole runs with a teacher: what a file brings of it, what a run keeps, what is left."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from handmade import InterruptedRunError, stop_after
from static_detrs import authors_state, save_authors, static_detr
from torch import Tensor

from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.pictures.shapes import render_many
from anydepth_deploy.train.config import Progress, TrainConfig
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.loop import train
from anydepth_deploy.train.semantics.injection import PROJECTOR


class Colours:
    """A map of the colours of its pictures, in as many channels as are wanted."""

    def __init__(self, channels: int = 768) -> None:
        self.channels = channels

    def __call__(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 32).repeat(1, self.channels // 3, 1, 1)


@pytest.fixture(scope="module")
def pictures() -> TrainingPictures:
    drawn = render_many(2, 3, "train", size=64, processes=1)
    return TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)


@pytest.fixture(scope="module")
def v4(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A file of RT-DETRv4, and its projector of 768 channels. Read only."""
    changes: dict[str, Any] = {"release": "v4", "decoder_activation": "silu"}
    state = authors_state(static_detr("d-fine", **changes), "v4")
    path = save_authors(tmp_path_factory.mktemp("v4") / "v4.pth", state)
    return path, {name: value for name, value in state.items() if name.startswith(PROJECTOR)}


def config_of(path: Path, out: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig.for_family(
        "d-fine",
        initial=str(path),
        output=str(out),
        steps=2,
        batch=2,
        input_size=64,
        save_every=1,
        denoising=8,
        learning_rate=0.0,
    )
    return dataclasses.replace(config, **changes)


def test_the_projector_of_a_file_goes_on(
    v4: tuple[Path, dict[str, Tensor]], tmp_path: Path, pictures: TrainingPictures
) -> None:
    """It is what the run learns with, from the file as from the state that the run keeps, and
    nothing of it is left at the end."""
    path, projector = v4
    assert len(projector) == 2
    assert dict(read_checkpoint(path).projector).keys() == projector.keys()
    config = config_of(path, tmp_path / "out.pth")
    told: list[str] = []
    with pytest.raises(InterruptedRunError):
        train(
            config,
            pictures=pictures,
            teacher=Colours(),
            note=told.append,
            progress=stop_after(1),
        )
    assert "the file's projection to a teacher, which is no part of the network, goes on with " \
        "this one" in told  # fmt: skip
    kept = torch.load(config.partial, weights_only=True)["semantics"]["projector"]
    for name, value in projector.items():
        assert torch.equal(kept[name], value)
    seen: list[Progress] = []
    result = train(config, pictures=pictures, teacher=Colours(), progress=seen.append, resume=True)
    assert [report.step for report in seen] == [2]
    assert seen[0].super_terms["semantic"] > 0
    assert [*result.notes] == told
    assert not read_checkpoint(result.checkpoint).projector


def test_another_teacher_begins_anew(
    v4: tuple[Path, dict[str, Tensor]], tmp_path: Path, pictures: TrainingPictures
) -> None:
    config = config_of(v4[0], tmp_path / "out.pth", steps=1)
    notes = train(config, pictures=pictures, teacher=Colours(9)).notes
    assert any("begins anew: " in note and "is of shape [768, 64]" in note for note in notes)


def test_a_finished_run_with_a_teacher_is_finished(
    v4: tuple[Path, dict[str, Tensor]], tmp_path: Path, pictures: TrainingPictures
) -> None:
    config = config_of(v4[0], tmp_path / "run", steps=1)
    train(config, pictures=pictures, teacher=Colours())
    assert train(config, pictures=pictures, teacher=Colours(), resume=True).steps == 1
    with pytest.raises(CheckpointError, match="was started with a teacher, and is to go on with"):
        train(config, pictures=pictures, resume=True)
