"""Orders of depths and moments of arrival."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from anydepth_deploy.bench.timing import plans


def take(rounds: plans.Rounds, count: int) -> list[list[int]]:
    return [list(found) for found in itertools.islice(rounds, count)]


def test_fixed() -> None:
    assert take(plans.fixed(2), 3) == [[2], [2], [2]]


def test_interleaved_rounds_hold_every_call_once_in_changing_order() -> None:
    rounds = take(plans.interleaved(4, 0), 200)
    assert all(sorted(found) == [0, 1, 2, 3] for found in rounds)
    firsts = Counter(found[0] for found in rounds)
    assert stats.chisquare([firsts[index] for index in range(4)]).pvalue > 0.001
    assert rounds != take(plans.interleaved(4, 1), 200)
    assert rounds == take(plans.interleaved(4, 0), 200)


def test_mixed_draws_follow_their_shares() -> None:
    shares = [0.6, 0.3, 0.1]
    found = Counter(index for (index,) in take(plans.mixed(shares, 0), 5000))
    expected = [5000 * share for share in shares]
    assert stats.chisquare([found[index] for index in range(3)], expected).pvalue > 0.001


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_switching_makes_every_transition_once_a_round(count: int) -> None:
    rounds = take(plans.switching(count, 0), 6)
    assert len(rounds[0]) == 1
    before = rounds[0][-1]
    for found in rounds[1:]:
        steps = Counter(itertools.pairwise([before, *found]))
        assert set(steps) == set(itertools.product(range(count), repeat=2))
        assert set(steps.values()) == {1}
        before = found[-1]


def test_switching_orders_change() -> None:
    rounds = take(plans.switching(4, 0), 20)
    assert len({tuple(found) for found in rounds[1:]}) > 10


def test_fixed_arrivals() -> None:
    assert plans.fixed_arrivals(4, 4).tolist() == [0, 250_000_000, 500_000_000, 750_000_000]


def test_poisson_arrivals_have_exponential_gaps() -> None:
    moments = plans.poisson_arrivals(50, 4000, 0)
    gaps = np.diff(moments) / 1e9
    assert (gaps >= 0).all()
    assert stats.kstest(gaps, stats.expon(scale=1 / 50).cdf).pvalue > 0.001
    # Counts in windows are Poisson: their variance is their mean.
    counts = np.histogram(moments / 1e9, np.arange(0, moments[-1] / 1e9, 0.5))[0]
    assert counts.mean() == pytest.approx(25, rel=0.05)
    assert counts.var(ddof=1) / counts.mean() == pytest.approx(1, abs=0.35)
    assert (moments != plans.poisson_arrivals(50, 4000, 1)).any()
