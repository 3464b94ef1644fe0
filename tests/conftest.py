"""Fixtures shared by all tests: a tiny network of each family with random weights, its bundle."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pace
import pytest
import torch
from kept_exports import installed
from once import once

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.detr.config import CONFIGS
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.yolo.config import CONFIGS as YOLO_CONFIGS
from anydepth_deploy.families.yolo.config import ONE_DEPTH_CONFIGS
from anydepth_deploy.families.yolo.model import AnyDepthYOLO, YOLOv12
from anydepth_deploy.graph.pieces import Pieces, export_pieces

pytest_plugins = ["command_line"]

# Assertions in helpers tell as much as those in tests.
pytest.register_assert_rewrite("comparisons", "graph_faults", "onnx_graphs", "small_chain")

ROOT = Path(__file__).resolve().parent.parent
RUNGS = CONFIGS["tiny"].ladder
"""The default ladder of the tiny network, from base to super."""

TRAINED = ROOT / "anydepth_deploy" / "trained" / "anydepth-detr-tiny-shapes.pth"


@pytest.fixture(autouse=True, scope="session")
def _settings() -> None:
    # Tables are as wide as it says; workers of pytest have it, and nobody's terminal is meant.
    os.environ.pop("COLUMNS", None)
    # The networks of the tests are tiny: a second thread waits more than it helps.
    torch.set_num_threads(1)
    # Exporting makes millions of objects that stay: looking for garbage among them after every 700
    # took a tenth of the time.
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _kept_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed():
        yield


@pytest.fixture(autouse=True, scope="module")
def _settled() -> None:
    """Graphs that are kept for the whole session are millions of objects: what is there when a
    module begins is no longer looked through, or collecting garbage takes longer than the tests."""
    gc.collect()
    gc.freeze()
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on which tests ran before it in the same process."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    pace.mark(items, whole=all(Path(argument) == ROOT / "tests" for argument in _asked(config)))
    pace.order(items)


def _asked(config: pytest.Config) -> list[str]:
    """The files and folders to collect tests from."""
    return [str(config.invocation_params.dir / argument) for argument in config.args]


def random_detr(name: str = "tiny", seed: int = 0) -> AnyDepthDETR:
    return randomise(AnyDepthDETR(CONFIGS[name]), seed)


def random_yolo(name: str = "tiny", seed: int = 0, **changes: Any) -> AnyDepthYOLO:
    """`changes`: fields of the configuration."""
    return randomise(AnyDepthYOLO(YOLO_CONFIGS[name].replace(**changes)), seed)


def random_images(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, 3, height, width), np.float32)


def write_training_file(path: Path, model: torch.nn.Module, stale: torch.nn.Module) -> Path:
    """Save a training dictionary with `model` as the average and `stale` as the last weights."""
    path.parent.mkdir(exist_ok=True)
    ema = {"module": model.state_dict(), "updates": 1000}
    content = {"model": stale.state_dict(), "ema": ema, "optimizer": {}, "last_epoch": 67}
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def model() -> AnyDepthDETR:
    """A tiny AnyDepth-DETR with random weights."""
    return random_detr()


@pytest.fixture(scope="session")
def checkpoint(model: AnyDepthDETR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the authors' format; `model` differs from `ema`, which is the one to deploy."""

    def make(folder: Path) -> None:
        write_training_file(folder / "tiny.pth", model, stale=random_detr(seed=99))

    return once(tmp_path_factory, "checkpoint", make) / "tiny.pth"


def _export_once(folders: pytest.TempPathFactory, name: str, checkpoint: Path) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        layouts, weights = ["gated", "set"], ["shared", "folded"]
        export_bundle(checkpoint, folder / "tiny", layouts=layouts, weights=weights)

    return once(folders, name, make) / "tiny"


@pytest.fixture(scope="session")
def _exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export_once(tmp_path_factory, "bundle", checkpoint)


@pytest.fixture(scope="session")
def bundle(_exported: Path) -> Bundle:
    """Gated graphs (shared and folded) and the static set of `checkpoint`. Read only."""
    return open_bundle(_exported)


@pytest.fixture
def bundle_copy(_exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    import shutil

    return Path(shutil.copytree(_exported, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def yolo_model() -> AnyDepthYOLO:
    """A tiny AnyDepth-YOLO with random weights."""
    return random_yolo()


@pytest.fixture(scope="session")
def yolo_checkpoint(yolo_model: AnyDepthYOLO, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`yolo_model` as `checkpoint` holds `model`."""

    def make(folder: Path) -> None:
        write_training_file(folder / "tiny.pth", yolo_model, stale=random_yolo(seed=99))

    return once(tmp_path_factory, "checkpoint-yolo", make) / "tiny.pth"


@pytest.fixture(scope="session")
def yolo_bundle(yolo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Gated graphs (shared and folded) and the static set of `yolo_checkpoint`. Read only."""
    return open_bundle(_export_once(tmp_path_factory, "bundle-yolo", yolo_checkpoint))


@pytest.fixture(scope="session")
def one_depth_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Gated graphs (shared and folded) and the static graph of a tiny YOLOv12 with random weights,
    which has one depth. Read only."""
    network, stale = (randomise(YOLOv12(ONE_DEPTH_CONFIGS["tiny"]), seed) for seed in (0, 99))

    def make(folder: Path) -> None:
        write_training_file(folder / "tiny.pth", network, stale)

    checkpoint = once(tmp_path_factory, "checkpoint-one-depth", make) / "tiny.pth"
    return open_bundle(_export_once(tmp_path_factory, "bundle-one-depth", checkpoint))


@pytest.fixture(scope="session")
def yolo_pieces(yolo_model: AnyDepthYOLO) -> Pieces:
    """What `yolo_bundle` was put together from."""
    return export_pieces(yolo_model, yolo_model.config.input_size)
