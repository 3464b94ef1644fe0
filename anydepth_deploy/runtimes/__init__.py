"""One protocol for whatever executes an artifact, and the runtimes that speak it.

A runtime is a module of this package with a function ``open_engine(path, options)``; it imports
its heavy library only then.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import UsageError

__all__ = ["RUNTIMES", "Arrays", "Engine", "EngineOptions", "open_engine"]

Arrays = Mapping[str, NDArray[np.generic]]

RUNTIMES = {"onnxruntime": "anydepth_deploy.runtimes.onnxruntime"}
"""Runtimes of bundles by name, and the module that implements each."""


@dataclass(frozen=True)
class EngineOptions:
    """How to open an artifact.

    ``threads``: threads inside one operator, None for the runtime's own choice. ``raw``: add the
    heads' raw outputs to a graph exported without them.
    """

    threads: int | None = None
    raw: bool = False


class Engine(Protocol):
    """One opened artifact. Safe to call from several threads unless a runtime says otherwise."""

    @property
    def inputs(self) -> Sequence[str]: ...

    @property
    def outputs(self) -> Sequence[str]: ...

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Execute once; arrays come back as the runtime's own memory."""
        ...


class _Runtime(Protocol):
    def open_engine(self, path: Path, options: EngineOptions) -> Engine: ...


def open_engine(runtime: str, path: Path, options: EngineOptions) -> Engine:
    """Open an artifact's file with a runtime of this name.

    Raises :class:`UsageError` for an unknown runtime and what the runtime raises.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime '{runtime}': expected one of {', '.join(RUNTIMES)}")
    module = cast(_Runtime, importlib.import_module(RUNTIMES[runtime]))
    return module.open_engine(path, options)
