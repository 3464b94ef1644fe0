"""Calibrated networks with random weights: their files, pieces, pictures and range tables."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_detr, random_yolo
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.calibration import calibrate as calibrate_module
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.depth import Depth
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch

FAMILIES = ("detr", "yolo")
"""The fixtures with a case each; what uses `case` or `yolo` has its own `detr` and `folder`."""


@functools.cache
def detr_pieces() -> Pieces:
    """Of the network in the fixture `checkpoint`; shared by modules, for it takes a while."""
    model = random_detr()
    return export_pieces(model, model.config.input_size)


def write_pictures(folder: Path, count: int = 4) -> Path:
    """Pictures of several shapes with blots, as unlike each other as pictures are."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(11)
    for index in range(count):
        small = rng.integers(0, 60 + 65 * index, (5 + index, 7, 3)).astype(np.uint8)
        picture = Image.fromarray(small).resize((90 + 20 * index, 130), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index}.png")
    return folder


class Case:
    """A network with its file, its pieces and a table of all that was seen."""

    def __init__(
        self,
        model: AnyDepthModel,
        checkpoint: Path,
        pieces: Pieces,
        folder: Path,
        out: Path,
        probe: int = 0,
    ) -> None:
        self.model, self.checkpoint, self.pieces, self.folder = model, checkpoint, pieces, folder
        self.path, self.ranges = self.run(out, method="minmax", probe=probe)
        self.recipe = Preprocess.of(model.resize, pieces.size)

    def run(self, out: Path, *, pieces: Pieces | None = None, **options: Any) -> Any:
        """`calibrate` without exporting the pieces anew."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calibrate_module, "export_pieces", lambda *_, **__: pieces or self.pieces)
            return calibrate(self.checkpoint, self.folder, out, threads=1, **options)

    @property
    def depths(self) -> list[Depth]:
        """All that were observed."""
        return [self.model.table.find(depth) for depth in self.ranges.depths]

    def images(self) -> list[NDArray[np.float32]]:
        paths = sorted(self.folder.iterdir())
        return [prepare_batch([load_image(path)], self.recipe)[0] for path in paths]


@pytest.fixture(scope="module")
def yolo(
    yolo_checkpoint: Path,
    yolo_pieces: Pieces,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    out = tmp_path_factory.mktemp("ranges") / "yolo.json"
    return Case(random_yolo(), yolo_checkpoint, yolo_pieces, folder, out)


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found
