"""What every depth takes, from a few that are timed.

Two ways. Where the artifact is a chain, each piece is timed in its place while a few depths run
that use all of them: a depth takes the sum of its pieces, and what lies between. Otherwise base,
super and the depths beside them are timed whole, and each gate's share follows by least squares.
Either way, ten depths that had no part in it are timed in the same rounds, and say how far the
prediction is off.

All calls take turns, in an order drawn anew each round, and each is held against its round: what
the machine does meanwhile falls on all depths alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.timing.interleave import interleave
from anydepth_deploy.bench.timing.timer import quiet
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.ladders.terms import fit, one_off, terms_of
from anydepth_deploy.manifest import StagePiece
from anydepth_deploy.progress import Progress

__all__ = [
    "CHECKS",
    "Costs",
    "Plan",
    "bound",
    "medians",
    "noise_of",
    "plan_costs",
    "time_depths",
    "time_stages",
]

CHECKS = 10
"""Depths that a prediction is held against."""

Key = TypeVar("Key")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """``timed``: the depths that a prediction is made of; ``checks``: those it is held against.
    ``whole``: whether all depths are timed, and nothing is predicted."""

    timed: tuple[Depth, ...]
    checks: tuple[Depth, ...]
    whole: bool = False


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a call by depth.

    ``method``: ``stages``, ``depths``, or ``all`` where every depth was timed. ``checks``: depth,
    predicted, measured. ``parts``: what each gate, or piece of a chain, takes.
    """

    method: str
    predicted: Mapping[Depth, float]
    measured: Mapping[Depth, float]
    checks: tuple[tuple[Depth, float, float], ...]
    parts: Mapping[str, float]
    noise: float | None = None
    """How far the times of the checks in one half of the rounds are from those in the other: the
    median, in percent. An error of that size is the machine's."""

    @property
    def error(self) -> float | None:
        """The median error of the checks in percent; None where nothing was predicted."""
        if not self.checks:
            return None
        return float(np.median([100 * abs(one / other - 1) for _, one, other in self.checks]))


def plan_costs(table: DepthTable, runnable: Sequence[Depth], *, seed: int = 0) -> Plan:
    """Base, super and those of ``runnable`` that differ from them in one gate; checks are drawn
    from the others. Where nearly all would be timed, all are."""
    space = table.space
    wanted = [space.super, space.base, *one_off(space, space.super), *one_off(space, space.base)]
    known = set(runnable)
    timed = [depth for depth in dict.fromkeys(wanted) if depth in known]
    rest = [depth for depth in runnable if depth not in set(timed)]
    if len(rest) <= CHECKS or len(timed) <= len(terms_of(space)) + 1:
        return Plan(tuple(runnable), (), whole=True)
    return Plan(tuple(timed), tuple(random.Random(seed).sample(rest, CHECKS)))


