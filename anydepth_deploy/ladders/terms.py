"""Depths as sums: what each gate adds when it runs, to what always runs.

A skip gate has one term, a gate that counts layers one for each layer beyond the first. Times and,
less exactly, scores are sums of such terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth, DepthSpace

__all__ = ["Sum", "Term", "between", "fit", "one_off", "terms_of"]


@dataclass(frozen=True)
class Term:
    """One thing that runs or does not: gate ``gate`` in full, or its layer ``layer``."""

    name: str
    gate: int
    layer: int = 0

    def runs(self, depth: Depth) -> bool:
        setting = depth.settings[self.gate]
        return setting >= self.layer if self.layer else setting == 0


def terms_of(space: DepthSpace) -> tuple[Term, ...]:
    """All terms, in the order of the gates."""
    found = []
    for place, gate in enumerate(space.gates):
        if gate.layers == 0:
            found.append(Term(gate.name, place))
        found += [
            Term(f"{gate.name} layer {layer}", place, layer) for layer in range(2, gate.layers + 1)
        ]
    return tuple(found)


def one_off(space: DepthSpace, depth: Depth) -> list[Depth]:
    """The depths that differ from ``depth`` in one gate."""
    return [
        space.depth([*depth.settings[:place], choice, *depth.settings[place + 1 :]])
        for place, gate in enumerate(space.gates)
        for choice in gate.choices
        if choice != depth.settings[place]
    ]


def between(space: DepthSpace, depth: Depth) -> bool:
    """Whether each gate of ``depth`` is set as base or super sets it, or between them."""
    sides = zip(depth.settings, space.base.settings, space.super.settings, strict=True)
    return all(min(base, top) <= setting <= max(base, top) for setting, base, top in sides)


@dataclass(frozen=True)
class Sum:
    """What everything has in common, and what each term adds."""

    constant: float
    added: Mapping[Term, float]

    def at(self, depth: Depth) -> float:
        return self.constant + sum(value for term, value in self.added.items() if term.runs(depth))


def fit(terms: Sequence[Term], values: Mapping[Depth, float], *, relative: bool = False) -> Sum:
    """The sum that is closest to ``values`` in the sense of least squares; of relative errors with
    ``relative``. Where depths do not tell terms apart, the smallest ones are taken."""
    depths = list(values)
    rows = np.asarray([[1.0, *(term.runs(depth) for term in terms)] for depth in depths])
    wanted = np.asarray([values[depth] for depth in depths])
    weight: NDArray[np.float64] = 1 / wanted if relative else np.ones(len(wanted))
    found = np.linalg.lstsq(rows * weight[:, None], wanted * weight, rcond=None)[0]
    return Sum(float(found[0]), dict(zip(terms, map(float, found[1:]), strict=True)))
