"""The controller of a loop: which depth the next call gets, and what that was decided by."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

from anydepth_deploy.control.estimator import CostEstimator
from anydepth_deploy.control.policies import DeadlinePolicy, MeanPolicy, deepest
from anydepth_deploy.control.regulator import Regulator
from anydepth_deploy.control.rungs import Rung, check_rungs
from anydepth_deploy.control.telling import Counters, Explanation, RungCounter, why
from anydepth_deploy.errors import UsageError, shorten

__all__ = ["Controller", "Policy", "Sensor"]

log = logging.getLogger("anydepth_deploy")

Policy = Literal["mean", "deadline"]

Sensor = Callable[[], float | None]
"""Says what is to be held now; None, no number or an exception: it cannot tell."""

SILENT = 3
"""Readings in a row that fail until a sensor counts as silent."""
STALE = 1000
"""Calls without a pushed value until the same."""
SHORT = 10
"""Calls in a row for which the target is below what the floor takes, until that is said."""
ODD = 2.0
"""A ladder that is off by this factor at call ``LOOK`` is said to be of another device."""
LOOK = 20


class Controller:
    """Says at which depth the next call runs, and is told what it took.

    No session and no clock is needed::

        controller = Controller(rungs, target_ms=25)
        depth = controller.choose()
        ...
        controller.report(milliseconds)

    May be used by several threads at once; they name the depth in :meth:`report`, or use
    :meth:`call`.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        *,
        target_ms: float | None = None,
        fps: float | None = None,
        target: float | None = None,
        sensor: Sensor | None = None,
        every: int = 25,
        policy: Policy = "mean",
        percentile: int = 95,
        floor: str | None = None,
        ceiling: str | None = None,
        strict: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``rungs``: from base to super. One of ``target_ms`` (of a call), ``fps`` (a call is to
        take ``1000 / fps`` milliseconds), and ``target``: what ``sensor``, asked every ``every``
        calls, or :meth:`push` says is held there; the deeper calls are, the larger it becomes.
        ``policy``: ``mean`` holds the mean of calls, ``deadline`` has a ``percentile`` of them, 95
        or 99, meet the target. ``floor`` and ``ceiling``: depths that are not left. ``strict``: a
        target that no rung meets, or that every rung meets, is refused. ``clock``: seconds, for
        :meth:`call`.

        Raises :class:`UsageError`.
        """
        self.rungs = check_rungs(rungs)
        self.policy = policy
        self.percentile = percentile
        given = {"target_ms": target_ms, "fps": fps, "target": target}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise UsageError(
                "a controller has one of target_ms, fps and target; found "
                f"{' and '.join(named) or 'none'}"
            )
        for name, value in given.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}; expected a positive number")
        if policy not in get_args(Policy):
            raise UsageError(f"unknown policy '{policy}': expected mean or deadline")
        if percentile not in (95, 99):
            raise UsageError(f"percentile is {percentile}; expected 95 or 99")
        if every < 1:
            raise UsageError(f"every is {every}; expected at least 1 call")
        if target is None and sensor is not None:
            raise UsageError("a sensor needs the target to hold what it says at")
        if target is not None and policy != "mean":
            raise UsageError("what a sensor says is held by the policy mean, not by a deadline")
        self._depths = {rung.depth: index for index, rung in enumerate(self.rungs)}
        self._floor = self._place("floor", floor, 0)
        self._ceiling = self._place("ceiling", ceiling, len(self.rungs) - 1)
        if self._floor > self._ceiling:
            raise UsageError(f"the floor {floor} is above the ceiling {ceiling}")
        self._target = target_ms if target_ms is not None else 1000 / fps if fps else 0.0
        self.regulator = None if target is None else Regulator(target)
        self._sensor = sensor
        self._every = every
        self._clock = clock
        self._lock = threading.Lock()
        self.estimator = CostEstimator(self.rungs, percentile)
        self._mean = MeanPolicy()
        self._deadline = DeadlinePolicy(len(self.rungs))
        self._last = -1
        self._budget: float | None = None
        self._planned = 0.0
        self._chosen = 0
        self._calls = 0
        self._missed = 0
        self._changes = 0
        self._counts = [0] * len(self.rungs)
        self._totals = [0.0] * len(self.rungs)
        self._short = 0
        self._failures = 0
        self._heard = 0
        self._said: set[str] = set()
        if strict:
            self._check_reach()

    # --- what a loop calls

    def choose(self, budget_ms: float | None = None) -> str:
        """The depth of the next call.

        ``budget_ms``: what this call alone may take, whatever the target: the deepest rung of
        which the percentile meets it, or the floor.
        """
        if self._sensor is not None and self._chosen % self._every == 0:
            self._ask(self._sensor)
        with self._lock:
            return self.rungs[self._choose(budget_ms)].depth

    def report(
        self, milliseconds: float, depth: str | None = None, budget_ms: float | None = None
    ) -> None:
        """The call took so long. ``depth``: its depth, by default the one chosen last.
        ``budget_ms``: what it was allowed, where that is not the target.

        Raises :class:`UsageError` for what is no time, and a depth that is no rung.
        """
        if not (milliseconds > 0 and math.isfinite(milliseconds)):
            raise UsageError(
                f"a call cannot take {milliseconds} ms; expected a positive number of milliseconds"
            )
        rung = self._last if depth is None else self._rung(depth)
        if rung < 0:
            raise UsageError("no depth was chosen yet: call choose() before report()")
        with self._lock:
            self._report(rung, milliseconds, self._budget if budget_ms is None else budget_ms)

    @contextmanager
    def call(self, budget_ms: float | None = None) -> Iterator[str]:
        """Chooses a depth, and reports how long the block took; not where it raises."""
        depth = self.choose(budget_ms)
        began = self._clock()
        yield depth
        took = 1000 * (self._clock() - began)
        if took > 0:
            self.report(took, depth, budget_ms)

    def push(self, reading: float) -> None:
        """What an own sensor says. Raises :class:`UsageError` without a ``target``, and for what is
        no number."""
        if self.regulator is None:
            raise UsageError("nothing is held by a sensor: give the controller a target")
        if not math.isfinite(reading):
            raise UsageError(f"a sensor cannot say {reading}; expected a number")
        with self._lock:
            self._hear(reading)

    @property
    def target_ms(self) -> float:
        """What calls are to take, in milliseconds; may be set at any time. What a sensor leads to
        where one is held, as of the last call."""
        return self._target

    @target_ms.setter
    def target_ms(self, value: float) -> None:
        if self.regulator is not None:
            raise UsageError("what calls may take follows from a sensor here")
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"target_ms is {value}; expected a positive number")
        with self._lock:
            self._target = value

    def explain(self) -> Explanation:
        """Why the last call got its depth; as text, one line."""
        with self._lock:
            return why(
                self.rungs,
                self.estimator,
                self._deadline if self.policy == "deadline" else self._mean,
                self.regulator,
                rung=self._last,
                target=self._target,
                budget=self._budget,
                planned=self._planned,
                limits=(self._floor, self._ceiling),
                percentile=self.percentile,
                silent=self._failures >= SILENT,
            )

    @property
    def counters(self) -> Counters:
        """What was called so far."""
        with self._lock:
            rungs = {
                rung.depth: RungCounter(calls, total)
                for rung, calls, total in zip(self.rungs, self._counts, self._totals, strict=True)
            }
            return Counters(self._calls, self._missed, self._changes, rungs)

    # --- with the lock

    def _choose(self, budget: float | None) -> int:
        estimator, floor, ceiling = self.estimator, self._floor, self._ceiling
        self._chosen += 1
        self._budget = budget
        if self.regulator is not None:
            if self._sensor is None and self._chosen - self._heard > STALE:
                self._fail("nothing was pushed")
            low, high = estimator.costs[floor], estimator.costs[ceiling]
            self._target = low + self.regulator.position * (high - low)
        if not estimator.known:
            rung = floor
        elif budget is not None:
            rung = deepest(estimator.tails, budget, floor, ceiling)
        elif self.policy == "mean":
            rung = self._mean.choose(estimator, self._target, floor, ceiling)
        else:
            rung = self._deadline.choose(estimator, self._target, floor, ceiling)
        if rung != self._last and self._last >= 0:
            self._changes += 1
        self._last = rung
        self._planned = estimator.costs[rung]
        if budget is None and self.regulator is None and "reach" not in self._said:
            self._say_reach()
        return rung

    def _report(self, rung: int, cost: float, budget: float | None) -> None:
        estimator = self.estimator
        known = estimator.known
        if budget is not None or self.policy == "deadline":
            self._missed += cost > (self._target if budget is None else budget)
        elif self.regulator is None:
            self._missed += known and self._target < estimator.costs[self._floor]
        if known and budget is None and self.policy == "mean":
            self._mean.observe(estimator.costs[rung], cost)
        estimator.observe(rung, cost)
        self._calls += 1
        self._counts[rung] += 1
        self._totals[rung] += cost
        if self._calls == LOOK and not self.rungs[0].guessed:
            self._look()

    # --- sensors

    def _ask(self, sensor: Sensor) -> None:
        """Outside of the lock: reading a sensor may take milliseconds."""
        try:
            value = sensor()
            reading = math.nan if value is None else float(value)
            reason = f"it says {value}"
        except Exception as error:  # whatever a sensor of others does, the loop goes on
            reading, reason = math.nan, f"{type(error).__name__}: {error}"
        with self._lock:
            if math.isfinite(reading):
                self._hear(reading)
            else:
                self._failures += 1
                if self._failures >= SILENT:
                    self._fail(reason)

    def _hear(self, reading: float) -> None:
        assert self.regulator is not None
        self._short = 0
        self._failures = 0
        self._heard = self._chosen
        self.regulator.update(reading)

    def _fail(self, reason: str) -> None:
        self._failures = SILENT
        last = "it never said anything: calls run at the floor"
        if self.regulator is not None and self.regulator.reading is not None:
            last = f"calls go on as they were when it said {self.regulator.reading:.2f}"
        self._say("sensor", f"the sensor has stopped to answer ({reason}); {last}")

    # --- what is said once

    def _say(self, topic: str, message: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            log.warning("%s", message)

    def _reach(self) -> tuple[float, float]:
        """The least and the most that the target may be."""
        estimator = self.estimator
        values = estimator.costs if self.policy == "mean" else estimator.tails
        return values[self._floor], values[self._ceiling]

    def _check_reach(self) -> None:
        if self.regulator is not None:
            return
        if not self.estimator.known:
            raise UsageError(
                "strict needs costs that were measured: run 'anydepth-deploy ladder' first, or "
                "give rungs"
            )
        least, most = self._reach()
        if not least <= self._target <= most:
            raise UsageError(
                f"a target of {self._target:.2f} ms is out of reach: {self._named(self._floor)} "
                f"takes {least:.2f} ms, {self._named(self._ceiling)} {most:.2f} ms"
            )

    def _say_reach(self) -> None:
        least, most = self._reach()
        self._short = self._short + 1 if self.estimator.known and self._target < least else 0
        if self._short >= SHORT:
            self._say(
                "reach",
                f"a target of {self._target:.2f} ms is below what {self._named(self._floor)} "
                f"takes now ({least:.2f} ms): calls run there, and are counted as missed; "
                f"{least:.2f} to {most:.2f} ms can be held",
            )

    def _look(self) -> None:
        scale = self.estimator.scale
        if not 1 / ODD < scale < ODD:
            self._say(
                "scale",
                f"calls take {scale:.2f} times what this ladder says: it is of another device or "
                "other settings, or something else is running; costs are learned from the calls. "
                "Measure here: anydepth-deploy ladder BUNDLE",
            )

    # --- names

    def _named(self, rung: int) -> str:
        return self.rungs[rung].depth

    def _place(self, name: str, depth: str | None, default: int) -> int:
        if depth is None:
            return default
        words = {"base": 0, "super": len(self.rungs) - 1}
        found = self._depths.get(depth, words.get(depth))
        if found is None:
            raise UsageError(
                f"the {name} {depth} is no rung; expected one of {shorten(self._depths, 12)}"
            )
        return found

    def _rung(self, depth: str) -> int:
        found = self._depths.get(depth)
        if found is None:
            raise UsageError(
                f"depth {depth} is no rung; expected one of {shorten(self._depths, 12)}"
            )
        return found
