"""Fixtures shared by all tests: a tiny network with random weights, and its bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anydepth_deploy.bundle import Bundle, open_bundle
from anydepth_deploy.export import export_bundle
from anydepth_deploy.models.detr import CONFIGS, AnyDepthDETR
from anydepth_deploy.models.randomise import randomise

ROOT = Path(__file__).resolve().parent.parent
RUNGS = CONFIGS["tiny"].ladder
"""The default ladder of the tiny network, from base to super."""

TRAINED = ROOT / "checkpoints" / "anydepth-detr-tiny-shapes.pth"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # The networks of the tests are tiny: a second thread waits more than it helps.
    torch.set_num_threads(1)


def random_detr(name: str = "tiny", seed: int = 0) -> AnyDepthDETR:
    return randomise(AnyDepthDETR(CONFIGS[name]), seed)


def random_images(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, 3, height, width), np.float32)


@pytest.fixture(scope="session")
def model() -> AnyDepthDETR:
    """A tiny AnyDepth-DETR with random weights."""
    return random_detr()


@pytest.fixture(scope="session")
def checkpoint(model: AnyDepthDETR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the authors' format; `model` differs from `ema`, which is the one to deploy."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    stale = random_detr(seed=99).state_dict()
    ema = {"module": model.state_dict(), "updates": 1000}
    torch.save({"model": stale, "ema": ema, "optimizer": {}, "last_epoch": 67}, path)
    return path


@pytest.fixture(scope="session")
def _exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(checkpoint, out, layouts=["gated", "set"], weights=["shared", "folded"])
    return out


@pytest.fixture(scope="session")
def bundle(_exported: Path) -> Bundle:
    """Gated graphs (shared and folded) and the static set of `checkpoint`. Read only."""
    return open_bundle(_exported)


@pytest.fixture
def bundle_copy(_exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    import shutil

    return Path(shutil.copytree(_exported, tmp_path / "bundle"))
