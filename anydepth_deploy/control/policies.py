"""Which rung a call gets, from what calls at each rung are thought to take.

*Mean*: calls take the target on average. The two rungs around the target alternate so that the sum
of what was planned is never further from the sum of the targets than half of what lies between
them (error diffusion). What calls took beyond the plan is owed, and paid back over the next ones.

*Deadline*: the deepest rung of which the wanted percentile of calls meets the target. It is left as
soon as it does not, and a deeper one is taken only after it would have been met with something to
spare for a few calls; after a vain attempt the next one waits longer.

Only sums, products, quotients and comparisons: C++ gets the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from anydepth_deploy.control.estimator import CostEstimator

__all__ = ["DeadlinePolicy", "MeanPolicy", "front", "within"]

REPAY = 4.0
"""Calls over which what is owed is paid back."""
MOST_DEBT = 4.0
"""What is owed at most, in units of what lies between the cheapest and the deepest rung."""
KEEP = 0.15
"""How far the wish may leave a pair before another one is taken, as a part of their distance;
at least by the noise of a call."""
USUAL_GAPS = 2.0
USUAL_NOISE = 6.0
"""Debts below so many times what lies between the pair, or the noise of a call, are paid back
between its two rungs; what is above may be paid back at others."""
SHORT_PATIENCE = 4
"""Calls for which a deeper rung must have met its deadline where costs have just changed."""
PATIENCE = 100
"""The same where nothing says that they have."""
FRESH = 50
"""Calls for which a change is fresh."""
SECOND_PATIENCE = 200
"""The same once an attempt was in vain; doubled by the next one."""
MOST_PATIENCE = 4096
VAIN = 150
"""An attempt is in vain where the rung is left within so many calls."""
SLACK = 0.01
"""Of the target: what a percentile may exceed it by before the rung is left."""
SPARE = 0.03
"""Of the target: what a deeper rung must leave."""
RELIEF = 0.93
"""Costs that fell by this factor make all patience short again."""


def within(value: float, least: float, most: float) -> float:
    """``value`` where it is between, else the nearer end."""
    return least if value < least else most if value > most else value


def front(costs: Sequence[float], floor: int, ceiling: int) -> list[int]:
    """The rungs from ``floor`` to ``ceiling`` that no deeper one undercuts, from cheap to dear."""
    found = [ceiling]
    least = costs[ceiling]
    for rung in range(ceiling - 1, floor - 1, -1):
        if costs[rung] < least:
            least = costs[rung]
            found.append(rung)
    found.reverse()
    return found


class MeanPolicy:
    """Holds the mean. ``setpoint``: what the mean of the next calls is meant to be. ``pair``: the
    rungs that it lies between. ``debt``: milliseconds that calls took beyond the plan and that are
    not paid back yet."""

    def __init__(self) -> None:
        self.setpoint = 0.0
        self.pair = (0, 0)
        self.debt = 0.0
        self.carry = 0.0
        """Milliseconds that the plan has in hand."""

    def choose(self, estimator: CostEstimator, target: float, floor: int, ceiling: int) -> int:
        """The rung of the next call."""
        costs = estimator.costs
        rungs = front(costs, floor, ceiling)
        least, most = costs[rungs[0]], costs[rungs[-1]]
        aim = within(target, least, most)
        bound = MOST_DEBT * (most - least)
        debt = within(self.debt, -bound, bound)
        lower, upper = self._around(estimator, rungs, aim, debt)
        low, high = costs[lower], costs[upper]
        self.setpoint = setpoint = within(aim - debt / REPAY, low, high)
        self.debt = debt - (aim - setpoint)
        self.pair = (lower, upper)
        half = (high - low) / 2
        carry = within(self.carry, -half, half) + setpoint
        rung = upper if carry - low >= half else lower
        self.carry = carry - costs[rung]
        return rung

    def observe(self, planned: float, cost: float) -> None:
        """A call that was thought to take ``planned`` took ``cost``."""
        self.debt += cost - planned

    def _around(
        self, estimator: CostEstimator, rungs: Sequence[int], aim: float, debt: float
    ) -> tuple[int, int]:
        """The neighbours on the front that the wish lies between: those of the last call where it
        is not far from them. What is usual noise of debts is no wish."""
        costs = estimator.costs
        lower, upper = self.pair
        noise = estimator.noise * aim
        usual = USUAL_NOISE * noise
        kept = lower != upper and lower in rungs and upper in rungs
        if kept and rungs[rungs.index(lower) + 1] == upper:
            gap = costs[upper] - costs[lower]
            usual = max(usual, USUAL_GAPS * gap)
            margin = max(KEEP * gap, noise)
            wish = aim if -usual <= debt <= usual else aim - debt / REPAY
            if costs[lower] - margin <= wish <= costs[upper] + margin:
                return self.pair
        wish = aim if -usual <= debt <= usual else aim - debt / REPAY
        for place in range(1, len(rungs)):
            if wish < costs[rungs[place]] or place == len(rungs) - 1:
                return rungs[place - 1], rungs[place]
        return rungs[0], rungs[0]


class DeadlinePolicy:
    """Meets a deadline. ``rung``: where it is, -1 before the first call. ``waiting``: for how many
    calls a deeper one would have met it."""

    def __init__(self, count: int) -> None:
        self.rung = -1
        self.waiting = 0
        self.patience = [PATIENCE] * count
        self._since = 0  # calls at this rung
        self._rose = False
        self._steps = 0
        self._scale = 1.0
        self._target = 0.0
        self._fresh = 0  # calls for which a change is fresh yet

    def choose(self, estimator: CostEstimator, target: float, floor: int, ceiling: int) -> int:
        """The rung of the next call."""
        tails = estimator.tails
        self._forget(estimator, target)
        self._since += 1
        wanted = deepest(tails, target, floor, ceiling)
        if self.rung < 0:
            return self._take(wanted, rose=False)
        if wanted < self.rung and tails[self.rung] > target * (1 + SLACK):
            if self._rose and self._since <= VAIN:
                self._wait_longer(self.rung)
            self._scale = estimator.scale
            return self._take(wanted, rose=False)
        wanted = deepest(tails, target * (1 - SPARE), floor, ceiling)
        if wanted <= self.rung:
            self.waiting = 0
            return self.rung
        self.waiting += 1
        if self.waiting < self.patience[wanted]:
            return self.rung
        return self._take(wanted, rose=True)

    def _take(self, rung: int, *, rose: bool) -> int:
        self.rung, self._rose, self._since, self.waiting = rung, rose, 0, 0
        return rung

    def _wait_longer(self, rung: int) -> None:
        before = self.patience[rung]
        longer = SECOND_PATIENCE if before < SECOND_PATIENCE else 2 * before
        for index in range(rung, len(self.patience)):
            if self.patience[index] < longer:
                self.patience[index] = longer if longer < MOST_PATIENCE else MOST_PATIENCE

    def _forget(self, estimator: CostEstimator, target: float) -> None:
        """Where the device or the target is another now, earlier attempts mean nothing."""
        if (
            estimator.steps != self._steps
            or estimator.scale < RELIEF * self._scale
            or target != self._target
        ):
            self._steps, self._scale = estimator.steps, estimator.scale
            self._target = target
            self.patience = [SHORT_PATIENCE] * len(self.patience)
            self._fresh = FRESH
        elif self._fresh > 0:
            self._fresh -= 1
            if self._fresh == 0:
                for index, calls in enumerate(self.patience):
                    if calls < PATIENCE:
                        self.patience[index] = PATIENCE


def deepest(tails: Sequence[float], target: float, floor: int, ceiling: int) -> int:
    """The deepest rung whose percentile meets ``target``; the floor where none does."""
    for rung in range(ceiling, floor, -1):
        if tails[rung] <= target:
            return rung
    return floor