def time_depths(
    table: DepthTable,
    runnable: Sequence[Depth],
    plan: Plan,
    call: Callable[[Depth], object],
    *,
    rounds: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Costs:
    """Costs of ``runnable`` by whole depths; ``call`` runs one."""
    calls = {depth: bound(call, depth) for depth in (*plan.timed, *plan.checks)}
    with quiet():
        seconds = interleave(calls, repeats=rounds, seed=seed, progress=progress)
    found = {depth: 1e3 * value for depth, value in medians(seconds).items()}
    if plan.whole:
        return Costs("all", found, found, (), {})
    timed = {depth: found[depth] for depth in plan.timed}
    model = fit(terms_of(table.space), timed, relative=True)
    predicted = {depth: model.at(depth) for depth in runnable}
    parts = {term.name: value for term, value in model.added.items()}
    checks = tuple((depth, predicted[depth], found[depth]) for depth in plan.checks)
    noise = noise_of({depth: seconds[depth] for depth in plan.checks})
    return Costs("depths", predicted, found, checks, {"always": model.constant, **parts}, noise)


def time_stages(
    runnable: Sequence[Depth],
    pieces: Mapping[str, StagePiece],
    checks: Sequence[Depth],
    observe: Callable[[Depth, Callable[[str, Any], None]], object],
    call: Callable[[Depth], object],
    *,
    rounds: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Costs:
    """Costs of ``runnable`` by the pieces of a chain, each timed in its place.

    ``pieces``: by the names that ``observe(depth, see)`` calls ``see`` with. What whole calls take
    beyond their pieces is timed, too.
    """
    cover = _cover(runnable, pieces)
    calls: dict[Any, Callable[[], object]] = {("whole", d): bound(call, d) for d in cover}
    calls |= {("check", depth): bound(call, depth) for depth in checks}
    inside: dict[tuple[Depth, str], list[float]] = {}

    def walk(depth: Depth) -> None:
        last = time.perf_counter()

        def see(piece: str, _: object) -> None:
            nonlocal last
            now = time.perf_counter()
            inside.setdefault((depth, piece), []).append(now - last)
            last = time.perf_counter()

        observe(depth, see)

    calls |= {("pieces", depth): bound(walk, depth) for depth in cover}
    warmup = 2
    with quiet():
        seconds = interleave(calls, repeats=rounds, warmup=warmup, seed=seed, progress=progress)
    kept = {key: np.asarray(values[warmup:]) for key, values in inside.items()}
    found = medians({**seconds, **kept})
    took: dict[str, list[float]] = {}
    for (_, piece), value in ((key, found[key]) for key in kept):
        took.setdefault(piece, []).append(1e3 * value)
    each = {piece: float(np.mean(values)) for piece, values in took.items()}
    whole = {depth: 1e3 * found["whole", depth] for depth in cover}

    def own(depth: Depth) -> float:
        return sum(each[name] for name, piece in pieces.items() if piece.runs(depth))

    beside = float(np.mean([whole[depth] - own(depth) for depth in cover]))
    predicted = {depth: beside + own(depth) for depth in runnable}
    measured = {**whole, **{depth: 1e3 * found["check", depth] for depth in checks}}
    told = tuple((depth, predicted[depth], measured[depth]) for depth in checks)
    noise = noise_of({depth: seconds["check", depth] for depth in checks})
    return Costs("stages", predicted, measured, told, {**each, "between": beside}, noise)


def medians(seconds: Mapping[Key, Floats]) -> dict[Key, float]:
    """The median of each call, held against the rounds: a round in which everything took longer
    counts as one in which nothing did. Sample i of all calls is of round i."""
    names = list(seconds)
    table = np.log(np.maximum(np.stack([seconds[name] for name in names]), 1e-9))
    pace = np.median(table - np.median(table, axis=1, keepdims=True), axis=0)
    found = np.exp(np.median(table - pace, axis=1) + np.median(pace))
    return dict(zip(names, map(float, found), strict=True))


def noise_of(seconds: Mapping[Key, Floats]) -> float:
    """The median difference between medians of even and of odd rounds, in percent, beyond what all
    of them differ by."""
    even, odd = (medians({key: took[k::2] for key, took in seconds.items()}) for k in (0, 1))
    ratios = np.asarray([even[key] / odd[key] for key in seconds])
    return float(np.median(100 * np.abs(ratios / np.median(ratios) - 1)))


def _cover(runnable: Sequence[Depth], pieces: Mapping[str, StagePiece]) -> list[Depth]:
    """Depths that run every piece at least once, the one with most of what is missing first."""
    runs = {d: {name for name, piece in pieces.items() if piece.runs(d)} for d in runnable}
    missing = set[str]().union(*runs.values())
    found = []
    while missing:
        best = max(runnable, key=lambda depth: len(runs[depth] & missing))
        found.append(best)
        missing -= runs[best]
    return found


def bound(call: Callable[[Depth], object], depth: Depth) -> Callable[[], object]:
    """``call`` at ``depth``, to be made without a word."""
    return lambda: call(depth)
