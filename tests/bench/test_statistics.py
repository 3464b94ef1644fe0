"""Statistics of latencies against closed forms and against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from anydepth_deploy.bench import statistics
from anydepth_deploy.bench.statistics import (
    FEWEST,
    difference_of_medians,
    median,
    percentile,
    ratio_of_medians,
    samples_needed,
    summarise,
)
from anydepth_deploy.errors import ResultError


def lognormal(count: int, seed: int = 0, mean: float = 0.0, sigma: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(mean, sigma, count)


@pytest.mark.parametrize(
    ("percent", "needed"), [(50, 5), (90, 29), (95, 59), (99, 299), (99.9, 2995)]
)
def test_samples_that_a_percentile_needs(percent: float, needed: int) -> None:
    """The largest of n samples is above the percentile with a probability of at least 95 %."""
    assert samples_needed(percent) == needed
    # That no sample lies above it has the probability of n successes of n, which SciPy knows.
    assert stats.binom.pmf(needed, needed, percent / 100) <= 0.05
    assert stats.binom.pmf(needed - 1, needed - 1, percent / 100) > 0.05


@pytest.mark.parametrize("percent", [50, 75, 90, 95, 99])
def test_percentiles_are_those_of_scipy(percent: float) -> None:
    samples = lognormal(400)
    (expected,) = stats.mstats.mquantiles(samples, [percent / 100], alphap=1, betap=1)
    assert percentile(samples, percent) == pytest.approx(expected, rel=1e-12)


def test_percentiles_of_known_samples() -> None:
    samples = np.arange(101, dtype=np.float64)
    assert [percentile(samples, percent) for percent in (50, 90, 95)] == [50, 90, 95]


def test_a_percentile_of_too_few_samples_is_refused() -> None:
    assert percentile(np.ones(29), 90) == 1
    with pytest.raises(ResultError, match="28 samples are too few for percentile 90, which needs"):
        percentile(np.ones(28), 90)


def test_summary() -> None:
    samples = [4_000_000, 2_000_000, 9_000_000, 3_000_000, 5_000_000]
    found = summarise(samples, (50, 90))
    assert (found.count, found.minimum_ms, found.maximum_ms) == (5, 2, 9)
    assert found.mean_ms == pytest.approx(4.6)
    assert found.deviation_ms == pytest.approx(np.std([4, 2, 9, 3, 5], ddof=1))
    assert found.variation == pytest.approx(stats.variation([4, 2, 9, 3, 5], ddof=1))
    assert found.median_ms.value == 4
    assert (found.median_ms.low, found.median_ms.high) == (None, None)
    assert found.percentiles_ms == {"50": 4, "90": None}


def test_summary_of_one_sample_and_of_none() -> None:
    found = summarise([7_000_000], (50,))
    assert (found.mean_ms, found.deviation_ms, found.variation) == (7, None, None)
    with pytest.raises(ResultError, match="no request was measured"):
        summarise([], (50,))


def test_no_sample_is_left_out() -> None:
    """One stall of a second among a thousand calls is in the mean and the maximum."""
    samples = np.full(1000, 10_000_000)
    samples[500] = 1_000_000_000
    found = summarise(samples, (99.9,))
    assert found.maximum_ms == 1000
    assert found.mean_ms == pytest.approx((999 * 10 + 1000) / 1000)
    assert found.count == 1000


def test_fewest_samples_of_an_interval() -> None:
    assert median(lognormal(FEWEST)).low is not None
    assert median(lognormal(FEWEST - 1)).low is None


def test_interval_of_independent_samples_is_that_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks of one sample, the bootstrap is the ordinary one."""
    monkeypatch.setattr(statistics, "block_length", lambda count: 1)
    samples = lognormal(200)
    found = median(samples)
    expected = stats.bootstrap(
        (samples,), np.median, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.15 * width)
    assert found.high == pytest.approx(expected.high, abs=0.15 * width)


def test_ratio_of_independent_samples_is_that_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "block_length", lambda count: 1)
    one, other = lognormal(150, 1, 0.7), lognormal(250, 2)
    found = ratio_of_medians(one, other, paired=False)
    assert found.value == pytest.approx(np.median(one) / np.median(other), rel=1e-12)
    expected = stats.bootstrap(
        (one, other),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        n_resamples=5000,
        method="percentile",
        rng=1,
    ).confidence_interval
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.15 * width)
    assert found.high == pytest.approx(expected.high, abs=0.15 * width)


def covered(draw: object, truth: float, figure: object, trials: int = 200) -> float:
    """How often the interval holds the true value."""
    hits = 0
    for trial in range(trials):
        found = figure(*draw(np.random.default_rng(trial)))  # type: ignore[operator]
        hits += found.low <= truth <= found.high
    return hits / trials


def test_interval_of_the_median_covers_it() -> None:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray]:
        return (rng.lognormal(0, 0.3, 100),)

    share = covered(draw, 1.0, median)
    # Of 200 trials at 95 %, SciPy says what is still likely.
    assert share >= stats.binom.ppf(0.001, 200, 0.93) / 200


def test_interval_holds_for_samples_that_resemble_their_neighbours() -> None:
    """Blocks make the interval honest where single samples would promise too much."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray]:
        noise = rng.normal(0, 1, 400)
        values = np.zeros(400)
        for index in range(1, 400):
            values[index] = 0.6 * values[index - 1] + noise[index]
        return (np.exp(0.1 * values),)

    blocks = covered(draw, 1.0, median)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "block_length", lambda count: 1)
        single = covered(draw, 1.0, median)
    assert blocks > single + 0.05
    assert blocks > 0.85


def test_paired_ratios_do_not_see_what_hits_both() -> None:
    """A machine that slows down to half its speed changes no ratio."""
    drift = np.linspace(1, 2, 200)
    one, other = drift * lognormal(200, 1, 0, 0.01), 0.5 * drift * lognormal(200, 2, 0, 0.01)
    paired = ratio_of_medians(one, other, paired=True)
    unpaired = ratio_of_medians(one, other, paired=False)
    assert paired.value == pytest.approx(2, rel=0.01)
    assert paired.low is not None
    assert paired.high is not None
    assert unpaired.low is not None
    assert unpaired.high is not None
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)


def test_difference_of_medians() -> None:
    one, other = 5 + lognormal(300, 1), 3 + lognormal(300, 2)
    found = difference_of_medians(one, other)
    assert found.value == pytest.approx(np.median(one) - np.median(other))
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2 < found.high
    assert found.high - found.low < 0.2


def test_intervals_are_the_same_each_time_and_for_any_chunking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = lognormal(100)
    first = median(samples)
    assert median(samples) == first
    monkeypatch.setattr(statistics, "CHUNK", 1000)
    again = median(samples)
    assert again.low is not None
    assert first.low is not None
    assert math.isclose(again.low, first.low, rel_tol=0.02)


@pytest.mark.parametrize(("count", "length"), [(1, 1), (10, 2), (27, 3), (1000, 10)])
def test_blocks_are_as_long_as_the_cube_root(count: int, length: int) -> None:
    assert statistics.block_length(count) == length


def test_blocks_draw_every_sample_equally_often() -> None:
    """Circular blocks give the ends no less weight than the middle."""
    places = statistics._places(30, 20_000, np.random.default_rng(0))
    assert places.shape == (20_000, 30)
    counts = np.bincount(places[:, 0], minlength=30) + np.bincount(places[:, 2], minlength=30)
    assert len(counts) == 30
    assert stats.chisquare(counts).pvalue > 0.001
    steps = np.diff(places, axis=1) % 30
    assert (steps[:, [0, 1, 3, 4]] == 1).all()
