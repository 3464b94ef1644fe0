"""How far a stage's output taken and skipped lie apart, and how that grows towards the outputs.

The network runs at super and at super without one stage's refinement; every tensor behind the stage
is compared. What comes before is the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.ladders.terms import Term

__all__ = ["Apart", "StageDistance", "stage_distance"]


@dataclass(frozen=True)
class Apart:
    """Two versions of one tensor, over all pictures. ``piece`` sets it; ``size``: height and width
    of a map, empty for what is none. ``cosine`` of the angle between them, ``norms``: that of the
    skipped version over that of the taken one, ``distance``: the norm of their difference over
    that of the taken one."""

    piece: str
    tensor: str
    size: tuple[int, ...]
    cosine: float
    norms: float
    distance: float


@dataclass(frozen=True)
class StageDistance:
    """``own``: the outputs of the stage itself, ``behind``: what follows, in order."""

    stage: str
    own: tuple[Apart, ...]
    behind: tuple[Apart, ...]

    @property
    def growth(self) -> float:
        """How many times farther apart the last tensors are than the stage's own outputs."""
        own = max((item.distance for item in self.own), default=0.0)
        last = self.behind[-1].piece if self.behind else ""
        end = max((item.distance for item in self.behind if item.piece == last), default=own)
        return end / own if own else 0.0


Tensors = Mapping[tuple[int, str], tuple[str, NDArray[np.float64]]]
"""By place in the run and name: what set it, and its values."""


def stage_distance(
    session: Session,
    term: Term,
    taken: Depth,
    skipped: Depth,
    batches: Sequence[NDArray[np.float32]],
    names: Mapping[str, str] | None = None,
) -> StageDistance:
    """Compare ``taken`` with ``skipped``, which differ in the gate of ``term`` alone.

    ``names``: what pieces are to be called. Tensors that only one of them sets, integers, and those
    that are equal are left out, and so are detections, whose places mean nothing. Raises what
    running raises.
    """
    sums: dict[tuple[int, str], tuple[str, tuple[int, ...], NDArray[np.float64]]] = {}
    for images in batches:
        one, other = (_flow(session, images, depth) for depth in (taken, skipped))
        for key in [key for key in one if key in other]:
            piece, first = one[key]
            second = other[key][1]
            if first.shape != second.shape:
                continue
            added = np.asarray(
                [np.sum(first * second), np.sum(first**2), np.sum(second**2)], np.float64
            )
            difference = np.sum((first - second) ** 2)
            size = tuple(first.shape[2:]) if first.ndim == 4 else ()
            before = sums.get(key, (piece, size, np.zeros(4)))[2]
            called = (names or {}).get(piece, piece)
            sums[key] = (called, size, before + np.append(added, difference))
    found = [_apart(name, *sums[place, name]) for place, name in sums]
    different = [item for item in found if item.distance > 0]
    first_piece = different[0].piece if different else ""
    return StageDistance(
        term.name,
        tuple(item for item in different if item.piece == first_piece),
        tuple(item for item in different if item.piece != first_piece),
    )


def _flow(session: Session, images: NDArray[np.float32], depth: Depth) -> Tensors:
    found: dict[tuple[int, str], tuple[str, NDArray[np.float64]]] = {}
    times: dict[str, int] = {}

    def see(piece: str, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        for name, array in tensors.items():
            if array.dtype.kind == "f" and name not in ("labels", "boxes", "scores"):
                # The layers of a decoder set the same tensors again.
                number = times[name] = times.get(name, -1) + 1
                found[number, name] = (piece, array.astype(np.float64))

    session.observe(images, depth, see)
    return found


def _apart(name: str, piece: str, size: tuple[int, ...], sums: NDArray[np.float64]) -> Apart:
    product, one, other, difference = map(float, sums)
    both = float(np.sqrt(one * other))
    return Apart(
        piece,
        name,
        size,
        product / both if both else 0.0,
        float(np.sqrt(other / one)) if one else 0.0,
        float(np.sqrt(difference / one)) if one else 0.0,
    )
