"""The rungs that a controller moves along: a depth and what one call at it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anydepth_deploy.errors import UsageError, shorten

__all__ = ["Rung", "check_rungs", "fitted", "guessed_rungs"]


@dataclass(frozen=True)
class Rung:
    """``milliseconds``: of a call, the median. ``p95`` and ``p99``: percentiles of a call in
    milliseconds, None where nobody measured them. ``score``: accuracy, for those who read what a
    controller did. ``guessed``: ``milliseconds`` is only a cost beside those of the other rungs
    (multiply-adds), in a unit that nobody knows.
    """

    depth: str
    milliseconds: float
    p95: float | None = None
    p99: float | None = None
    score: float | None = None
    guessed: bool = False

    def tail(self, percentile: int) -> float | None:
        """How far a percentile is above the median, as a part of it; None where it is unknown."""
        value = self.p99 if percentile == 99 else self.p95
        return None if value is None else max(0.0, value / self.milliseconds - 1)


def check_rungs(rungs: Sequence[Rung]) -> tuple[Rung, ...]:
    """``rungs`` from base to super. Raises :class:`UsageError` where they are no ladder."""
    if not rungs:
        raise UsageError("a controller needs at least one rung; none was given")
    texts = [rung.depth for rung in rungs]
    if len(set(texts)) != len(texts):
        raise UsageError(f"a ladder names each depth once; found: {shorten(texts, 12)}")
    if len({rung.guessed for rung in rungs}) > 1:
        raise UsageError("the costs of a ladder are all measured or all guessed; found both")
    for rung in rungs:
        for name, value in (
            ("milliseconds", rung.milliseconds),
            ("p95", rung.p95),
            ("p99", rung.p99),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(
                    f"rung {rung.depth} has {name} = {value}; expected a positive number"
                )
    return tuple(rungs)


def guessed_rungs(depths: Sequence[str], macs: Sequence[float]) -> tuple[Rung, ...]:
    """Rungs whose costs are only known beside each other, by their multiply-adds."""
    pairs = zip(depths, macs, strict=True)
    return check_rungs([Rung(depth, float(cost), guessed=True) for depth, cost in pairs])


def fitted(guesses: Sequence[float], known: Sequence[float]) -> list[float]:
    """Costs of all rungs from those that are known (0: not yet), along their guesses.

    One known cost: in proportion. More: the line through the two known rungs whose guesses are
    nearest, never below the cost of a known rung with a smaller guess.
    """
    places = [index for index, cost in enumerate(known) if cost > 0]
    costs = list(known)
    for index, guess in enumerate(guesses):
        if known[index] > 0:
            continue
        if len(places) == 1:
            costs[index] = known[places[0]] * guess / guesses[places[0]]
            continue
        first, second = sorted(places, key=lambda place: abs(guesses[place] - guess))[:2]
        run = guesses[second] - guesses[first]
        slope = (known[second] - known[first]) / run if run else 0.0
        least = max(
            (known[place] for place in places if guesses[place] <= guess),
            default=0.1 * known[first],
        )
        costs[index] = max(least, known[first] + slope * (guess - guesses[first]))
    return costs
