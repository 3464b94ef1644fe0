"""The committed checkpoints: their networks, and bundles of them in every precision."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from conftest import ROOT
from once import once

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.registry import BUILT_IN, find_family
from anydepth_deploy.families.shared.stages import AnyDepthModel, Size
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.pictures.shapes import write_coco

FAMILIES = tuple(name for name in BUILT_IN if find_family(name).training is not None)
CHECKPOINTS = {name: ROOT / "checkpoints" / f"{name}-tiny-shapes.pth" for name in FAMILIES}
SIZES: dict[str, Size] = {
    **{name: find_family(name).sizes["tiny"].input_size for name in FAMILIES},
    FAMILIES[0]: (96, 192),
}
"""What tests of graphs export them for: their own sizes, but for one that is not square."""

CALIBRATION = 64, 7
"""How many generated training pictures ranges come from, and their seed."""


def trained(family: str) -> AnyDepthModel:
    return load_model(read_checkpoint(CHECKPOINTS[family]))


@functools.cache
def trained_pieces(family: str) -> tuple[AnyDepthModel, Pieces]:
    """A trained network and its pieces for :data:`SIZES`. Not to be changed."""
    model = trained(family)
    return model, export_pieces(model, SIZES[family])


def lowered_bundle(family: str, folders: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """The trained network in all precisions, gated and static, and its range table. Read only."""

    def make(folder: Path) -> None:
        folder.mkdir()
        count, seed = CALIBRATION
        write_coco(folder / "pictures", count, seed, "train")
        table = folder / "table.json"
        calibrate(CHECKPOINTS[family], folder / "pictures", table, probe=0, batch=8, threads=1)
        export_bundle(
            CHECKPOINTS[family],
            folder / "bundle",
            layouts=["gated", "set"],
            precision=["fp32", "fp16", "int8"],
            targets=["onnxruntime", "tensorrt"],
            ranges=table,
        )

    folder = once(folders, f"lowered-{family}", make)
    return open_bundle(folder / "bundle"), folder / "table.json"
