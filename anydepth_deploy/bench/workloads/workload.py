"""What is measured: something that runs prepared inputs at chosen depths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.results import Accuracy, Scope, Subject
from anydepth_deploy.bench.timing.loops import Call
from anydepth_deploy.bench.workloads.pictures import Batches
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.detections import Detections

__all__ = ["Workload", "boundaries", "whole_pictures"]


class Workload(Protocol):
    """A bundle with a runtime, or a checkpoint in torch."""

    table: DepthTable
    batches: Batches

    def load(self, depths: Sequence[Depth]) -> None:
        """Open what the depths need; runs nothing. Raises what sessions raise."""
        ...

    def call(self, depth: Depth) -> Call:
        """The function that is timed: runs a batch by its index, and returns when its result is in
        the host's memory, or, without transfers, when the device is done."""
        ...

    def check(self, depths: Sequence[Depth]) -> None:
        """Refuse to time what computes something else than it should, once everything has run.

        Raises :class:`CheckFailedError`."""
        ...

    def subject(self) -> Subject:
        """What is measured, as known after it has run."""
        ...

    def boundaries(self) -> dict[str, str]:
        """What of a request is timed, step by step."""
        ...

    def macs(self, depth: Depth) -> int: ...

    def accuracy(self, depth: Depth) -> Accuracy | None:
        """Average precision that was measured of this very artifact at ``depth``."""
        ...

    def device_memory(self) -> dict[str, int]:
        """Bytes on the device by purpose."""
        ...

    def close(self) -> None: ...


def whole_pictures(batches: Batches, run: Callable[[NDArray[np.float32]], Detections]) -> Call:
    """From decoded pictures to boxes in their pixels, as a service does it; ``run``: from prepared
    images to detections."""

    def call(item: int) -> object:
        images, geometries = batches.prepare(item)
        found = run(images)
        return [
            geometry.to_picture(boxes)
            for geometry, boxes in zip(geometries, found.boxes, strict=True)
        ]

    return call


def boundaries(scope: Scope, *, transfers: bool | None, suppression: str) -> dict[str, str]:
    """The steps of a request, each with whether it is timed.

    ``suppression``: ``none``, ``graph`` or ``host``: where it happens if detections are made.
    """
    pictures = "timed" if scope == "pictures" else "not timed"
    copies = {None: "none (host memory)", True: "timed", False: "not timed"}[transfers]
    if suppression == "none":
        found = "none needed"
    elif scope == "raw":
        found = "not run"
    else:
        found = f"timed, in the {suppression}" if suppression == "graph" else "timed, on the host"
    return {
        "decoding of files": "not timed",
        "pre-processing": pictures,
        "copies to the device": copies,
        "network": "timed, to its raw outputs" if scope == "raw" else "timed",
        "suppression": found,
        "copies to the host": copies,
        "boxes to picture pixels": pictures,
    }
