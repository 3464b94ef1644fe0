"""What calls at each rung take: known costs, steps, stray calls, guilty rungs."""

from __future__ import annotations

import numpy as np
import pytest

from anydepth_deploy.control.estimator import CostEstimator
from anydepth_deploy.control.rungs import Rung, fitted, guessed_rungs

LADDER = [Rung("a", 10.0, 10.5), Rung("b", 14.0, 14.7), Rung("c", 20.0, 21.0)]
TRUE = [10.0, 14.0, 20.0]


def test_costs_that_are_right_stay_to_the_bit() -> None:
    found = CostEstimator(LADDER)
    for call in range(300):
        found.observe(call % 3, TRUE[call % 3])
    assert found.costs == TRUE
    assert found.steps == 0


@pytest.mark.parametrize("factor", [1.3, 2.0, 10.0, 0.7, 0.4])
@pytest.mark.parametrize("order", [[0, 1], [1, 2], [0, 1, 2], [2, 2, 0]])
def test_a_step_of_all_rungs_is_known_after_two_calls(factor: float, order: list[int]) -> None:
    found = CostEstimator(LADDER)
    for rung in order[:2]:
        found.observe(rung, factor * TRUE[rung])
    assert found.costs == pytest.approx([factor * cost for cost in TRUE])
    assert found.steps == 1


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_a_rung_that_costs_twice_is_found_out_between_others(guilty: int) -> None:
    found = CostEstimator(LADDER)
    other = (guilty + 1) % 3
    for rung in [other, guilty, other, guilty]:
        found.observe(rung, TRUE[rung] * (2 if rung == guilty else 1))
    expected = [cost * (2 if rung == guilty else 1) for rung, cost in enumerate(TRUE)]
    assert found.costs == pytest.approx(expected, rel=0.02)


def test_a_rung_seen_alone_is_guilty_once_another_is_as_it_was() -> None:
    found = CostEstimator(LADDER)
    for _ in range(4):
        found.observe(2, 40.0)
    assert found.costs == pytest.approx([20, 28, 40])  # nobody can know yet
    found.observe(0, 10.0)
    assert found.costs == pytest.approx([10, 14, 40], rel=0.02)


def test_guilt_that_grew_goes_to_its_rung_as_a_whole() -> None:
    found = CostEstimator(LADDER)
    for cost in [40.0, 40.0, 80.0, 80.0]:
        found.observe(2, cost)
    found.observe(0, 10.0)
    assert found.costs == pytest.approx([10, 14, 80], rel=0.02)


def test_guilt_is_forgiven() -> None:
    """A correction fades as exp(-calls / 300)."""
    found = CostEstimator(LADDER)
    for rung in [0, 2, 0, 2]:
        found.observe(rung, TRUE[rung] * (2 if rung == 2 else 1))
    begin = found.corrections[2]
    for _ in range(300):
        found.observe(0, 10.0)
    assert found.corrections[2] - 1 == pytest.approx((begin - 1) / np.e, rel=0.02)


def test_a_stray_call_changes_nothing() -> None:
    found = CostEstimator(LADDER)
    for call in range(50):
        found.observe(1, 14.0)
        if call == 20:
            found.observe(1, 140.0)
    assert found.costs == pytest.approx(TRUE)


@pytest.mark.parametrize("percentile", [95, 99])
@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
def test_as_many_calls_exceed_the_percentile_as_should(percentile: int, spread: float) -> None:
    """Whatever the distribution, and whatever the ladder said of it."""
    draw = np.random.default_rng(0)
    found = CostEstimator([Rung("a", 10.0, 10.5, 10.6)], percentile)
    above = []
    for cost in 10 * draw.lognormal(0, spread, 12000):
        above.append(cost > found.tails[0])
        found.observe(0, float(cost))
    counted = above[1000:]  # before that, the spread is learned
    rare = 1 - percentile / 100
    assert sum(counted) / len(counted) == pytest.approx(rare, rel=0.15)


def test_noise_is_followed_without_bias() -> None:
    draw = np.random.default_rng(1)
    found = CostEstimator(LADDER)
    seen, sizes = [], []
    for call, noise in enumerate(draw.normal(1, 0.05, 4000)):
        rung = call % 2
        found.observe(rung, TRUE[rung] * float(noise))
        seen.append(found.costs)
        sizes.append(found.noise)
    mean = np.mean(seen[500:], axis=0)
    assert mean[:2] == pytest.approx(TRUE[:2], rel=0.01)
    assert np.std(np.array(seen[500:])[:, 0]) < 0.03 * 10
    assert np.mean(sizes) == pytest.approx(0.05, rel=0.15)


# --- ladders that were guessed


def test_guessed_costs_are_learned_by_going_there() -> None:
    macs, true = [100.0, 150.0, 200.0, 300.0], [7.0, 9.0, 11.0, 15.0]  # 3 + macs / 25
    found = CostEstimator(guessed_rungs("abcd", macs))
    known = [found.known]
    found.observe(0, 50.0)  # opening it took long
    found.observe(0, true[0])
    assert [*known, found.known] == [False, True]
    assert found.costs == pytest.approx([7, 10.5, 14, 21])  # in proportion
    found.observe(2, true[2])
    assert found.costs == pytest.approx(true)  # a line through two points


def test_what_is_fitted_never_falls_below_a_cheaper_rung() -> None:
    assert fitted([1, 2, 3], [10, 8, 0]) == [10, 8, 10]
    assert fitted([1, 2, 3], [0, 8, 8]) == [8, 8, 8]
    assert fitted([2, 2, 2], [0, 8, 7]) == [8, 8, 7]
