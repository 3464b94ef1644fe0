"""Bundles of tiny static DETRs with random weights, for what comes after their networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from once import once
from static_detrs import static_detr

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.shapes import write_coco

KINDS = {
    "rt-detr": ("rt-detr", "tiny"),
    "rt-detr-hgnetv2": ("rt-detr", "tiny-hgnetv2"),
    "d-fine": ("d-fine", "tiny"),
}
"""Family and size: each backbone, each decoder."""

SIZE = (96, 160)
"""Height and width of inputs: not square."""

EXITS = ("L1", "L2", "L3")


def static_checkpoint(kind: str, folders: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        torch.save({"model": static_detr(*KINDS[kind]).state_dict()}, folder / "tiny.pth")

    return once(folders, f"static-{kind}", make) / "tiny.pth"


def static_bundle(kind: str, folders: pytest.TempPathFactory) -> Bundle:
    """Gated, static and in pieces, in FP32 and FP16, with raw outputs. Read only."""

    def make(folder: Path) -> None:
        export_bundle(
            static_checkpoint(kind, folders),
            folder,
            layouts=["gated", "set", "stages"],
            precision=["fp32", "fp16"],
            raw=True,
            input_size=SIZE,
        )

    return open_bundle(once(folders, f"static-{kind}-bundle", make))


def quantised_bundle(kind: str, folders: pytest.TempPathFactory) -> Bundle:
    """Gated graphs in INT8 for each target, and the static ones of the shallowest. Read only."""

    def make(folder: Path) -> None:
        folder.mkdir()
        write_coco(folder / "pictures", 8, 7, "train")
        checkpoint, table = static_checkpoint(kind, folders), folder / "table.json"
        options: dict[str, Any] = {"probe": 0, "batch": 8, "threads": 1, "input_size": SIZE}
        calibrate(checkpoint, folder / "pictures", table, **options)
        export_bundle(
            checkpoint,
            folder / "bundle",
            layouts=["gated", "set"],
            depth="L1",
            precision=["int8"],
            targets=["onnxruntime", "tensorrt", "openvino"],
            ranges=table,
            raw=True,
            input_size=SIZE,
        )

    return open_bundle(once(folders, f"static-{kind}-int8", make) / "bundle")
