"""Small bundles without a network: what tests of files and of scores need, in milliseconds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from anydepth_deploy.bundle.golden import Golden, GoldenDepth
from anydepth_deploy.exporting.lower import Lowered, Recipe
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.manifest import Artifact, Manifest
from anydepth_deploy.train.config import Progress

LADDER = ("TT-1", "FF-1", "FF-2")
REST = ("FT-2", "FT-1", "TF-2", "TF-1", "TT-2")
MACS = {
    f"{first}{second}-{layers}": 100 + 40 * (first == "F") + 50 * (second == "F") + 7 * int(layers)
    for first, second, layers in itertools.product("FT", "FT", "12")
}


def manifest(sha: str = "a", **changes: Any) -> Manifest:
    """The manifest of an imaginary network with two skip gates and two decoder layers."""
    content: dict[str, Any] = {
        "tool_version": "0.1.0",
        "created": "2024-01-01T00:00:00+00:00",
        "source": {"file": "c.pth", "sha256": sha * 64, "bytes": 3, "weights": "ema"},
        "family": "imaginary",
        "config": "small",
        "parameters": 12,
        "classes": ["circle", "square", "star"],
        "preprocess": {"size": (64, 64)},
        "gates": [
            {"name": "one", "group": 0},
            {"name": "two", "group": 0},
            {"name": "decoder", "group": 1, "layers": 2},
        ],
        "base": [1, 1, 1],
        "ladder": list(LADDER),
        "depths": [
            {
                "index": index,
                "depth": depth,
                "level": index if index < len(LADDER) else None,
                "macs": {"total": MACS[depth], "all": MACS[depth]},
            }
            for index, depth in enumerate(LADDER + REST)
        ],
        "raw_outputs": {},
        "max_detections": 5,
    }
    return Manifest.model_validate({**content, **changes})


def writes(
    content: bytes, *, name: str = "gated-fp32-shared", before: Callable[[], None] | None = None
) -> Callable[[Path], Artifact]:
    """A function for ``BundleWriter.add`` that writes ``content``; ``before`` the second half."""

    def write(path: Path) -> Artifact:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            if before is not None:
                before()
            file.write(content[len(content) // 2 :])
        return Artifact(
            name=name,
            file="filled-in-later.onnx",
            layout="gated",
            weights="shared",
            opset=18,
            bytes=0,
            sha256="0" * 64,
            built_with={},
            build_seconds=0.0,
        )

    return write


GOLDEN = Golden(
    pictures=np.zeros((1, 2, 2, 3), np.uint8),
    depths={"base": GoldenDepth(Items({"boxes": np.zeros((1, 1, 4), np.float32)}))},
    items=1,
    cells=np.zeros((1, 1), np.int64),
)
"""What no network has computed."""


class FakeGraphs:
    """Stands for torch's exporter in :mod:`anydepth_deploy.exporting.export`: names instead of
    graphs, and golden outputs of nothing.

    ``saved`` lists what was written; ``before`` is called in the middle of each write.
    """

    __version__ = "fake"
    pieces = ()

    def __init__(self) -> None:
        self.exports = 0
        self.saved: list[str] = []
        self.before: Callable[[str], None] | None = None

    def export_pieces(self, *_: object, **__: object) -> FakeGraphs:
        self.exports += 1
        return self

    def lower(self, _: object, __: object, recipe: Recipe) -> Lowered:
        kind = f"gated {recipe.weights}" if recipe.depth is None else f"static {recipe.depth}"
        name = f"{kind} {recipe.precision} raw={recipe.raw} detections={recipe.detections}"
        graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name=name)
        return Lowered(ir.Model(graph, ir_version=8), 0, [])

    def save(self, model: ir.Model, path: Path, **_: object) -> None:
        name = model.graph.name or ""
        content = f"{name} ".encode() * 50
        writes(content, before=lambda: self.before and self.before(name))(path)
        self.saved.append(" ".join(name.split()[:2]))

    def install(self, patch: pytest.MonkeyPatch) -> FakeGraphs:
        from anydepth_deploy.exporting import export, golden

        patch.setattr(export, "ir", self)
        patch.setattr(golden, "make_golden", lambda *_: GOLDEN)
        for name in ("export_pieces", "lower"):
            patch.setattr(export, name, getattr(self, name))
        return self


class InterruptedRunError(Exception):
    """What :func:`stop_after` ends a training run with."""


def stop_after(step: int) -> Callable[[Progress], None]:
    """A progress function that interrupts training after ``step``."""

    def progress(report: Progress) -> None:
        if report.step > step:
            raise InterruptedRunError

    return progress
