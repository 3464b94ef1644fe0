"""One protocol for whatever executes an artifact, and the runtimes that speak it.

A runtime is a module of this package with a function ``open_engine(path, options)``; it imports
its heavy library only then. One that computes FP32 graphs in more than FP32 lists its precisions as
``COMPUTES``. One that chains pieces better than :mod:`anydepth_deploy.runtimes.chain` does, on its
device, has ``open_stages(pieces)``; one that runs engines built for a device says with
``device_capability()`` which one is here.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import UsageError
from anydepth_deploy.manifest import Artifact, Format, StagePiece
from anydepth_deploy.runtimes.chain import HostStages, Link

__all__ = [
    "RUNTIMES",
    "Arrays",
    "Compute",
    "Engine",
    "EngineOptions",
    "Stages",
    "device_capability",
    "format_of",
    "graph_targets",
    "made_for",
    "open_engine",
    "open_stages",
    "rounds_to_half",
    "runs_on",
    "runtime_targets",
]

Arrays = Mapping[str, NDArray[np.generic]]

Compute = Literal["fp32", "bf16"]
"""The precision a runtime computes FP32 graphs in."""

RUNTIMES = {
    "onnxruntime": "anydepth_deploy.runtimes.onnxruntime.engine",
    "onnxruntime-cuda": "anydepth_deploy.runtimes.onnxruntime.cuda",
    "onnxruntime-tensorrt": "anydepth_deploy.runtimes.onnxruntime.tensorrt",
    "openvino": "anydepth_deploy.runtimes.openvino",
    "tensorrt": "anydepth_deploy.runtimes.tensorrt.tensorrt",
    "tensorrt-rtx": "anydepth_deploy.runtimes.tensorrt.rtx",
}
"""Runtimes of bundles by name, and the module that implements each."""


TARGETS = {
    "onnxruntime": ("onnxruntime", "tensorrt"),
    "onnxruntime-cuda": ("onnxruntime", "tensorrt"),
    "onnxruntime-tensorrt": ("tensorrt",),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt",),
}
"""What INT8 graphs are made for that a runtime takes, by runtime, where that is not
``onnxruntime`` only: ONNX Runtime also runs what is made for TensorRT, with the same result, though
no faster than FP32. TensorRT has no zero points, wherever it is called from."""

FORMATS: dict[str, Format] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
"""What a runtime's artifacts are, where they are not ONNX graphs."""


@dataclass(frozen=True)
class EngineOptions:
    """How to open an artifact.

    ``threads``: threads inside one operator, None for the runtime's own choice. ``raw``: add the
    heads' raw outputs to a graph exported without them. ``compute``: the precision FP32 graphs are
    computed in; inputs and outputs stay FP32. ``artifact``: what the manifest says of the file.
    ``rounded``: round to FP16 wherever the graph does, even where that is slower; of use only to
    who wants to know what FP16 costs (ONNX Runtime; see
    :mod:`anydepth_deploy.runtimes.onnxruntime.rounding`).
    """

    threads: int | None = None
    raw: bool = False
    compute: Compute = "fp32"
    artifact: Artifact | None = None
    rounded: bool = False

    @property
    def target(self) -> str | None:
        """What an INT8 graph was made for; None for other precisions."""
        scheme = None if self.artifact is None else self.artifact.quantisation
        return None if scheme is None else scheme.target


class Engine(Protocol):
    """One opened artifact. Safe to call from several threads unless a runtime says otherwise."""

    @property
    def inputs(self) -> Sequence[str]: ...

    @property
    def outputs(self) -> Sequence[str]: ...

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Execute once; arrays come back as the runtime's own memory."""
        ...


class Stages(Protocol):
    """The pieces of a network, opened; a chain of them for every depth."""

    def at(self, depth: Depth) -> Engine: ...


class _Runtime(Protocol):
    def open_engine(self, path: Path, options: EngineOptions) -> Engine: ...


def format_of(runtime: str) -> Format:
    """What the artifacts are that ``runtime`` executes: ONNX graphs, or engines of its own.

    Raises :class:`UsageError` for an unknown runtime.
    """
    _check_name(runtime)
    return FORMATS.get(runtime, "onnx")


def device_capability(runtime: str) -> str | None:
    """The compute capability (``sm75``) of the device ``runtime`` runs on here; None where
    artifacts are not built for one. Raises what the runtime raises where there is no device."""
    found = getattr(_module(runtime), "device_capability", None)
    return None if found is None else str(found())


def runtime_targets(runtime: str) -> tuple[str, ...]:
    """What INT8 graphs may have been made for that ``runtime`` runs."""
    return TARGETS.get(runtime, ("onnxruntime",))


def graph_targets(runtime: str, target: str) -> tuple[str, ...]:
    """What INT8 graphs have to be made for where ``target`` is asked for: that, or the one thing
    that ``runtime`` runs where ``target`` is what is meant when nothing is said."""
    taken = runtime_targets(runtime)
    return taken if target == "onnxruntime" and target not in taken else (target,)


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


def runs_on(artifact: Artifact, runtime: str) -> bool:
    """Whether ``runtime`` runs ``artifact`` as it is meant."""
    return artifact.format == format_of(runtime) and made_for(artifact, runtime_targets(runtime))


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


def open_stages(runtime: str, pieces: Sequence[tuple[Path, StagePiece, EngineOptions]]) -> Stages:
    """Chain the pieces of a network; each is opened when a depth first needs it.

    Raises :class:`UsageError` for an unknown runtime, :class:`BundleError` for a chain that is not
    complete, and what the runtime raises.
    """
    module = _module(runtime)
    chained = getattr(module, "open_stages", None)
    if chained is not None:
        return cast(Stages, chained(pieces))

    return HostStages(
        [
            Link(path.name, spec, functools.partial(open_engine, runtime, path, options))
            for path, spec, options in pieces
        ]
    )


def _check_name(runtime: str) -> None:
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime '{runtime}': expected one of {', '.join(RUNTIMES)}")


def _module(runtime: str) -> _Runtime:
    _check_name(runtime)
    return cast(_Runtime, importlib.import_module(RUNTIMES[runtime]))
