"""The depths that no other one beats: found with scores of a few, and certain of those.

Times are predicted for all depths. Scores are sums only roughly, and each costs a run over the
pictures: what a sum of gates predicts says where to look next, and what was looked at counts as
measured. The search ends when every depth of the predicted front was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.ladders.scores import Scores
from anydepth_deploy.ladders.terms import Term, fit, one_off, terms_of
from anydepth_deploy.progress import Progress

__all__ = ["Gain", "dominated", "gains_of", "pareto", "rungs_of", "search"]

AT_ONCE = 16
"""Depths that one pass over the pictures measures."""

Point = tuple[float, float]
"""Milliseconds and score."""


def pareto(points: Mapping[Depth, Point], slack: float = 0.0) -> list[Depth]:
    """The depths that no other beats: none is as quick or quicker and scores more, none is quicker
    and scores as much; of equal ones the first. The quickest comes first.

    ``slack``: depths that are beaten by less than this share of their time stay in.
    """
    order = sorted(points, key=lambda depth: (points[depth][0], -points[depth][1]))
    found: list[Depth] = []
    for place, depth in enumerate(order):
        time, score = points[depth]
        rivals = [points[other] for other in order[:place]]
        if all(rival[1] < score for rival in rivals if rival[0] <= time * (1 - slack)):
            found.append(depth)
    return found


def rungs_of(base: Depth, top: Depth, points: Mapping[Depth, Point]) -> list[Depth]:
    """The ladder that ``points`` support: base, those between that nothing beats, super.

    Each rung takes longer and scores more than all below it, but for super, which ends a ladder
    whatever it scores.
    """
    front = [
        depth for depth in pareto(points) if points[base][0] < points[depth][0] < points[top][0]
    ]
    return list(dict.fromkeys([base, *front, top]))


def search(
    table: DepthTable,
    times: Mapping[Depth, float],
    scores: Scores,
    *,
    most: int,
    progress: Progress | None = None,
) -> dict[Depth, float]:
    """Scores of base, super, of depths beside them, and of the front of ``times`` and scores; of
    ``most`` depths or a few more, where there are so many. What is predicted for the others."""
    space = table.space
    base, top = space.base, space.super
    inside = {d: t for d, t in times.items() if times[base] < t < times[top]} | {
        depth: times[depth] for depth in (base, top)
    }
    first = [top, base, *one_off(space, top), *one_off(space, base)]
    scores.measure([depth for depth in first if depth in times], progress)
    terms = terms_of(space)
    while True:
        model = fit(terms, scores.known)
        guessed = {depth: scores.known.get(depth, model.at(depth)) for depth in times}
        front = pareto({depth: (time, guessed[depth]) for depth, time in inside.items()})
        missing = [depth for depth in front if depth not in scores.known]
        left = max(0, most - len(scores.known))
        if not missing or not left:
            return guessed
        scores.measure(missing[: min(AT_ONCE, left)], progress)


@dataclass(frozen=True)
class Gain:
    """What a gate's refinement gains and takes: ``at_super`` by what super loses without it,
    ``at_base`` by what base gains with it, in percent of score; ``milliseconds``."""

    name: str
    at_super: float | None
    at_base: float | None
    milliseconds: float

    def nothing(self, least: float) -> bool:
        """Whether neither is worth ``least``."""
        told = [gain for gain in (self.at_super, self.at_base) if gain is not None]
        return bool(told) and max(told) < least


def gains_of(
    table: DepthTable, times: Mapping[Depth, float], known: Mapping[Depth, float]
) -> list[Gain]:
    """Of every term, by depths that differ in nothing else, as far as they were measured."""
    return [
        Gain(
            term.name,
            _gain(table, term, table.space.super, times, known),
            _gain(table, term, table.space.base, times, known),
            _time(table, term, times),
        )
        for term in terms_of(table.space)
    ]


def _pair(table: DepthTable, term: Term, depth: Depth) -> tuple[Depth, Depth]:
    """``depth`` without and with ``term``, and nothing beyond it."""
    settings = list(depth.settings)
    without, with_it = (term.layer - 1, term.layer) if term.layer else (1, 0)
    pair = []
    for value in (without, with_it):
        settings[term.gate] = value
        pair.append(table.space.depth(settings))
    return pair[0], pair[1]


def _gain(
    table: DepthTable,
    term: Term,
    depth: Depth,
    times: Mapping[Depth, float],
    known: Mapping[Depth, float],
) -> float | None:
    one, other = _pair(table, term, depth)
    if one not in known or other not in known:
        return None
    return known[other] - known[one]


def _time(table: DepthTable, term: Term, times: Mapping[Depth, float]) -> float:
    for depth in (table.space.super, table.space.base):
        one, other = _pair(table, term, depth)
        if one in times and other in times:
            return times[other] - times[one]
    return float("nan")


def dominated(rungs: Sequence[Depth], points: Mapping[Depth, Point]) -> list[Depth]:
    """The rungs that some depth of ``points`` beats: base or super, which a ladder has all the
    same."""
    best = set(pareto(points))
    return [depth for depth in rungs if depth not in best]
