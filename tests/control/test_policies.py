"""The two policies on devices whose costs are known: closed forms."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from types import SimpleNamespace
from typing import cast

import pytest

from anydepth_deploy.control.estimator import CostEstimator
from anydepth_deploy.control.policies import DeadlinePolicy, MeanPolicy, front
from anydepth_deploy.control.regulator import Regulator
from anydepth_deploy.control.rungs import Rung

COSTS = [10.0, 13.0, 17.0, 22.0]
LADDER = [Rung(str(index), cost, 1.05 * cost) for index, cost in enumerate(COSTS)]


def fly(
    policy: MeanPolicy | DeadlinePolicy,
    target: float,
    calls: int,
    factor: float = 1.0,
    noise: float = 0.0,
    found: CostEstimator | None = None,
    guilty: int | None = None,
    seed: int = 0,
) -> tuple[list[int], list[float]]:
    """The rungs that are chosen, and what calls at them took."""
    estimator = CostEstimator(LADDER) if found is None else found
    draw = random.Random(seed)
    rungs, costs = [], []
    for _ in range(calls):
        rung = policy.choose(estimator, target, 0, len(COSTS) - 1)
        cost = COSTS[rung] * factor * (2 if rung == guilty else 1) * draw.gauss(1, noise)
        if isinstance(policy, MeanPolicy):
            policy.observe(estimator.costs[rung], cost)
        estimator.observe(rung, cost)
        rungs.append(rung)
        costs.append(cost)
    return rungs, costs


def test_the_front_is_that_of_brute_force() -> None:
    draw = random.Random(0)
    for _ in range(300):
        costs = [draw.choice([1.0, 2.0, 3.0, 4.0, 5.0]) for _ in range(draw.randint(1, 7))]
        floor = draw.randrange(len(costs))
        ceiling = draw.randrange(floor, len(costs))
        expected = [
            rung
            for rung in range(floor, ceiling + 1)
            if all(costs[rung] < costs[deeper] for deeper in range(rung + 1, ceiling + 1))
        ]
        assert front(costs, floor, ceiling) == expected


@pytest.mark.parametrize("target", [10.0, 10.7, 13.0, 14.2, 16.9, 17.0, 20.5, 22.0])
def test_the_mean_is_exact_and_its_error_bounded(target: float) -> None:
    """Of n calls at a < target < b, n (target - a) / (b - a) are at b, give or take one; the sum is
    never further off than half of b - a."""
    rungs, costs = fly(MeanPolicy(), target, 500)
    pair = sorted(set(rungs))
    assert len(pair) <= 2
    assert pair[-1] - pair[0] <= 1
    assert COSTS[pair[0]] <= target <= COSTS[pair[-1]]
    total = 0.0
    for call, cost in enumerate(costs):
        total += cost - target
        assert abs(total) <= (COSTS[pair[-1]] - COSTS[pair[0]]) / 2 + 1e-9
        if len(pair) == 2:
            share = (target - COSTS[pair[0]]) / (COSTS[pair[1]] - COSTS[pair[0]])
            assert abs(rungs[: call + 1].count(pair[1]) - (call + 1) * share) <= 1


@pytest.mark.parametrize(("target", "rung"), [(3.0, 0), (100.0, 3)])
def test_targets_out_of_reach_run_the_nearest_rung(target: float, rung: int) -> None:
    assert set(fly(MeanPolicy(), target, 50)[0]) == {rung}
    assert set(fly(DeadlinePolicy(4), target, 50)[0]) == {rung}


def test_the_integral_does_not_stick_at_a_rail() -> None:
    """After a thousand calls that no rung makes cheap enough, the next ones are where they would be
    without them, within ten."""
    policy, estimator = MeanPolicy(), CostEstimator(LADDER)
    for factor in (5.0, 0.1):
        fly(policy, 15.0, 1000, factor, found=estimator)
        rungs, costs = fly(policy, 15.0, 100, 1.0, found=estimator)
        # The debts of two calls may still be paid back, at most those of four times the range.
        settled = rungs[25:]
        assert set(settled) <= {1, 2}
        assert sum(costs[25:85]) / 60 == pytest.approx(15.0, rel=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("factor", [1.15, 1.4, 0.8])
def test_mean_is_back_within_ten_calls_of_a_step(noise: float, factor: float) -> None:
    policy, estimator = MeanPolicy(), CostEstimator(LADDER)
    target = 16.0 * (factor if factor < 1 else 1)
    fly(policy, target, 200, found=estimator, noise=noise)
    rungs, _ = fly(policy, target, 100, factor, found=estimator, noise=noise, seed=1)
    lower = max(rung for rung in range(4) if COSTS[rung] * factor <= target)
    assert set(rungs[10:]) <= {lower, lower + 1}


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("target", [10.6, 12.0, 14.2, 15.0, 18.0, 20.0, 21.0])
def test_deadline_changes_once_in_a_hundred_calls_at_most(noise: float, target: float) -> None:
    rungs, costs = fly(DeadlinePolicy(4), target, 1000, noise=noise)
    for begin in range(20, 900, 20):
        part = rungs[begin : begin + 100]
        assert sum(one != other for one, other in itertools.pairwise(part)) <= 1
    assert sum(cost > target for cost in costs) <= 0.06 * len(costs)


def test_deadline_takes_the_deepest_rung_that_meets_it() -> None:
    for target, rung in [(10.51, 0), (13.66, 1), (17.86, 2), (23.2, 3), (13.64, 0), (17.84, 1)]:
        policy = DeadlinePolicy(4)
        assert policy.choose(CostEstimator(LADDER), target, 0, 3) == rung


@pytest.mark.parametrize("factor", [1.3, 1.6])
def test_deadline_is_back_within_ten_calls_of_both_steps(factor: float) -> None:
    policy, estimator = DeadlinePolicy(4), CostEstimator(LADDER)
    before = fly(policy, 18.5, 200, found=estimator)[0][-1]
    assert before == 2
    slow = fly(policy, 18.5, 200, factor, found=estimator)[0]
    deepest = max(rung for rung in range(4) if COSTS[rung] * factor * 1.05 <= 18.5)
    assert set(slow[10:]) == {deepest}
    again = fly(policy, 18.5, 200, found=estimator)[0]
    assert set(again[10:]) == {before}


def test_deadline_follows_its_target_at_once() -> None:
    policy, estimator = DeadlinePolicy(4), CostEstimator(LADDER)
    fly(policy, 14.5, 200, found=estimator)
    assert set(fly(policy, 24.0, 50, found=estimator)[0][10:]) == {3}
    assert set(fly(policy, 14.5, 50, found=estimator)[0]) == {1}


def test_a_guilty_rung_is_left_and_tried_again_ever_more_rarely() -> None:
    policy, estimator = DeadlinePolicy(4), CostEstimator(LADDER)
    fly(policy, 18.5, 100, found=estimator)
    rungs, _ = fly(policy, 18.5, 4000, guilty=2, found=estimator)
    assert Counter(rungs[5:1000])[2] <= 20
    assert Counter(rungs)[2] <= 40
    # And once it is innocent again, it is taken again for good.
    assert set(fly(policy, 18.5, 3000, found=estimator)[0][-200:]) == {2}


def test_mean_goes_around_a_guilty_rung() -> None:
    policy, estimator = MeanPolicy(), CostEstimator(LADDER)
    fly(policy, 15.0, 100, found=estimator)
    rungs, costs = fly(policy, 15.0, 600, guilty=2, found=estimator)
    assert Counter(rungs[10:])[2] <= 10  # dearer than rung 3 now
    assert sum(costs[20:]) / len(costs[20:]) == pytest.approx(15.0, rel=0.02)


def test_a_call_that_hangs_is_not_paid_for_ever() -> None:
    policy, estimator = MeanPolicy(), CostEstimator(LADDER)
    fly(policy, 15.0, 50, found=estimator)
    policy.observe(15.0, 1e6)
    rungs, _ = fly(policy, 15.0, 100, found=estimator)
    assert set(rungs[40:]) == {1, 2}


def test_vain_attempts_wait_twice_as_long_each_time() -> None:
    """A rung that seems to meet the deadline until it is tried: after 100, 200, 400, ... calls."""
    policy = DeadlinePolicy(2)
    device = SimpleNamespace(tails=[1.0, 2.0], steps=0, scale=1.0)
    attempts = []
    for call in range(3500):
        rung = policy.choose(cast(CostEstimator, device), 1.5, 0, 1)
        device.tails[1] = 2.0 if rung else 1.4
        if rung:
            attempts.append(call)
    waits = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert waits == pytest.approx([200, 400, 800, 1600], abs=3)


def test_the_regulator_leaves_its_ends_at_once() -> None:
    regulator = Regulator(10.0)
    for _ in range(1000):
        regulator.update(1.0)
    assert regulator.position == 1
    regulator.update(15.0)
    assert regulator.position < 1
    for _ in range(1000):
        regulator.update(100.0)
    assert regulator.position == 0
    for _ in range(3):
        regulator.update(5.0)
    assert regulator.position > 0
