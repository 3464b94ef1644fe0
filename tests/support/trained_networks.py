"""The committed checkpoints: their networks, and bundles of them in every precision."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from once import once

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.registry import BUILT_IN, find_family
from anydepth_deploy.families.shared.stages import AnyDepthModel, Size
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.trained import checkpoint_of

COMMITTED = {name: path for name in BUILT_IN if (path := checkpoint_of(name)).exists()}
FAMILIES = tuple(COMMITTED)
"""Those of which a trained network is in the repository."""

ONE_SET = Path(__file__).parent / "data" / "anydepth-detr-tiny-one-set.pth"
"""The AnyDepth-DETR before its last round of training: shortcuts and the decoder's projections have
norms with the blended statistics of both modes, as the authors' files do."""

CHECKPOINTS = {**COMMITTED, "anydepth-detr": ONE_SET}
"""What limits of rounding, and lists of the layers that show when they break, were found on. What
is in `anydepth_deploy/trained` is judged by its accuracy, in `test_trained.py`."""

SIZES: dict[str, Size] = {
    **{name: find_family(name).sizes["tiny"].input_size for name in FAMILIES},
    FAMILIES[0]: (96, 192),
}
"""What tests of graphs export them for: their own sizes, but for one that is not square."""

ONE_DEPTH = "yolov12"
"""A family without any-depth, of which :func:`without_any_depth` makes a network."""

CALIBRATION = 64, 7
"""How many generated training pictures ranges come from, and their seed."""


def trained(family: str) -> AnyDepthModel:
    return load_model(read_checkpoint(CHECKPOINTS[family]))


def without_any_depth(path: Path) -> Path:
    """Write the trained AnyDepth-YOLO without its second norm sets and weights: a YOLOv12 that
    computes what it computes at super."""
    state = read_checkpoint(CHECKPOINTS["anydepth-yolo"]).state
    torch.save({key: value for key, value in state.items() if "_skip." not in key}, path)
    return path


def one_depth_bundle(folders: pytest.TempPathFactory, size: Size, **options: Any) -> Bundle:
    """That network in all layouts for inputs of ``size``. Read only."""

    def make(folder: Path) -> None:
        folder.mkdir()
        checkpoint = without_any_depth(folder / "plain.pth")
        layouts = ["gated", "set", "stages"]
        export_bundle(checkpoint, folder / "tiny", input_size=size, layouts=layouts, **options)

    name = "-".join([ONE_DEPTH, *map(str, size), *options])
    return open_bundle(once(folders, name, make) / "tiny")


@functools.cache
def trained_pieces(family: str) -> tuple[AnyDepthModel, Pieces]:
    """A trained network and its pieces for :data:`SIZES`. Not to be changed."""
    model = trained(family)
    return model, export_pieces(model, SIZES[family])


def lowered_bundle(
    family: str, folders: pytest.TempPathFactory, checkpoint: Path | None = None
) -> tuple[Bundle, Path]:
    """The trained network in all precisions, gated and static, and its range table. Read only."""
    source = checkpoint or CHECKPOINTS[family]

    def make(folder: Path) -> None:
        folder.mkdir()
        count, seed = CALIBRATION
        write_coco(folder / "pictures", count, seed, "train")
        table = folder / "table.json"
        calibrate(source, folder / "pictures", table, probe=0, batch=8, threads=1)
        export_bundle(
            source,
            folder / "bundle",
            layouts=["gated", "set"],
            precision=["fp32", "fp16", "int8"],
            targets=["onnxruntime", "tensorrt"],
            ranges=table,
        )

    folder = once(folders, f"lowered-{source.stem}", make)
    return open_bundle(folder / "bundle"), folder / "table.json"
