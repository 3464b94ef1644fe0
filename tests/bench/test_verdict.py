"""Verdicts: what is seen outweighs what cannot be, and nothing is taken for granted."""

from __future__ import annotations

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import assume, given
from hypothesis import strategies as st

from anydepth_deploy.bench.results import Estimate, Latency, Verdict
from anydepth_deploy.bench.sensors.state import Device, DeviceKind, State
from anydepth_deploy.bench.statistics import summarise
from anydepth_deploy.bench.verdict import device_verdict, judge_latency, saturation, worst


def judged(took_ms: np.ndarray) -> Verdict:
    nanoseconds = np.round(1e6 * np.asarray(took_ms)).astype(np.int64)
    return judge_latency(nanoseconds.astype(np.float64), summarise(nanoseconds, (50,)))


def noise(count: int, sigma: float = 0.01, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, sigma, count)


def device(kind: DeviceKind = "nvidia", **columns: list[object]) -> Device:
    """A device with a reading a second; the first is before measuring begins."""
    count = max((len(values) for values in columns.values()), default=4)
    states = [
        State.model_validate(
            {
                "seconds": index - 1.0,
                **{name: values[index] for name, values in columns.items() if index < len(values)},
            }
        )
        for index in range(count)
    ]
    return Device(kind=kind, name="imaginary", states=states)


def test_steady_latency_is_valid() -> None:
    assert judged(10 * noise(300)).word == "valid"


@pytest.mark.parametrize("change", [0.06, -0.06])
def test_a_step_of_more_than_five_per_cent_is_drift(change: float) -> None:
    samples = 10 * noise(300)
    samples[150:] *= 1 + change
    found = judged(samples)
    assert found.word == "unstable"
    assert "drifted" in found.reasons[0]


def test_a_step_of_less_is_none() -> None:
    samples = 10 * noise(300)
    samples[150:] *= 1.03
    assert judged(samples).word == "valid"


def test_stalls_count_by_the_time_they_take() -> None:
    few = 10 * noise(1000)
    few[500] = 100  # 90 ms of 10 s
    assert judged(few).word == "valid"
    many = few.copy()
    many[::100] = 100
    found = judged(many)
    assert found.word == "unstable"
    assert found.reasons[0].startswith("stalls: 10 of 1000")


def two_speeds(count: int, slow: int, factor: float, seed: int) -> np.ndarray:
    """Calls of 10 ms, ``slow`` of which, drawn at random, take ``factor`` times as long."""
    samples = 10 * noise(count, 0.005, seed)
    samples[np.random.default_rng(seed).permutation(count)[:slow]] *= factor
    return samples


def test_three_calls_of_ten_that_take_twice_as_long_are_no_valid_figure() -> None:
    found = judged(two_speeds(300, 90, 2.0, 1))
    assert found.word == "unstable"
    (reason,) = (text for text in found.reasons if text.startswith("spread: "))
    assert reason.startswith("spread: 90 of 300 calls were over 1.25 times slower or faster than")
    assert reason.endswith("by 23 % of the time (at most 5 %)")  # 0.3 of 1.3
    # As many that take half as long are the same thing, and a few are none.
    assert judged(two_speeds(300, 210, 2.0, 1)).word == "unstable"
    assert judged(two_speeds(300, 150, 1.6, 1)).word == "unstable"
    assert judged(two_speeds(300, 12, 2.0, 1)).word == "valid"


@given(
    count=st.integers(30, 200),
    share=st.floats(0, 1),
    factor=st.floats(1, 2.9),
    seed=st.integers(0, 10**6),
)
@examples(60)
def test_spread_is_what_far_calls_add_to_the_time(
    count: int, share: float, factor: float, seed: int
) -> None:
    samples = np.round(1e6 * two_speeds(count, round(share * count), factor, seed))
    ordered = sorted(samples.tolist())
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    apart = [abs(v - middle) for v in ordered if max(v / middle, middle / v) > 1.25]
    part = sum(apart) / sum(ordered)
    assume(abs(part - 0.05) > 1e-6)
    assume(all(abs(max(v / middle, middle / v) - 1.25) > 1e-9 for v in ordered))
    reasons = judged(samples / 1e6).reasons
    assert any(text.startswith(f"spread: {len(apart)} of {count}") for text in reasons) == (
        part > 0.05
    )


