"""TensorRT, version 8.6 to 11: engines that were built on the device they run on.

Unverified on hardware: tested with stand-ins for CUDA and TensorRT, which have the names of the
bindings of 8.6, 10.3 and 11.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anydepth_deploy.manifest import StagePiece
from anydepth_deploy.runtimes import EngineOptions
from anydepth_deploy.runtimes.tensorrt import open as opening

__all__ = ["device_capability", "open_engine", "open_stages"]

MODULE = "tensorrt"


def open_engine(
    path: Path, options: EngineOptions, *, cuda_graphs: bool = True
) -> opening.SingleEngine:
    """Open an engine and reserve its memory, for the largest batch that it takes.

    Only open engines that you trust: TensorRT checks them no better than a program.

    Raises :class:`MissingExtraError` without TensorRT or CUDA's bindings, :class:`DeviceError`
    without a GPU or enough of its memory, :class:`BundleError` for a damaged file and for an engine
    that was built for another device or with another version of TensorRT.
    """
    return opening.SingleEngine(MODULE, path, options, cuda_graphs=cuda_graphs)


def open_stages(
    pieces: Sequence[tuple[Path, StagePiece, EngineOptions]], *, cuda_graphs: bool = True
) -> opening.DeviceStages:
    """The pieces of a network, each opened when a depth first needs it.

    Raises :class:`BundleError` for pieces that are not the whole of a chain; what
    :func:`open_engine` raises for a file is raised when the piece is opened.
    """
    return opening.DeviceStages(MODULE, pieces, cuda_graphs=cuda_graphs)


def device_capability() -> str:
    """The compute capability of the GPU here: ``sm87``.

    Raises :class:`MissingExtraError` and :class:`DeviceError`.
    """
    return opening.device_capability(MODULE)
