"""A controller against made-up devices: what it would hold, without a device.

A :class:`Scene` says what is to be held and what calls would take; :func:`simulate` lets a
controller live through it, and :class:`Run` is what came of it. :func:`scenes` are those whose
figures the docs quote::

    python benchmarks/pilot_simulated.py
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from anydepth_deploy.control.controller import Controller, Policy
from anydepth_deploy.control.rungs import Rung
from anydepth_deploy.errors import UsageError

__all__ = ["WINDOW", "Run", "Scene", "even_ladder", "scenes", "simulate"]

WINDOW = 60
"""Calls whose mean is held against the target: that of the published controller."""

PERIOD = 150
"""Calls between two steps."""


@dataclass(frozen=True)
class Scene:
    """``target``: milliseconds that call ``t`` is to take. ``factor``: how many times what the
    ladder says it takes at rung ``i``. ``noise``: standard deviation of a call, as a part of it.
    ``stray``: the part of calls that take three times as long."""

    name: str
    target: Callable[[int], float]
    factor: Callable[[int, int], float] = lambda t, i: 1.0
    noise: float = 0.02
    stray: float = 0.0
    calls: int = 1200


@dataclass(frozen=True)
class Run:
    """What each call was to take, its rung, and what it took."""

    targets: list[float] = field(default_factory=list)
    rungs: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def window_errors(self, window: int = WINDOW) -> list[float]:
        """How far the mean of so many calls is off that of their targets, as a part of it: of every
        window."""
        count = len(self.costs) - window + 1
        if count < 1:
            raise UsageError(f"{len(self.costs)} calls have no window of {window}")
        errors = []
        for first in range(count):
            target = sum(self.targets[first : first + window])
            errors.append(abs(sum(self.costs[first : first + window]) / target - 1))
        return errors

    def mean_error(self, window: int = WINDOW) -> float:
        """The mean of :meth:`window_errors`."""
        errors = self.window_errors(window)
        return sum(errors) / len(errors)

    @property
    def late(self) -> float:
        """The part of calls that took longer than their target."""
        pairs = zip(self.costs, self.targets, strict=True)
        return sum(cost > target for cost, target in pairs) / len(self.costs)

    def changes(self, first: int = 0, last: int | None = None) -> int:
        """How often the rung changed among these calls."""
        rungs = self.rungs[first:last]
        return sum(one != other for one, other in itertools.pairwise(rungs))


def even_ladder(
    count: int, base: float = 3.24, top: float = 5.20, noise: float | None = None
) -> tuple[Rung, ...]:
    """Rungs in even distances; by default between the published 3.24 and 5.20 ms (RTX 3090, 720 x
    1280, FP16). ``noise``: of a call, from which the percentiles follow."""
    costs = [base + (top - base) * index / max(1, count - 1) for index in range(count)]
    return tuple(
        Rung(
            f"rung{index}",
            cost,
            None if noise is None else cost * (1 + 1.645 * noise),
            None if noise is None else cost * (1 + 2.326 * noise),
        )
        for index, cost in enumerate(costs)
    )


def scenes(rungs: Sequence[Rung], place: float = 0.5, noise: float = 0.02) -> list[Scene]:
    """What the goals are stated for. ``place``: where the target lies, from 0 (base + 10 %) to 1
    (super - 10 %), of what the device takes at its slowest where that changes.

    The device of ``drift`` becomes 15 % slower, that of ``contention`` is so every other period;
    in ``twice`` a rung in the middle costs twice for a third of the time.
    """
    low, high = 1.1 * rungs[0].milliseconds, 0.9 * rungs[-1].milliseconds
    slow = 1.15
    least = slow * low
    target = low + place * (high - low)
    slowed = least + place * (high - least)
    calls = Scene.calls
    middle = len(rungs) // 2

    def twice(t: int, i: int) -> float:
        return 2.0 if i == middle and calls // 3 <= t < 2 * calls // 3 else 1.0

    return [
        Scene("constant", lambda t: target, noise=0.0),
        Scene("noise", lambda t: target, noise=noise),
        Scene("step", lambda t: low if t // PERIOD % 2 else high, noise=noise),
        Scene("sawtooth", lambda t: low + (high - low) * (t % 200) / 200, noise=noise),
        Scene("drift", lambda t: slowed, lambda t, i: 1 + (slow - 1) * t / calls, noise=noise),
        Scene(
            "contention",
            lambda t: slowed,
            lambda t, i: slow if t // PERIOD % 2 else 1.0,
            noise=noise,
        ),
        Scene("twice", lambda t: target, twice, noise=noise),
        Scene("stray", lambda t: target, noise=noise, stray=0.01),
    ]


def simulate(
    scene: Scene,
    rungs: Sequence[Rung],
    policy: Policy = "mean",
    *,
    seed: int = 0,
    fixed: int | None = None,
    guess: Sequence[Rung] | None = None,
) -> Run:
    """Let a controller live through ``scene``. ``fixed``: the rung of every call instead.
    ``guess``: the ladder that the controller believes in, where that is not the true one."""
    draw = random.Random(seed)
    believed = rungs if guess is None else guess
    controller = Controller(believed, target_ms=scene.target(0), policy=policy)
    places = {rung.depth: index for index, rung in enumerate(rungs)}
    run = Run()
    for call in range(scene.calls):
        target = controller.target_ms = scene.target(call)
        rung = places[controller.choose()] if fixed is None else fixed
        cost = rungs[rung].milliseconds * scene.factor(call, rung)
        cost *= max(0.5, 1 + draw.gauss(0, scene.noise))
        if draw.random() < scene.stray:
            cost *= 3
        if fixed is None:
            controller.report(cost)
        run.targets.append(target)
        run.rungs.append(rung)
        run.costs.append(cost)
    return run
