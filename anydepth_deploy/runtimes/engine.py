"""One protocol for whatever executes an artifact, and how an artifact is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth
from anydepth_deploy.manifest import Artifact

__all__ = ["Arrays", "Compute", "Engine", "EngineOptions", "Port", "Stages"]

Arrays = Mapping[str, NDArray[np.generic]]

Compute = Literal["fp32", "bf16"]
"""The precision a runtime computes FP32 graphs in."""


@dataclass(frozen=True)
class EngineOptions:
    """How to open an artifact.

    ``threads``: threads inside one operator, None for the runtime's own choice. ``raw``: add the
    heads' raw outputs to a graph exported without them. ``compute``: the precision FP32 graphs are
    computed in; inputs and outputs stay FP32. ``artifact``: what the manifest says of the file.
    ``rounded``: round to FP16 wherever the graph does, even where that is slower; of use only to
    who wants to know what FP16 costs (ONNX Runtime; see
    :mod:`anydepth_deploy.runtimes.onnxruntime.rounding`). ``kept_depths``: how many depths of a
    gated graph stay compiled where each is compiled by itself: OpenVINO, None for its own choice;
    ONNX Runtime on CPUs, None for the whole graph, which runs any depth.
    """

    threads: int | None = None
    raw: bool = False
    compute: Compute = "fp32"
    artifact: Artifact | None = None
    rounded: bool = False
    kept_depths: int | None = None

    @property
    def target(self) -> str | None:
        """What an INT8 graph was made for; None for other precisions."""
        scheme = None if self.artifact is None else self.artifact.quantisation
        return None if scheme is None else scheme.target


@dataclass(frozen=True)
class Port:
    """An input or output of a graph or an engine, as its file describes it.

    ``dtype``: as NumPy calls it, empty where the file does not say. ``shape``: None where it is not
    known, and in it where any number goes.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


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