@pytest.mark.parametrize("sigma", [0.01, 0.025, 0.08])
def test_noise_alone_is_no_spread(sigma: float) -> None:
    """Twice the noise at which trtexec warns is common on machines that others share."""
    found = [judged(10 * noise(count, sigma, seed)) for count in (30, 500) for seed in range(50)]
    assert not [text for verdict in found for text in verdict.reasons if "spread" in text]


def test_calls_that_are_not_alike_may_differ() -> None:
    samples = two_speeds(300, 150, 2.0, 1)
    nanoseconds = np.round(1e6 * samples).astype(np.int64)
    slow = nanoseconds > 15e6

    def spread(*alike: np.ndarray) -> list[str]:
        parts = [part.astype(np.float64) for part in alike]
        found = judge_latency(nanoseconds.astype(np.float64), summarise(nanoseconds, (50,)), parts)
        return [text for text in found.reasons if text.startswith("spread")]

    assert spread() == []
    assert spread(nanoseconds[slow], nanoseconds[~slow]) == []
    assert len(spread(nanoseconds)) == 1


def test_a_median_that_is_not_known_is_unstable() -> None:
    found = judged(10 * np.random.default_rng(0).lognormal(0, 0.5, 40))
    assert found.word == "unstable"
    assert any("known to within" in reason for reason in found.reasons)


def test_too_few_samples() -> None:
    drift, interval = judged(10 * noise(9)).reasons
    assert "too few to tell whether latency drifted" in drift
    assert "too few for a confidence interval" in interval
    assert len(judged(10 * noise(29)).reasons) == 1
    assert judged(10 * noise(30)).word == "valid"


def called_drift(samples: np.ndarray) -> bool:
    return any("drifted" in reason for reason in judged(samples).reasons)


def test_noise_alone_is_seldom_called_drift() -> None:
    """Of samples that scatter by 10 %, thirds of ten often differ by more than 5 %."""

    def wide(samples: np.ndarray) -> bool:
        thirds = [float(np.median(part)) for part in np.array_split(samples, 3)]
        return max(thirds) > 1.05 * min(thirds)

    runs = [10 * noise(30, 0.1, seed) for seed in range(100)]
    assert sum(map(wide, runs)) > 40
    assert sum(map(called_drift, runs)) < 25
    # What is there is seen all the same.
    assert all(called_drift(run * np.repeat([1, 1, 1.4], 10)) for run in runs[:20])


def test_saturation() -> None:
    due = np.linspace(0, 1, 100)
    took = np.full(100, 0.004)
    assert saturation(due, due + 0.004, took, 1).word == "valid"
    late = due + np.linspace(0.004, 2, 100)
    found = saturation(due, late, took, 1)
    assert found.word == "unstable"
    assert "saturated" in found.reasons[0]


def test_throttling_that_is_told() -> None:
    found = device_verdict([device(throttle=[[], [], ["hw slowdown"], []])], 2)
    assert found.word == "throttled"
    assert found.reasons == ["imaginary: hw slowdown in 1 of 3 readings"]
    assert device_verdict([device(throttle=[[], [], [], []])], 2).word == "valid"


def test_what_held_the_clocks_down_before_the_run_does_not_count() -> None:
    assert device_verdict([device(throttle=[["sw thermal"], [], [], []])], 2).word == "valid"


def test_throttling_that_is_counted() -> None:
    assert device_verdict([device("cpu", throttle_events=[3, 5, 5, 5])], 2).word == "valid"
    found = device_verdict([device("cpu", throttle_events=[3, 3, 5, 9])], 2)
    assert found.word == "throttled"
    assert "throttled 6 times" in found.reasons[0]


