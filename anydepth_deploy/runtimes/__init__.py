"""One protocol for whatever executes an artifact, and the runtimes that speak it.

A runtime is a module of this package with a function ``open_engine(path, options)``; it imports
its heavy library only then. One that computes FP32 graphs in more than FP32 lists its precisions as
``COMPUTES``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import UsageError
from anydepth_deploy.manifest import Artifact

__all__ = [
    "RUNTIMES",
    "Arrays",
    "Compute",
    "Engine",
    "EngineOptions",
    "made_for",
    "open_engine",
    "rounds_to_half",
    "runtime_targets",
]

Arrays = Mapping[str, NDArray[np.generic]]

Compute = Literal["fp32", "bf16"]
"""The precision a runtime computes FP32 graphs in."""

RUNTIMES = {
    "onnxruntime": "anydepth_deploy.runtimes.onnxruntime",
    "openvino": "anydepth_deploy.runtimes.openvino",
}
"""Runtimes of bundles by name, and the module that implements each."""


TARGETS = {"onnxruntime": ("onnxruntime", "tensorrt")}
"""By runtime, where it is not its own only: ONNX Runtime also runs what is made for TensorRT, with
the same result, though no faster than FP32."""


@dataclass(frozen=True)
class EngineOptions:
    """How to open an artifact.

    ``threads``: threads inside one operator, None for the runtime's own choice. ``raw``: add the
    heads' raw outputs to a graph exported without them. ``compute``: the precision FP32 graphs are
    computed in; inputs and outputs stay FP32. ``target``: what an INT8 graph was made for.
    ``rounded``: round to FP16 wherever the graph does, even where that is slower; of use only to
    who wants to know what FP16 costs (ONNX Runtime; see :mod:`anydepth_deploy.runtimes.rounding`).
    """

    threads: int | None = None
    raw: bool = False
    compute: Compute = "fp32"
    target: str | None = None
    rounded: bool = False


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


def runtime_targets(runtime: str) -> tuple[str, ...]:
    """What INT8 graphs may have been made for that ``runtime`` runs."""
    return TARGETS.get(runtime, ("onnxruntime",))


def runtime_computes(runtime: str) -> tuple[Compute, ...]:
    """What ``runtime`` can compute FP32 graphs in, on this machine.

    Raises :class:`UsageError` for an unknown runtime.
    """
    module = _module(runtime)
    computes: tuple[Compute, ...] = getattr(module, "computes", lambda: ("fp32",))()
    return computes


def made_for(artifact: Artifact, targets: Sequence[str]) -> bool:
    """Whether ``artifact`` is quantised for one of ``targets``, or not quantised."""
    return artifact.quantisation is None or artifact.quantisation.target in targets


def rounds_to_half(artifact: Artifact) -> bool:
    """Whether the body of ``artifact`` is FP16."""
    scheme = artifact.quantisation
    return artifact.precision == "fp16" or (scheme is not None and scheme.target == "tensorrt")


def open_engine(runtime: str, path: Path, options: EngineOptions) -> Engine:
    """Open an artifact's file with a runtime of this name.

    Raises :class:`UsageError` for an unknown runtime and for a precision that it cannot compute in,
    and what the runtime raises.
    """
    module = _module(runtime)
    computes: tuple[str, ...] = getattr(module, "COMPUTES", ("fp32",))
    if options.compute not in computes:
        raise UsageError(
            f"the runtime '{runtime}' cannot compute in {options.compute}: expected "
            f"{' or '.join(computes)}"
        )
    return module.open_engine(path, options)


def _module(runtime: str) -> _Runtime:
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime '{runtime}': expected one of {', '.join(RUNTIMES)}")
    return cast(_Runtime, importlib.import_module(RUNTIMES[runtime]))
