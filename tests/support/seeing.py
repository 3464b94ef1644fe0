"""A session that finds what is bright, and a small bundle without graphs to open it on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from handmade import manifest
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.detections import Detections
from anydepth_deploy.manifest import Artifact

__all__ = ["SeeingSession", "blind_bundle"]

SIDE = 64
"""Height and width of the bundle's input."""


class SeeingSession:
    """Finds one object of the first class in every picture: the extent of what is bright."""

    batch = None

    def __init__(self) -> None:
        self.seen = 0

    def load(self, depths: Any) -> None:
        """There is nothing to open."""

    def padded(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return images

    def run(self, images: NDArray[np.float32], depth: Any) -> Detections:
        assert images.shape[1:] == (3, SIDE, SIDE)
        self.seen += len(images)
        boxes = []
        for image in images:
            rows, columns = np.nonzero(image.mean(0) > 0.5)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        count = len(boxes)
        return Detections(
            np.zeros((count, 1), np.int64),
            np.asarray(boxes, np.float32)[:, None],
            np.full((count, 1), 0.9, np.float32),
        )


def blind_bundle(folder: Path) -> Bundle:
    """A bundle of the classes circle, square and star, whose one graph has no file."""
    empty = manifest()
    with BundleWriter(folder, empty):
        pass
    gated = Artifact(
        name="gated-shared",
        file="gated-shared.onnx",
        layout="gated",
        weights="shared",
        opset=18,
        bytes=0,
        sha256=hashlib.sha256(b"").hexdigest(),
        built_with={},
        build_seconds=0.0,
    )
    (folder / MANIFEST).write_text(
        empty.model_copy(update={"artifacts": [gated]}).model_dump_json()
    )
    return open_bundle(folder)
