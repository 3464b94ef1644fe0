"""``ladder --diagnose``: whether the depths between the two that were trained are sound.

Training sees super and base alone. What lies between has to be measured for each checkpoint: every
stage's output taken and skipped are compared, and the score of depths is held against what adding
up the losses of their stages predicts. A depth that falls far below that, or below a depth that
does less, is a cliff; the stage whose change makes up most of the fall is named.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.ladders.features import StageDistance, stage_distance
from anydepth_deploy.ladders.scores import Scores, check_scores
from anydepth_deploy.ladders.subject import Subject
from anydepth_deploy.ladders.terms import between, one_off, terms_of
from anydepth_deploy.progress import Progress

__all__ = ["Cliff", "Diagnosis", "diagnose", "usual_tolerance"]

LEAST, MOST = 3.0, 15.0
SHARE = 0.5


def usual_tolerance(base: float, top: float) -> float:
    """Percent of score by which a depth may fall short: half of what lies between base and super,
    3 at least and 15 at most. Sound networks fall short by a fifth of it; a hundred pictures tell
    no less apart; of agreement, which the distance from super makes large, more is usual; but a
    base that finds nothing excuses nothing."""
    return min(MOST, max(LEAST, SHARE * (top - base)))


@dataclass(frozen=True)
class Cliff:
    """``fall``: by how much the score of ``depth`` falls short, in percent. ``below``: the depth
    that does less and scores more, or None where it is short of what its stages explain.
    ``stage``: the gate whose change makes up most of it."""

    depth: Depth
    fall: float
    below: Depth | None
    stage: str


@dataclass(frozen=True)
class Diagnosis:
    """``scores`` and ``explained``: measured, and by adding up the losses of stages. ``losses``: of
    each gate alone, set as base sets it, against super."""

    stages: Sequence[StageDistance]
    scores: Mapping[Depth, float]
    explained: Mapping[Depth, float]
    losses: Mapping[str, float]
    cliffs: Sequence[Cliff]
    tolerance: float

    @property
    def sound(self) -> bool:
        return not self.cliffs


@usual_arithmetic()
def diagnose(
    subject: Subject,
    scores: Scores,
    batches: Sequence[NDArray[np.float32]],
    *,
    most: int = 64,
    tolerance: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Look into ``subject``, whose artifacts are the pieces of a chain.

    ``tolerance``: by default :func:`usual_tolerance`. ``most``: depths that are scored, those that
    differ from base or super in one gate first. ``batches``: float32 [N, 3, H, W], what features
    are compared on. Raises :class:`BundleError` for another layout, and what running and scoring
    raise.
    """
    table = subject.bundle.table
    stages = compare_stages(subject, batches, progress)
    depths = depths_between(table, subject.runnable, most=most, seed=seed)
    scores.measure(depths, progress)
    check_scores(scores, table.space.base, table.space.super)
    known = {depth: scores.known[depth] for depth in depths}
    losses = losses_of(table, known)
    explained = {depth: explained_by(table, losses, known, depth) for depth in known}
    if tolerance is None:
        tolerance = usual_tolerance(known[table.space.base], known[table.space.super])
    cliffs = find_cliffs(table, known, explained, tolerance)
    return Diagnosis(stages, known, explained, losses, cliffs, tolerance)


def compare_stages(
    subject: Subject, batches: Sequence[NDArray[np.float32]], progress: Progress | None = None
) -> list[StageDistance]:
    """What each skip gate changes in the features at super."""
    space = subject.bundle.table.space
    terms = [term for term in terms_of(space) if not term.layer]
    names = {item.file: item.piece.stage for item in subject.artifacts if item.piece is not None}
    found = []
    for number, term in enumerate(terms):
        if progress is not None:
            progress(f"features of {term.name}", number, len(terms))
        settings = list(space.super.settings)
        settings[term.gate] = 1
        skipped = space.depth(settings)
        found.append(stage_distance(subject.timed, term, space.super, skipped, batches, names))
    return found


