"""The runtimes of bundles, one row each: what is known of a runtime before it is imported.

A new runtime is a module with ``open_engine(path, options)`` and a row here. The module imports
its heavy library only when it opens something.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.errors import UsageError
from anydepth_deploy.manifest import Artifact, Format, StagePiece, Target, made_for
from anydepth_deploy.runtimes.chain import HostStages, Link
from anydepth_deploy.runtimes.engine import Compute, Engine, EngineOptions, Stages
from anydepth_deploy.runtimes.vnni import why_no_int8

__all__ = [
    "RUNTIMES",
    "Runtime",
    "device_capability",
    "find_runtime",
    "format_of",
    "graph_targets",
    "on_device",
    "open_engine",
    "open_stages",
    "runs_on",
    "runtime_computes",
    "runtime_targets",
    "why_not_here",
]


@dataclass(frozen=True)
class Runtime:
    """A runtime of bundles.

    ``opener``: what opens its artifacts, a module, or ``module:name`` of an object in one; it has
    ``open_engine(path, options)`` and what the other fields promise. ``format``: what it executes;
    where that is engines of its own, the opener has ``device_capability()``. ``targets``: what INT8
    graphs are made for that it runs as they are meant, the one it likes best first. ``computes``:
    what it may compute FP32 graphs in; with more than one, the opener's ``computes_here()`` says
    what this machine can. ``on_device``: it computes on a GPU, sessions copy inputs there and
    results back. ``chains``: the opener has ``open_stages(pieces)`` and chains pieces better than
    :mod:`anydepth_deploy.runtimes.chain` does, on its device. ``by_depth``: it compiles each depth
    of a gated graph by itself, whether it is told how many to keep or not. ``vnni``: on x86 it
    computes INT8 rightly only where the CPU has VNNI. ``short``: its name in the names of engines.
    """

    name: str
    opener: str
    format: Format = "onnx"
    targets: tuple[Target, ...] = ("onnxruntime",)
    computes: tuple[Compute, ...] = ("fp32",)
    on_device: bool = False
    chains: bool = False
    by_depth: bool = False
    vnni: bool = False
    short: str = ""

    def load(self) -> Any:
        """The opener, imported."""
        module, _, name = self.opener.partition(":")
        found = importlib.import_module(module)
        return getattr(found, name) if name else found


_ROOMS = "anydepth_deploy.runtimes"

RUNTIMES: dict[str, Runtime] = {
    row.name: row
    for row in (
        # ONNX Runtime also runs what is made for TensorRT, with the same result, though no faster
        # than FP32. TensorRT has no zero points, wherever it is called from.
        Runtime(
            "onnxruntime",
            f"{_ROOMS}.onnxruntime.engine",
            targets=("onnxruntime", "tensorrt"),
        ),
        Runtime(
            "onnxruntime-cuda",
            f"{_ROOMS}.onnxruntime.cuda",
            targets=("onnxruntime", "tensorrt"),
            on_device=True,
        ),
        Runtime(
            "onnxruntime-tensorrt",
            f"{_ROOMS}.onnxruntime.tensorrt",
            targets=("tensorrt",),
            on_device=True,
        ),
        Runtime(
            "openvino",
            f"{_ROOMS}.openvino",
            targets=("openvino", "onnxruntime"),
            computes=("fp32", "bf16"),
            by_depth=True,
            vnni=True,
        ),
        Runtime(
            "tensorrt",
            f"{_ROOMS}.tensorrt.open:TENSORRT",
            format="tensorrt",
            targets=("tensorrt",),
            on_device=True,
            chains=True,
            short="trt",
        ),
        Runtime(
            "tensorrt-rtx",
            f"{_ROOMS}.tensorrt.open:RTX",
            format="tensorrt-rtx",
            targets=("tensorrt",),
            on_device=True,
            chains=True,
            short="rtx",
        ),
    )
}
"""Runtimes of bundles by name; the first is the embedded default."""


def find_runtime(name: str) -> Runtime:
    """The row of the runtime ``name``. Raises :class:`UsageError` for an unknown one."""
    if name not in RUNTIMES:
        raise UsageError(f"unknown runtime '{name}': expected one of {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def format_of(runtime: str) -> Format:
    """What the artifacts are that ``runtime`` executes: ONNX graphs, or engines of its own.

    Raises :class:`UsageError` for an unknown runtime.
    """
    return find_runtime(runtime).format


def on_device(runtime: str) -> bool:
    """Whether ``runtime`` computes on a GPU. Raises :class:`UsageError` for an unknown one."""
    return find_runtime(runtime).on_device


def device_capability(runtime: str) -> str | None:
    """The compute capability (``sm75``) of the device ``runtime`` runs on here; None where
    artifacts are not built for one. Raises what the runtime raises where there is no device."""
    row = find_runtime(runtime)
    return None if row.format == "onnx" else str(row.load().device_capability())


def runtime_targets(runtime: str) -> tuple[Target, ...]:
    """What INT8 graphs may have been made for that ``runtime`` runs."""
    return find_runtime(runtime).targets


def graph_targets(runtime: str, target: str | None) -> tuple[str, ...]:
    """What INT8 graphs have to be made for where ``target`` is asked for. Where nothing is said:
    for ONNX Runtime where that is best for ``runtime``, else for any that it runs, the best
    first."""
    if target is not None:
        return (target,)
    taken = runtime_targets(runtime)
    return taken[:1] if taken[0] == "onnxruntime" else taken


def runtime_computes(runtime: str) -> tuple[Compute, ...]:
    """What ``runtime`` can compute FP32 graphs in, on this machine.

    Raises :class:`UsageError` for an unknown runtime.
    """
    row = find_runtime(runtime)
    return row.computes if len(row.computes) == 1 else tuple(row.load().computes_here())


def runs_on(artifact: Artifact, runtime: str) -> bool:
    """Whether ``runtime`` runs ``artifact`` as it is meant."""
    row = find_runtime(runtime)
    return artifact.format == row.format and made_for(artifact, row.targets)


def why_not_here(artifact: Artifact, runtime: str) -> str | None:
    """Why this CPU's results of ``artifact`` with ``runtime``, which runs it, would be wrong; None
    where they are right."""
    if not find_runtime(runtime).vnni or artifact.quantisation is None:
        return None
    return why_no_int8(artifact.file)


def open_engine(runtime: str, path: Path, options: EngineOptions) -> Engine:
    """Open an artifact's file with a runtime of this name.

    Raises :class:`UsageError` for an unknown runtime and for a precision that it cannot compute in,
    and what the runtime raises.
    """
    row = find_runtime(runtime)
    if options.compute not in row.computes:
        able = [name for name, other in RUNTIMES.items() if options.compute in other.computes]
        raise UsageError(
            f"the runtime '{runtime}' cannot compute in {options.compute}: expected "
            f"{' or '.join(row.computes)}, or the runtime {' or '.join(able) or 'none'}"
        )
    engine: Engine = row.load().open_engine(path, options)
    return engine


def open_stages(runtime: str, pieces: Sequence[tuple[Path, StagePiece, EngineOptions]]) -> Stages:
    """Chain the pieces of a network; each is opened when a depth first needs it.

    Raises :class:`UsageError` for an unknown runtime, :class:`BundleError` for a chain that is not
    complete, and what the runtime raises.
    """
    row = find_runtime(runtime)
    if row.chains:
        stages: Stages = row.load().open_stages(pieces)
        return stages
    return HostStages(
        [
            Link(path.name, spec, functools.partial(open_engine, runtime, path, options))
            for path, spec, options in pieces
        ]
    )