@pytest.mark.parametrize(
    ("kind", "domain", "word"),
    [
        ("nvidia", "sm", "throttled"),
        ("jetson", "gpu", "throttled"),
        ("cpu", "cpu0", "throttled"),
        ("nvidia", "memory", "unknown"),
    ],
)
def test_a_clock_that_falls(kind: DeviceKind, domain: str, word: str) -> None:
    clocks: list[object] = [{domain: value} for value in (300.0, 1590, 1590, 1400, 900, 900, 900)]
    assert device_verdict([device(kind, clocks_mhz=clocks)], 2).word == word


def test_a_clock_that_rises_or_wavers_is_fine() -> None:
    rising: list[object] = [{"sm": value} for value in (300.0, 900, 1590, 1590, 1590, 1590)]
    assert device_verdict([device(clocks_mhz=rising)], 2).word == "valid"
    wavering: list[object] = [{"sm": value} for value in (300.0, 1590, 1560, 1575, 1590, 1545)]
    assert device_verdict([device(clocks_mhz=wavering)], 2).word == "valid"


def test_idle_cores_of_a_processor_may_slow_down() -> None:
    clocks: list[object] = [
        {"cpu0": 3500.0, "cpu1": 3500.0 if index < 3 else 800.0} for index in range(7)
    ]
    assert device_verdict([device("cpu", clocks_mhz=clocks)], 2).word == "valid"


def test_no_sensor_means_unknown() -> None:
    silent = Device(kind="cpu", name="EPYC", unknown=["clocks (no cpufreq)"], states=[])
    found = device_verdict([silent], 2)
    assert found.word == "unknown"
    assert "clocks (no cpufreq)" in found.reasons[0]
    assert device_verdict([], 2).word == "unknown"


def test_a_second_device_that_tells_says_nothing_of_the_first() -> None:
    gpu = Device(kind="nvidia", name="T4")
    cpu = device("cpu", throttle_events=[0, 0, 0, 0])
    assert device_verdict([gpu, cpu], 2).word == "unknown"
    assert device_verdict([cpu, gpu], 2).word == "valid"


def test_a_sensor_that_stops_telling_is_not_clean() -> None:
    assert device_verdict([device(throttle=[[], None, None, None])], 2).word == "unknown"
    assert device_verdict([device("cpu", throttle_events=[4, None, 4, None])], 2).word == "unknown"


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("other_cpu", 0.5, "other processes took 0.50 of 2 cores"),
        ("stolen_cpu", 0.1, "other virtual machines took 0.10 of 2 cores"),
    ],
)
def test_company_on_the_processor(column: str, value: float, told: str) -> None:
    fine = {"throttle": [[], [], [], []], column: [9.0, 0.01, 0.02, 0.03]}
    assert device_verdict([device("cpu", **fine)], 2).word == "valid"  # type: ignore[arg-type]
    busy = {**fine, column: [0.0, value, value, value]}
    found = device_verdict([device("cpu", **busy)], 2)  # type: ignore[arg-type]
    assert found.word == "unstable"
    assert found.reasons == [told]


def test_the_worst_word_wins_and_reasons_come_once() -> None:
    verdicts = [
        Verdict(word="valid"),
        Verdict(word="unknown", reasons=["a"]),
        Verdict(word="unstable", reasons=["b", "a"]),
    ]
    assert worst(verdicts) == Verdict(word="unstable", reasons=["a", "b"])
    assert worst([*verdicts, Verdict(word="throttled", reasons=["c"])]).word == "throttled"
    assert worst([]) == Verdict(word="valid")


def test_the_interval_decides_not_the_spread() -> None:
    """Latencies of two kinds of pictures are no instability."""
    samples = np.tile([8.0, 12.0], 300)
    latency = summarise(np.round(1e6 * samples).astype(np.int64), (50,))
    narrow = latency.model_copy(update={"median_ms": Estimate(value=10, low=9.9, high=10.1)})
    assert isinstance(narrow, Latency)
    assert judge_latency(1e6 * samples, narrow).word == "valid"
