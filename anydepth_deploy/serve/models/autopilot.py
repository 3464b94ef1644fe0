"""Which depth a request at ``auto`` gets: the deepest that its budget allows, by what all requests
of the router are thought to take now.

A request is predicted to take what is before it at its model (:class:`Backlog`) and what it takes
itself (:class:`CostEstimator`, one for each number of images); what it took in the end corrects
both. That models get in each other's way is a part of what they take. Requests at depths of their
own count as well: they are in the way, and they teach.

What a request takes beyond base, those behind it wait for. Where requests miss their budgets
because of what is before them, a depth beyond base has to leave time for as much again behind it,
times a factor that grows with each such miss and falls with each request in time, so that one in
twenty misses. Where none does, it is 0, and each gets all that its budget allows.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anydepth_deploy.control.backlog import Backlog
from anydepth_deploy.control.estimator import CostEstimator
from anydepth_deploy.control.policies import deepest, within
from anydepth_deploy.control.rungs import Rung

__all__ = ["Autopilot", "Call"]

PERCENTILE = 95
"""Of requests that are to keep their budget, as far as it can be known."""
RESERVE_GAIN = 0.02
"""What a request in time takes off the factor; a miss adds as much as all others take off."""
MOST_RESERVE = 4.0


@dataclass(frozen=True)
class Call:
    """A request on its way. ``row``: of the depth table; ``model``: that runs it. ``rung``: its
    place among the depths that are chosen from, None beside them. ``fits``: whether it is thought
    to end within its budget; of a depth that was asked for by name, true. ``cost``: milliseconds
    that it is thought to take by itself, None where nothing is known yet; ``wait``: what is before
    it at its model, which are ``before`` calls. ``began``: in milliseconds, by the clock."""

    row: int
    images: int
    model: str
    rung: int | None
    fits: bool
    cost: float | None
    wait: float
    before: int
    began: float
    ticket: int


class Autopilot:
    """Knows what is on its way, and chooses. May be used from several threads at once.

    Every call that :meth:`choose` or :meth:`start` begins has to :meth:`end`.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        rows: Sequence[int],
        macs: Sequence[int],
        model_of: Callable[[int, int], str] = lambda row, images: "",
        *,
        batch: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``rungs``: from base to super, of calls with ``batch`` images; ``rows``: of the depth
        table, of each. ``macs``: of every row. ``model_of``: which model runs a row with so many
        images. ``clock``: seconds."""
        self.rows = tuple(rows)
        self._rungs, self._batch = tuple(rungs), batch
        self._macs = tuple(macs)
        self._place = {row: place for place, row in enumerate(self.rows)}
        self._clock = clock
        self._lock = threading.Lock()
        self._model_of = model_of
        self._backlogs: defaultdict[str, Backlog] = defaultdict(Backlog)
        self._estimators: dict[int, CostEstimator] = {}
        """By the number of images; requests bring a limited number."""
        self._reserve = 0.0
        self._taught = 0
        """The number of images of the call that was learned from last; 0: none."""

    def choose(self, images: int, left: float) -> Call:
        """Begin a call of so many images at the deepest rung that is thought to end within ``left``
        milliseconds, 95 % of such calls being; at the first rung where none is, or nothing is known
        yet. Raises what ``model_of`` does."""
        models = [self._model_of(row, images) for row in self.rows]
        with self._lock:
            estimator, now = self._of(images), self._now()
            rung, fits = 0, True
            if estimator.known:
                tails = estimator.tails
                waits = [self._backlogs[model].wait(now) for model in models]
                behind = self._reserve * sum(item.wait(now) for item in self._backlogs.values())
                # How far a percentile is above the median is learned of whole calls.
                ends = [
                    (wait + (behind if place else 0.0) + cost) * tail / cost
                    for place, (wait, cost, tail) in enumerate(
                        zip(waits, estimator.costs, tails, strict=True)
                    )
                ]
                rung = deepest(ends, left, 0, len(ends) - 1)
                fits = ends[rung] <= left
                if tails[0] <= left:  # or it is the budget that is too small
                    self._learn_reserve(missed=not fits)
            return self._begin(self.rows[rung], images, models[rung], now, fits=fits)

    def start(self, images: int, row: int) -> Call:
        """Begin a call at the depth of ``row``, any row of the table. Raises what ``model_of``
        does."""
        model = self._model_of(row, images)
        with self._lock:
            return self._begin(row, images, model, self._now(), fits=True)

    def end(self, call: Call, *, answered: bool) -> None:
        """A call has ended: with an answer, which is learned from, or without."""
        with self._lock:
            now = self._now()
            self._backlogs[call.model].end(now, call.ticket)
            took = now - call.began
            if not answered or call.rung is None or took <= 0:
                return
            if call.cost is None:
                own = took / (call.before + 1)
            else:
                own = took * call.cost / (call.wait + call.cost)
            self._of(call.images).observe(call.rung, own)
            self._taught = call.images

    def predicted(self, images: int) -> dict[int, float]:
        """What 95 % of calls of so many images take at most by themselves, in milliseconds, by row;
        empty where nothing is known yet."""
        with self._lock:
            estimator = self._of(images)
            if not estimator.known:
                return {}
            return dict(zip(self.rows, estimator.tails, strict=True))

    # --- with the lock

    def _learn_reserve(self, *, missed: bool) -> None:
        rare = 100 - PERCENTILE
        step = RESERVE_GAIN * PERCENTILE / rare if missed else -RESERVE_GAIN
        self._reserve = within(self._reserve + step, 0.0, MOST_RESERVE)

    def _now(self) -> float:
        return 1000 * self._clock()

    def _begin(self, row: int, images: int, model: str, now: float, *, fits: bool) -> Call:
        rung, backlog = self._place.get(row), self._backlogs[model]
        cost = self._cost(self._of(images), row, rung)
        wait, before = backlog.wait(now), len(backlog)
        ticket = backlog.begin(now, cost or 0.0)
        return Call(row, images, model, rung, fits, cost, wait, before, now, ticket)

    def _cost(self, estimator: CostEstimator, row: int, rung: int | None) -> float | None:
        """Of a call by itself; beside the rungs in proportion to multiply-adds."""
        if not estimator.known:
            return None
        if rung is not None:
            return estimator.costs[rung]
        return estimator.costs[-1] * self._macs[row] / self._macs[self.rows[-1]]

    def _of(self, images: int) -> CostEstimator:
        """The estimator for so many images: it begins with what is known of others, in
        proportion."""
        found = self._estimators.get(images)
        if found is None or (not found.known and self._taught):
            taught = self._estimators.get(self._taught)
            if taught is None or not taught.known:
                rungs = [_times(rung, images / self._batch) for rung in self._rungs]
            else:
                rungs = [
                    Rung(rung.depth, cost * images / self._taught, p95=tail * images / self._taught)
                    for rung, cost, tail in zip(
                        self._rungs, taught.costs, taught.tails, strict=True
                    )
                ]
            found = self._estimators[images] = CostEstimator(rungs, PERCENTILE)
        return found


def _times(rung: Rung, factor: float) -> Rung:
    p95 = None if rung.p95 is None else factor * rung.p95
    return Rung(rung.depth, factor * rung.milliseconds, p95=p95, guessed=rung.guessed)
