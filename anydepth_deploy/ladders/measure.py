"""``ladder``: times predicted, scores measured along the front, rungs timed for themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.host import describe_host
from anydepth_deploy.bench.statistics import percentile, samples_needed
from anydepth_deploy.bench.timing.interleave import interleave
from anydepth_deploy.bench.timing.timer import quiet
from anydepth_deploy.bench.workloads.pictures import Batches
from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import utc_now
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.ladders.costs import (
    Costs,
    bound,
    medians,
    plan_costs,
    time_depths,
    time_stages,
)
from anydepth_deploy.ladders.scores import Scores, check_scores
from anydepth_deploy.ladders.search import Gain, dominated, gains_of, pareto, rungs_of, search
from anydepth_deploy.ladders.subject import Subject
from anydepth_deploy.manifest import MeasuredLadder, Rung
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.device_name import device_name
from anydepth_deploy.runtimes.registry import find_runtime

__all__ = ["Found", "Pace", "measure_ladder"]

SLACK = 0.02
"""Depths that are beaten by less than this share of their time are timed once more: predictions
are about as good."""

MOST_RUNGS = 32
"""That are timed at the end."""


@dataclass(frozen=True)
class Pace:
    """How long to measure. ``rounds``: of the times that predictions are made of; ``calls``: of
    each rung at the end; ``most``: depths that are scored, and a few more; ``seed``: of orders."""

    rounds: int = 30
    calls: int = 100
    most: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """``ladder``: as the manifest keeps it. ``scores``: of the depths that were measured.
    ``times``: milliseconds of all depths, measured of those in ``timed``. ``beaten``: base or super
    where another depth is better and no slower."""

    ladder: MeasuredLadder
    costs: Costs
    scores: Mapping[Depth, float]
    times: Mapping[Depth, float]
    timed: frozenset[Depth]
    gains: Sequence[Gain]
    beaten: Sequence[Depth]


@usual_arithmetic()
def measure_ladder(
    subject: Subject,
    scores: Scores,
    batches: Batches,
    pace: Pace | None = None,
    progress: Progress | None = None,
) -> Found:
    """Find the ladder of ``subject`` on this device; nothing is written.

    ``batches``: what is run while calls are timed. Raises :class:`ImageError` for data in which
    there is nothing to find, and what running and scoring raise.
    """
    pace = pace or Pace()
    table = subject.bundle.table
    base, top = table.space.base, table.space.super
    scores.measure([base, top], progress)
    check_scores(scores, base, top)
    call = _caller(subject, batches)
    costs = _costs(subject, batches, call, pace, progress)
    times = dict(costs.predicted)
    search(table, times, scores, most=pace.most, progress=progress)
    points = {depth: (times[depth], score) for depth, score in scores.known.items()}
    near = [depth for depth in pareto(points, SLACK) if depth not in (base, top)]
    finalists = list(dict.fromkeys([base, top, *near[:MOST_RUNGS]]))
    with quiet():
        seconds = interleave(
            {depth: bound(call, depth) for depth in finalists},
            repeats=pace.calls,
            seed=pace.seed + 1,
            progress=progress,
        )
    milliseconds = {depth: 1e3 * value for depth, value in medians(seconds).items()}
    timed = {depth: (milliseconds[depth], scores.known[depth]) for depth in finalists}
    rungs = rungs_of(base, top, timed)
    # What was predicted and not timed again is set right by what was: the machine may have drifted.
    drift = float(np.median([milliseconds[depth] / times[depth] for depth in finalists]))
    times = {depth: value * drift for depth, value in times.items()} | milliseconds
    gains = gains_of(table, {d: v * drift for d, v in costs.predicted.items()}, scores.known)
    ladder = MeasuredLadder(
        when=utc_now(),
        device=device_name(subject.choice.runtime),
        runtime=subject.choice.runtime,
        precision=_precision(subject.choice.precision),
        layout=subject.artifacts[0].layout,
        artifacts=subject.hashes(rungs),
        batch=len(batches.pictures[0]),
        threads=subject.choice.threads,
        calls=pace.calls,
        data=scores.described,
        versions=describe_host().packages,
        error=costs.error,
        rungs=[
            Rung(
                depth=str(depth),
                milliseconds=milliseconds[depth],
                p95=_percentile(1e3 * seconds[depth], 95),
                p99=_percentile(1e3 * seconds[depth], 99),
                score=scores.known[depth],
            )
            for depth in rungs
        ],
    )
    return Found(
        ladder, costs, scores.known, times, frozenset(finalists), gains, dominated(rungs, timed)
    )


def _precision(name: str) -> Any:
    """One of the words of a manifest, which opening the session has checked."""
    return name


def _caller(subject: Subject, batches: Batches) -> Callable[[Depth], object]:
    """A call of one depth; each depth has the pictures in the same order."""
    session, prepared = subject.timed, batches.prepared
    made: dict[Depth, int] = {}

    def call(depth: Depth) -> object:
        number = made[depth] = made.get(depth, -1) + 1
        return session.run(prepared[number % len(prepared)], depth)

    return call


def _costs(
    subject: Subject,
    batches: Batches,
    call: Callable[[Depth], object],
    pace: Pace,
    progress: Progress | None,
) -> Costs:
    table = subject.bundle.table
    plan = plan_costs(table, subject.runnable, seed=pace.seed)
    chained = subject.artifacts[0].layout == "stages"
    if not chained or plan.whole or find_runtime(subject.choice.runtime).chains:
        return time_depths(
            table,
            subject.runnable,
            plan,
            call,
            rounds=pace.rounds,
            seed=pace.seed,
            progress=progress,
        )
    session, images = subject.timed, batches.prepared[0]
    return time_stages(
        subject.runnable,
        {item.file: item.piece for item in subject.artifacts if item.piece is not None},
        plan.checks,
        lambda depth, see: session.observe(images, depth, see),
        call,
        rounds=pace.rounds,
        seed=pace.seed,
        progress=progress,
    )


def _percentile(samples: NDArray[np.float64], percent: float) -> float | None:
    return percentile(samples, percent) if len(samples) >= samples_needed(percent) else None