def depths_between(
    table: DepthTable, runnable: Sequence[Depth], *, most: int, seed: int = 0
) -> list[Depth]:
    """Base, super, those beside them, and others between them drawn by ``seed``."""
    space = table.space
    inside = [depth for depth in runnable if between(space, depth)]
    known = set(inside)
    first = [space.super, space.base, *one_off(space, space.super), *one_off(space, space.base)]
    chosen = [depth for depth in dict.fromkeys(first) if depth in known]
    rest = [depth for depth in inside if depth not in set(chosen)]
    more = max(0, min(len(rest), most - len(chosen)))
    return chosen + random.Random(seed).sample(rest, more)


def losses_of(table: DepthTable, known: Mapping[Depth, float]) -> dict[str, float]:
    """What super loses where one gate is set as base sets it, by gate."""
    space, found = table.space, {}
    for place, gate in enumerate(space.gates):
        settings = list(space.super.settings)
        settings[place] = space.base.settings[place]
        depth = space.depth(settings)
        if depth != space.super and depth in known:
            found[gate.name] = known[space.super] - known[depth]
    return found


def explained_by(
    table: DepthTable, losses: Mapping[str, float], known: Mapping[Depth, float], depth: Depth
) -> float:
    """Super's score less the losses of all gates that ``depth`` sets otherwise; of layers that are
    between base's and super's, in proportion."""
    space = table.space
    total = known[space.super]
    for place, gate in enumerate(space.gates):
        top, base = space.super.settings[place], space.base.settings[place]
        if top != base and gate.name in losses:
            total -= losses[gate.name] * (depth.settings[place] - top) / (base - top)
    return total


def find_cliffs(
    table: DepthTable,
    known: Mapping[Depth, float],
    explained: Mapping[Depth, float],
    tolerance: float,
) -> list[Cliff]:
    """The depths that fall short by more than ``tolerance``, the worst first.

    Where the depths beside one were not scored, several gates may have given its score back
    together: those of them are named that did so alone elsewhere, if there are any.
    """
    fallen: list[tuple[Depth, float, Depth | None, list[str]]] = []
    for depth, score in known.items():
        lesser = [other for other in known if other != depth and _does_less(table, other, depth)]
        best = max(lesser, key=lambda other: known[other], default=None)
        falls: dict[Depth | None, float] = {None: explained[depth] - score}
        if best is not None:
            falls[best] = known[best] - score
        below = max(falls, key=lambda key: falls[key])
        if falls[below] > tolerance:
            fallen.append((depth, falls[below], below, _causes(table, depth, known, falls[below])))
    alone = {stages[0] for *_, stages in fallen if len(stages) == 1}
    found = []
    for depth, fall, below, stages in fallen:
        guilty = [name for name in stages if name in alone] or stages
        found.append(Cliff(depth, fall, below, " and ".join(guilty)))
    return sorted(found, key=lambda cliff: -cliff.fall)


def _does_less(table: DepthTable, one: Depth, other: Depth) -> bool:
    """Whether every gate of ``one`` is set as in ``other``, or skips more."""
    return all(
        mine >= theirs if gate.layers == 0 else mine <= theirs
        for gate, mine, theirs in zip(table.space.gates, one.settings, other.settings, strict=True)
    )


def _causes(
    table: DepthTable, depth: Depth, known: Mapping[Depth, float], fall: float
) -> list[str]:
    """The gates that, set otherwise, give the score back: of the depths that have half of ``fall``
    back, those that differ least from ``depth``, and of them the best."""
    gates = range(len(table.space.gates))

    def changed(other: Depth) -> list[int]:
        return [place for place in gates if other.settings[place] != depth.settings[place]]

    others = [other for other in known if other != depth]
    back = [other for other in others if known[other] - known[depth] >= fall / 2] or others
    best = min(back, key=lambda other: (len(changed(other)), -known[other]))
    return [table.space.gates[place].name for place in changed(best)]
