"""What a call at each rung takes now, learned from the calls that are made.

The cost of rung i is ``ladder[i] * scale * correction[i]``: all rungs slow down together when
something else wants the processor, one alone when something is wrong with it. Small errors are
followed with a gain that grows while they keep their sign. A large one is at first taken for a
stray call; a second one in a row is a step, of all rungs if two calls in a row say so, of one if
its calls say so and those of others between them do not.

A step that only one rung has seen may be its own affair. It is taken for everybody's until the
next rung is tried: where that one turns out as it was before, the correction goes to the first.
Corrections of rungs that are not visited fade, so that a rung is tried again one day.

Only sums, products, quotients and comparisons: C++ gets the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from anydepth_deploy.control.rungs import Rung, fitted

__all__ = ["CostEstimator"]

GAIN = 0.05
"""Of one error, times the number of errors in a row with the same sign, up to ``MOST_GAIN``."""
MOST_GAIN = 0.3
OWN_GAIN = 0.05
"""Of one error, for the correction of the rung alone."""
NOISE_GAIN = 0.05
LEAST_STEP = 0.06
"""Relative errors below this are never taken for a step."""
STEP_NOISE = 3.0
"""Errors below so many times their usual size are not, either."""
FADING = 1 / 300
"""Of a correction, at each call of another rung."""
SAME = 0.25
"""Two factors are one where they differ by less."""
FIRST_VISITS = 3
"""Calls of a rung with a guessed cost until it is known."""
USUAL_TAIL = 0.1
"""A percentile above the median, where nobody measured it."""
LEAST_TAIL = 0.02
TAIL_GAIN = 0.1
"""How fast the percentile follows what is seen."""
MOST_TAIL = 50.0


class CostEstimator:
    """``costs``: milliseconds of a call at each rung as far as is known, from base to super.
    ``tails``: the wanted percentile of each. ``known``: whether the unit of ``costs`` is known:
    not before the first call where the ladder was guessed. ``steps``: how many steps were seen.
    """

    def __init__(self, rungs: Sequence[Rung], percentile: int = 95) -> None:
        count = len(rungs)
        self.ladder = [rung.milliseconds for rung in rungs]
        self.scale = 1.0
        self.corrections = [1.0] * count
        self.costs = list(self.ladder)
        self.known = not rungs[0].guessed
        self.steps = 0
        tails = [rung.tail(percentile) for rung in rungs]
        self.spreads = [
            USUAL_TAIL if tail is None else LEAST_TAIL if tail < LEAST_TAIL else tail
            for tail in tails
        ]
        self.stretch = 1.0
        """Of all spreads: learned, so that one call in so many exceeds the percentile."""
        # Up and down cancel where exactly the wanted part of all calls exceeds the percentile.
        rare = 100 - percentile
        self._down = 1 - TAIL_GAIN * rare / 100
        up = 1.0
        for _ in range(percentile // rare):
            up /= self._down
        self._up = up
        self.tails = [0.0] * count
        self._guesses = list(self.ladder)
        self._visits = [FIRST_VISITS if self.known else 0] * count
        self._unknown = 0 if self.known else count
        self.noise = min(self.spreads) / 3
        self._run = 0
        self._odd_rung = -1  # of the call before, if it was a stray one
        self._odd_ratio = 1.0
        self._pending = [0.0] * count  # ratio of a rung's last call, if it was a stray one
        self._blamed = -1  # the only rung that saw the last step, until another one was tried
        self._blame = 1.0
        self._settle()

    def observe(self, rung: int, cost: float) -> None:
        """A call at ``rung`` took ``cost`` milliseconds, a positive number."""
        if self._visits[rung] < FIRST_VISITS:
            self._learn(rung, cost)
            self._settle()
            return
        ratio = cost / self.costs[rung]
        self._follow_tail(rung, ratio)
        error = ratio - 1
        limit = STEP_NOISE * self.noise
        if limit < LEAST_STEP:
            limit = LEAST_STEP
        size = error if error >= 0 else -error
        self.noise += NOISE_GAIN * ((size if size < limit else limit) * 1.25 - self.noise)
        if size <= limit:
            self._follow(rung, error)
        else:
            self._judge(rung, ratio)
        if self._blamed not in (-1, rung):
            self._blamed = -1
        for index, correction in enumerate(self.corrections):
            if index != rung and correction != 1.0:
                self.corrections[index] = correction + FADING * (1 - correction)
        self._settle()

    def _follow(self, rung: int, error: float) -> None:
        """An error of usual size."""
        if error > 0:
            self._run = self._run + 1 if self._run > 0 else 1
        elif error < 0:
            self._run = self._run - 1 if self._run < 0 else -1
        gain = GAIN * (self._run if self._run >= 0 else -self._run)
        self.scale *= 1 + (gain if gain < MOST_GAIN else MOST_GAIN) * error
        self.corrections[rung] *= 1 + OWN_GAIN * error
        self._pending[rung] = 0.0
        self._odd_rung = -1

    def _judge(self, rung: int, ratio: float) -> None:
        """An error of unusual size: a stray call, or a step, and then whose."""
        self._run = 0
        if self._blamed not in (-1, rung):
            undone = ratio * self._blame
            if 1 - SAME < undone < 1 + SAME:
                self.scale /= self._blame
                self.corrections[self._blamed] *= self._blame
                return
        if self._odd_rung >= 0 and (ratio > 1) == (self._odd_ratio > 1):
            factor = _nearer(ratio, self._odd_ratio)
            self.scale *= factor
            self.steps += 1
            if self._odd_rung == rung:
                # The blame of a step that goes on grows.
                self._blame = factor * (self._blame if self._blamed == rung else 1.0)
                self._blamed = rung
            else:
                self._blamed = -1
            self._odd_rung = -1
            for index in range(len(self._pending)):
                self._pending[index] = 0.0
            return
        before = self._pending[rung]
        if before > 0 and (ratio > 1) == (before > 1):
            self.corrections[rung] *= _nearer(ratio, before)
            self.steps += 1
            self._pending[rung] = 0.0
            self._odd_rung = -1
            return
        self._pending[rung] = ratio
        self._odd_rung, self._odd_ratio = rung, ratio

    def _learn(self, rung: int, cost: float) -> None:
        """The first calls of a rung whose cost was guessed: the fastest counts, since a first call
        may have to open what it runs."""
        own = cost / self.scale
        known = [
            value if visits else 0.0
            for value, visits in zip(self.ladder, self._visits, strict=True)
        ]
        if not self._visits[rung] or own < self.ladder[rung]:
            known[rung] = own
        self._visits[rung] += 1
        self.ladder = fitted(self._guesses, known)
        self.known = True

    def _follow_tail(self, rung: int, ratio: float) -> None:
        if ratio > 1 + self.spreads[rung] * self.stretch:
            self.stretch *= self._up
            if self.stretch > MOST_TAIL:
                self.stretch = MOST_TAIL
        else:
            self.stretch *= self._down

    def _settle(self) -> None:
        """Costs as they follow from what was learned."""
        scale, stretch = self.scale, self.stretch
        costs = [
            cost * scale * own for cost, own in zip(self.ladder, self.corrections, strict=True)
        ]
        self.costs = costs
        self.tails = [
            cost * (1 + spread * stretch) for cost, spread in zip(costs, self.spreads, strict=True)
        ]


def _nearer(one: float, other: float) -> float:
    """The one that is nearer to 1, of two on the same side of it."""
    return one if (one < other) == (one > 1) else other
