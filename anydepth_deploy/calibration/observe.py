"""Which tensors are looked at, at which depth each is counted, and what it is called at others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.calibration.collect import Counted, Histograms
from anydepth_deploy.calibration.graphs import depth_sources, gated_tensors
from anydepth_deploy.calibration.steps import Step, shared_steps
from anydepth_deploy.calibration.walk import Walk
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.graph.pieces import Pieces

__all__ = ["Observations"]


class Observations:
    """The tensors of a network that quantisation may ask for, at all of ``depths``.

    A tensor that several depths have in common is counted once, at the first of them. What is
    looked at has names of its own at each depth: see
    :mod:`~anydepth_deploy.calibration.graphs`. Raises :class:`CalibrationError` for one that no
    stage makes.
    """

    def __init__(self, pieces: Pieces, table: DepthTable, depths: Sequence[Depth]) -> None:
        self._pieces = pieces
        self._steps = shared_steps(pieces, depths)
        gated = gated_tensors(pieces, table)
        first = str(depths[0])
        self._shown: dict[Step, dict[str, None]] = {}
        self._counted_at: dict[Step, str] = {step: str(step.depths[0]) for step in self._steps}
        self._names: dict[str, dict[str, tuple[str, str]]] = {}
        self.tensors: dict[str, list[str]] = {first: ["images"]}
        for depth in depths:
            makers = {step.prefix: step for step in self._steps if depth in step.depths}
            names = self._names[str(depth)] = {}
            for name, source in depth_sources(pieces, depth, gated).items():
                step = makers.get(source.split("/", 1)[0])
                at = first if step is None else self._counted_at[step]
                names[name] = at, source
                if step is not None and source not in self._shown.setdefault(step, {}):
                    self._shown[step][source] = None
                    self.tensors.setdefault(at, []).append(source)

    def open(self, threads: int | None = None) -> _Watched:
        """For :func:`~anydepth_deploy.calibration.collect.collect`; ``threads`` as :class:`Walk`
        has them, which also says what is raised."""
        walk = Walk(self._pieces, self._steps, self._shown, threads=threads)
        return _Watched(walk, self.tensors, self._counted_at)

    def named(self, counted: Counted) -> dict[str, Histograms]:
        """Histograms by depth and by the name that the range table uses; joins share theirs."""
        return {
            depth: {name: counted[at][source] for name, (at, source) in names.items()}
            for depth, names in self._names.items()
        }


class _Watched:
    """What is counted, running."""

    def __init__(
        self, walk: Walk, tensors: Mapping[str, Sequence[str]], counted_at: Mapping[Step, str]
    ) -> None:
        self.tensors = tensors
        self._walk, self._counted_at = walk, counted_at
        self._first = next(iter(tensors))

    def run(
        self, images: NDArray[np.float32]
    ) -> Iterator[tuple[str, Mapping[str, NDArray[np.generic]]]]:
        for seen in self._walk.run(images):
            at = self._first if seen.step is None else self._counted_at[seen.step]
            tensors = seen.tensors
            del seen  # and its inputs, before the next step runs
            yield at, tensors
            del tensors
