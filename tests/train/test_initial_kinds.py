"""Every kind of file that a run may start from, as the table in docs/training.md has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_detr, random_yolo, write_training_file
from fork_checkpoint import write_fork_checkpoint
from static_detrs import authors_state, other_hgnet, save_authors, save_hugging_face, static_detr

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.loop import train
from anydepth_deploy.train.start import open_start

SILU = {"decoder_activation": "silu"}
V2 = {"release": "v2"}
DEIM = {"release": "deim", "sampling": "discrete", **SILU}
FINE = {"fine_position": "on", "fine_cosformer": "on", "fine_upsampling": "bilinear"}


def authors(layout: str, family: str, size: str = "tiny", **changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        state = authors_state(static_detr(family, size, **changes), layout)
        return save_authors(folder / "file.pth", other_hgnet(state) if "hgnet" in size else state)

    return make


def transformers(layout: str, family: str, **changes: Any) -> Callable[[Path], Path]:
    names = {str(label): name for label, name in enumerate(CLASS_NAMES)}

    def make(folder: Path) -> Path:
        model = static_detr(family, **changes)
        return save_hugging_face(folder / "folder", model, layout, id2label=names)

    return make


def anydepth_detr(folder: Path) -> Path:
    return write_training_file(folder / "file.pth", random_detr(), stale=random_detr(seed=9))


def anydepth_yolo(folder: Path) -> Path:
    """As the authors' code saves it: the network as an object."""
    names = dict(enumerate(CLASS_NAMES))
    return write_fork_checkpoint(folder / "file.pt", random_yolo(), names=names)


KINDS: dict[str, tuple[str, Callable[[Path], Path], dict[str, str]]] = {
    "RT-DETR": ("rt-detr", authors("v1", "rt-detr"), {}),
    "RT-DETR, HGNetv2": ("rt-detr", authors("v1", "rt-detr", "tiny-hgnetv2"), {}),
    "RT-DETRv2": ("rt-detr", authors("v2", "rt-detr", **V2), {"sampling": "bilinear"}),
    "DEIM, RT-DETRv2": ("rt-detr", authors("v2", "rt-detr", **DEIM), {"sampling": "discrete"}),
    "D-FINE": ("d-fine", authors("d-fine", "d-fine"), {"decoder_activation": "relu"}),
    "DEIM, D-FINE": ("d-fine", authors("d-fine", "d-fine", **SILU), SILU),
    "RT-DETRv4": ("d-fine", authors("v4", "d-fine", release="v4", **SILU), {}),
    "FINE": ("rt-detr", authors("v1", "rt-detr", "tiny-fine"), FINE),
    "transformers, RT-DETR": ("rt-detr", transformers("v1", "rt-detr"), {}),
    "transformers, RT-DETRv2": ("rt-detr", transformers("v2", "rt-detr", **V2), {}),
    "transformers, D-FINE": ("d-fine", transformers("d-fine", "d-fine"), {}),
    "AnyDepth-DETR": ("anydepth-detr", anydepth_detr, {}),
    "AnyDepth-YOLO": ("anydepth-yolo", anydepth_yolo, {}),
}


@pytest.fixture(scope="module")
def pictures() -> TrainingPictures:
    drawn = render_many(2, 3, "train", size=64, processes=1)
    return TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)


def config_of(path: Path, family: str, said: dict[str, str], out: Path) -> TrainConfig:
    return TrainConfig.for_family(
        family,
        initial=str(path),
        said=said,
        output=str(out),
        steps=1,
        batch=2,
        input_size=64,
        save_every=0,
        denoising=8,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_starts_from_it(kind: str, tmp_path: Path, pictures: TrainingPictures) -> None:
    """Super is the file's network before the first step; what a step makes of it is read back, is
    any-depth, and needs nothing to be said or assumed."""
    family, make, said = KINDS[kind]
    path = make(tmp_path)
    found = read_checkpoint(path, Said.of(said))
    assert (found.family.name, dict(found.assumed)) == (family, {})
    initial = load_model(found)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    compared: list[str] = []

    @torch.no_grad()
    def compare(model: AnyDepthModel) -> None:
        # Training keeps weights channels last, where convolutions round otherwise.
        model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for name, value in initial.detect(images, "super").items():
            torch.testing.assert_close(model.detect(images, "super")[name], value, rtol=0, atol=0)
            compared.append(name)

    config = config_of(path, family, said, tmp_path / "out.pth")
    result = train(config, pictures=pictures, prepare=compare)
    assert sorted(compared) == ["boxes", "labels", "scores"]
    kept = read_checkpoint(result.checkpoint)
    assert (kept.family.name, kept.class_names, dict(kept.assumed)) == (family, [*CLASS_NAMES], {})
    # From what was written here a run goes on, with nothing added and no head made anew.
    again = open_start(config_of(result.checkpoint, family, {}, tmp_path / "two.pth"), CLASS_NAMES)
    assert [gate.name for gate in again.model.space.gates if not gate.layers]
    assert not [note for note in again.notes if "second set" in note or "anew" in note]
