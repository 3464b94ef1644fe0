"""What a controller did, in numbers and in words; C++ says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anydepth_deploy.control.estimator import CostEstimator
from anydepth_deploy.control.policies import DeadlinePolicy, MeanPolicy
from anydepth_deploy.control.regulator import Regulator
from anydepth_deploy.control.rungs import Rung

__all__ = ["Counters", "Explanation", "RungCounter", "why"]

WORTH_SAYING = 0.05
"""A factor is told where it is further from 1."""


@dataclass(frozen=True)
class RungCounter:
    """``total_ms``: of all its calls together."""

    calls: int
    total_ms: float

    @property
    def mean_ms(self) -> float:
        """Of a call; 0 where there was none."""
        return self.total_ms / self.calls if self.calls else 0.0


@dataclass(frozen=True)
class Counters:
    """``missed``: calls that took longer than their deadline; of the policy ``mean``, calls made
    while the target was below what the floor takes. ``changes``: how often the next call had
    another depth. ``rungs``: by depth, from base to super."""

    calls: int
    missed: int
    changes: int
    rungs: Mapping[str, RungCounter]


@dataclass(frozen=True)
class Explanation:
    """Why the last call got its depth. ``costs`` and ``tails``: milliseconds of a call as they are
    thought to be now, the median and the percentile, by depth. ``target_ms``: of calls;
    ``setpoint_ms``: what the mean policy plans with, once debts are paid. ``pair``: the two rungs
    that it alternates between. ``debt_ms``: what calls took beyond the plan. ``scale``: how many
    times what the ladder says all rungs take; ``corrections``: each beside that. ``reading``: of
    the sensor. ``text``: all of it in one line."""

    depth: str | None
    policy: str
    target_ms: float
    planned_ms: float
    costs: Mapping[str, float]
    tails: Mapping[str, float]
    scale: float
    corrections: Mapping[str, float]
    setpoint_ms: float | None
    pair: tuple[str, str] | None
    debt_ms: float
    reading: float | None
    text: str

    def __str__(self) -> str:
        return self.text


def why(
    rungs: Sequence[Rung],
    estimator: CostEstimator,
    policy: MeanPolicy | DeadlinePolicy,
    regulator: Regulator | None,
    *,
    rung: int,
    target: float,
    budget: float | None,
    planned: float,
    limits: tuple[int, int],
    percentile: int,
    silent: bool,
) -> Explanation:
    """Explain the decision for ``rung``, -1 before the first one."""
    depths = [item.depth for item in rungs]
    mean = policy if isinstance(policy, MeanPolicy) else None
    if rung < 0:
        text = "no depth was chosen yet"
    elif not estimator.known:
        text = (
            f"{depths[rung]}: what calls take is not known yet, so the first ones run at the floor"
        )
    else:
        if budget is not None:
            reason = _of_budget(depths, estimator, rung, budget, limits, percentile)
        elif isinstance(policy, MeanPolicy):
            reason = _of_mean(depths, estimator, policy, target, limits)
        else:
            reason = _of_deadline(depths, estimator, policy, rung, target, limits, percentile)
        text = f"{depths[rung]}: {_of_sensor(regulator, silent)}{reason}"
        text += _of_costs(depths, estimator, rung)
    return Explanation(
        depth=depths[rung] if rung >= 0 else None,
        policy="deadline" if mean is None else "mean",
        target_ms=target,
        planned_ms=planned,
        costs=dict(zip(depths, estimator.costs, strict=True)),
        tails=dict(zip(depths, estimator.tails, strict=True)),
        scale=estimator.scale,
        corrections=dict(zip(depths, estimator.corrections, strict=True)),
        setpoint_ms=None if mean is None else mean.setpoint,
        pair=None if mean is None else (depths[mean.pair[0]], depths[mean.pair[1]]),
        debt_ms=0.0 if mean is None else mean.debt,
        reading=None if regulator is None else regulator.reading,
        text=text,
    )


def _of_sensor(regulator: Regulator | None, silent: bool) -> str:
    if regulator is None:
        return ""
    if regulator.reading is None:
        return f"no sensor has said anything, {regulator.target:.2f} is to be held; "
    said = "said last" if silent else "says"
    return f"the sensor {said} {regulator.reading:.2f}, {regulator.target:.2f} is to be held; "


def _of_mean(
    depths: Sequence[str],
    estimator: CostEstimator,
    policy: MeanPolicy,
    target: float,
    limits: tuple[int, int],
) -> str:
    costs = estimator.costs
    floor, ceiling = limits
    if target < costs[floor]:
        return (
            f"a mean of {target:.2f} ms is below what {depths[floor]} takes ({costs[floor]:.2f} ms)"
        )
    if target > costs[ceiling]:
        return (
            f"{depths[ceiling]} takes {costs[ceiling]:.2f} ms, less than a mean of {target:.2f} ms"
        )
    lower, upper = policy.pair
    gap = costs[upper] - costs[lower]
    share = 100 * (policy.setpoint - costs[lower]) / gap if gap > 0 else 0.0
    return (
        f"calls are to take {target:.2f} ms on average: {depths[lower]} ({costs[lower]:.2f} ms) "
        f"and {depths[upper]} ({costs[upper]:.2f} ms) alternate, {share:.0f}% of calls at the "
        f"latter; {policy.debt:.2f} ms owed"
    )


def _of_deadline(
    depths: Sequence[str],
    estimator: CostEstimator,
    policy: DeadlinePolicy,
    rung: int,
    target: float,
    limits: tuple[int, int],
    percentile: int,
) -> str:
    reason = _of_budget(depths, estimator, rung, target, limits, percentile)
    if policy.waiting and rung < limits[1]:
        reason += f" (would have met it for {policy.waiting} calls)"
    return reason


def _of_budget(
    depths: Sequence[str],
    estimator: CostEstimator,
    rung: int,
    budget: float,
    limits: tuple[int, int],
    percentile: int,
) -> str:
    tails = estimator.tails
    here = f"{percentile}% of calls take up to {tails[rung]:.2f} ms"
    if rung == limits[0] and tails[rung] > budget:
        return f"{here}, no rung meets {budget:.2f} ms"
    if rung >= limits[1]:
        return f"{here}, the deepest rung meets {budget:.2f} ms"
    deeper = f"{depths[rung + 1]} it is up to {tails[rung + 1]:.2f} ms"
    return f"{here}, within {budget:.2f} ms; at {deeper}"


def _of_costs(depths: Sequence[str], estimator: CostEstimator, rung: int) -> str:
    text = ""
    if not -WORTH_SAYING <= estimator.scale - 1 <= WORTH_SAYING:
        text += f"; all calls take {estimator.scale:.2f} times what the ladder says"
    own = estimator.corrections[rung]
    if not -WORTH_SAYING <= own - 1 <= WORTH_SAYING:
        text += f"; {depths[rung]} takes {own:.2f} times that"
    return text
