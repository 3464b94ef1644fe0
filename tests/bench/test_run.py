"""Whole runs against a clock that only moves when somebody works: every figure is known."""

from __future__ import annotations

import gc
import itertools
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from fake_bench import (
    BASE,
    MIDDLE,
    MS,
    STEADY,
    SUPER,
    FakeClock,
    FakeSensor,
    FakeWorkload,
    Latency,
    steady,
)
from handmade import LADDER

from anydepth_deploy.bench.options import Options, parse_mix
from anydepth_deploy.bench.results import BenchResult, DepthResult
from anydepth_deploy.bench.run import run_bench
from anydepth_deploy.bench.timing.clock import MonotonicClock
from anydepth_deploy.bench.timing.loops import Log, on_streams, open_loop
from anydepth_deploy.bench.timing.plans import poisson_arrivals
from anydepth_deploy.errors import CheckFailedError, DepthError, UsageError


def bench(
    latency: Latency = steady, sensor: FakeSensor | None = None, **changes: Any
) -> tuple[BenchResult, FakeWorkload]:
    clock = FakeClock()
    workload = FakeWorkload(clock, latency)
    options = Options(**{"duration": 1.0, "warmup": 0.1, **changes})
    sensors = [sensor or FakeSensor()]
    depths = workload.table.ladder
    return run_bench(workload, depths, options, sensors=sensors, clock=clock), workload


def by_depth(result: BenchResult) -> dict[str, DepthResult]:
    return {row.depth: row for row in result.depths}


def took(row: DepthResult) -> list[float]:
    samples = row.samples
    pairs = zip(samples.started_ns, samples.ended_ns, strict=True)
    return [(ended - started) / MS for started, ended in pairs]


def constant(depth: str, number: int, seconds: float) -> float:
    return STEADY[depth]


def test_figures_of_known_latencies() -> None:
    result, workload = bench()
    rows = by_depth(result)
    assert list(rows) == list(LADDER)
    for depth, row in rows.items():
        assert row.latency.median_ms.value == pytest.approx(STEADY[depth], rel=0.011)
        assert row.latency.minimum_ms == pytest.approx(0.99 * STEADY[depth])
        assert row.latency.maximum_ms == pytest.approx(1.01 * STEADY[depth])
        assert row.images_per_second == pytest.approx(1e3 / STEADY[depth], rel=0.01)
        assert row.verdict.word == "valid", row.verdict
    base, top = rows[BASE].speedup, rows[SUPER].speedup
    assert base is not None
    assert top is not None
    assert base.value == pytest.approx(2.5, rel=0.02)
    assert top.value == 1
    assert result.verdict.word == "valid"
    assert result.load_ms == 250
    assert workload.closed
    assert workload.loaded == list(LADDER)


def test_a_run_is_as_long_as_time_and_count_ask() -> None:
    by_time, _ = bench(constant, duration=2.0, count=5)
    # Twenty milliseconds a round, two seconds for each of three depths.
    assert {row.latency.count for row in by_time.depths} == {300}
    by_count, _ = bench(constant, duration=0.01, count=77)
    assert {row.latency.count for row in by_count.depths} == {77}


def test_every_round_holds_every_depth_once_with_the_same_input() -> None:
    result, workload = bench(count=40, duration=0.0)
    for row in result.depths:
        assert row.samples.rounds == list(range(40))
    measured = workload.calls[-120:]
    for start in range(0, 120, 3):
        names, items = zip(*measured[start : start + 3], strict=True)
        assert sorted(names) == sorted(LADDER)
        assert len(set(items)) == 1
    assert {item for _, item in measured} == {0, 1, 2}


def test_warm_up_and_first_calls_are_not_kept() -> None:
    def slow_at_first(depth: str, number: int, seconds: float) -> float:
        return 500.0 if number < 3 else 50.0 if seconds < 2.5 else STEADY[depth]

    result, workload = bench(slow_at_first, warmup=1.0, warmup_count=2)
    assert [row.first_ms for row in result.depths] == [500, 500, 500]
    assert result.overall.latency.maximum_ms == 10
    kept = sum(row.latency.count for row in result.depths)
    assert len(workload.calls) - kept >= 3 + 3 * 2


def test_samples_tell_all_figures() -> None:
    result, _ = bench()
    for row in result.depths:
        values = took(row)
        assert row.latency.count == len(values)
        assert row.latency.mean_ms == pytest.approx(np.mean(values))
        assert row.latency.percentiles_ms["90"] == pytest.approx(np.percentile(values, 90))
    starts = sorted(start for row in result.depths for start in row.samples.started_ns)
    assert starts[0] >= 0
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize(("repeats", "count"), [(1, 30), (3, 31), (5, 8)])
def test_fixed_depths_take_turns_in_stretches(repeats: int, count: int) -> None:
    result, workload = bench(constant, mode="fixed", repeats=repeats, count=count, duration=0.0)
    expected = repeats * -(-count // repeats)
    assert {row.latency.count for row in result.depths} == {expected}
    names = [name for name, _ in workload.calls[-(3 * repeats * (expected // repeats + 3)) :]]
    runs = [name for name, _ in itertools.groupby(names)]
    assert len(runs) >= 2 * repeats + 1
    for row in result.depths:
        assert row.samples.rounds is None
        # Nothing but the depth itself lies in its wall time.
        assert row.images_per_second == pytest.approx(1e3 / STEADY[row.depth])


def test_every_stretch_is_warmed_up() -> None:
    """The first calls after another depth are not those that count."""
    before: list[str] = []

    def latency(depth: str, number: int, seconds: float) -> float:
        cold = bool(before) and before[-1] != depth
        before.append(depth)
        return 80.0 if cold else STEADY[depth]

    result, _ = bench(latency, mode="fixed", warmup_count=1)
    assert {row.latency.maximum_ms for row in result.depths} == set(STEADY.values())


def test_speedups_of_rounds_do_not_see_drift() -> None:
    """A machine that slows down to a third of its speed, evenly for all depths."""
    result, _ = bench(lambda depth, number, seconds: STEADY[depth] * (1 + 0.5 * seconds))
    base = by_depth(result)[BASE].speedup
    assert base is not None
    assert base.low is not None
    assert base.high is not None
    assert base.value == pytest.approx(2.5, rel=0.02)
    assert base.high - base.low < 0.05


def test_switch_cost() -> None:
    """A depth takes longer right after another one."""
    before: list[str] = []

    def latency(depth: str, number: int, seconds: float) -> float:
        changed = bool(before) and before[-1] != depth
        before.append(depth)
        return STEADY[depth] + (1.5 if changed else 0.0)

    result, _ = bench(latency, mode="switching")
    for index, row in enumerate(result.depths):
        assert row.switch_ms is not None
        assert row.switch_ms.value == pytest.approx(1.5)
        assert row.samples.after is not None
        counts = Counter(row.samples.after)
        # Each depth follows each other equally often, but for the one that opens the run.
        assert (
            max(counts[place] for place in range(3)) - min(counts[place] for place in range(3)) <= 1
        ), (index, counts)
    constant_cost, _ = bench(constant, mode="switching")
    assert [row.switch_ms and row.switch_ms.value for row in constant_cost.depths] == [0, 0, 0]


def test_switch_cost_is_only_known_where_it_was_measured() -> None:
    result, _ = bench()
    assert {row.switch_ms for row in result.depths} == {None}
    alone = FakeWorkload(clock := FakeClock(), constant)
    found = run_bench(
        alone, alone.table.ladder[:1], Options(mode="switching", duration=0.1), clock=clock
    )
    assert found.depths[0].switch_ms is None


def test_mixed_depths_follow_their_weights() -> None:
    result, _ = bench(constant, mode="mixed", mix={"base": 6, MIDDLE: 3, "super": 1}, duration=3.0)
    counts = {row.depth: row.latency.count for row in result.depths}
    total = sum(counts.values())
    assert counts[BASE] / total == pytest.approx(0.6, abs=0.05)
    assert counts[SUPER] / total == pytest.approx(0.1, abs=0.05)
    assert result.settings.mix == pytest.approx({BASE: 0.6, MIDDLE: 0.3, SUPER: 0.1})
    assert result.overall.requests == total
    mean = 0.6 * 4 + 0.3 * 6 + 0.1 * 10
    assert result.overall.images_per_second == pytest.approx(1e3 / mean, rel=0.05)


def test_weights_of_one_depth_by_several_names_add_up() -> None:
    """Names as they come, in any order: the shares are those of the sums, counted by hand."""
    names = {
        BASE: ("base", BASE, BASE.lower(), "level:0", "0"),
        MIDDLE: (MIDDLE, MIDDLE.lower(), "level:1", "1"),
        SUPER: ("super", "SUPER", SUPER, "level:2", "2"),
    }
    table = FakeWorkload(FakeClock(), constant).table
    draw = random.Random(5)
    for _ in range(50):
        chosen = [
            (name, depth, draw.uniform(0.1, 9))
            for depth, known in names.items()
            for name in draw.sample(known, draw.randint(1, len(known)))
        ]
        draw.shuffle(chosen)
        options = Options(mode="mixed", mix={name: weight for name, _, weight in chosen})
        total = sum(weight for _, _, weight in chosen)
        expected = [
            sum(weight for _, depth, weight in chosen if depth == wanted) / total
            for wanted in names
        ]
        assert options.shares(table, table.ladder) == pytest.approx(expected)
    result, _ = bench(
        constant, mode="mixed", mix=parse_mix(f"base=9,{BASE}=1,level:1=5,super=5"), duration=0.2
    )
    assert result.settings.mix == pytest.approx({BASE: 0.5, MIDDLE: 0.25, SUPER: 0.25})


def test_a_depth_that_no_request_asked_for_is_named() -> None:
    result, _ = bench(
        constant, mode="mixed", mix={"base": 1e6, MIDDLE: 1e6, "super": 1}, count=5, duration=0.0
    )
    assert [row.depth for row in result.depths] == [BASE, MIDDLE]
    assert result.verdict.word == "unstable"
    assert f"no request at {SUPER}" in result.verdict.reasons
    assert {row.speedup for row in result.depths} == {None}


def lindley(due: np.ndarray, service: float) -> np.ndarray:
    """Latencies of a queue with one server, first come, first served (Lindley's recursion)."""
    wait, found = 0.0, []
    for index in range(len(due)):
        if index:
            wait = max(0.0, wait + service - (due[index] - due[index - 1]) / MS)
        found.append(wait + service)
    return np.array(found)


@pytest.mark.parametrize("load", [0.3, 0.9])
def test_poisson_arrivals_keep_their_lateness(load: float) -> None:
    """Latency counts from when a request was due, and every one is served."""
    rate = load * 1e3 / STEADY[SUPER]
    clock = FakeClock()
    workload = FakeWorkload(clock, constant)
    depths = workload.table.ladder[-1:]
    options = Options(scenario="poisson", rate=rate, duration=20.0, repeats=1, warmup=0.0, seed=4)
    result = run_bench(workload, depths, options, sensors=[FakeSensor()], clock=clock)
    (row,) = result.depths
    assert row.samples.scheduled_ns is not None
    due = np.array(row.samples.scheduled_ns)
    count = int(np.ceil(rate * 20))
    assert len(due) == count
    assert np.array_equal(np.diff(due), np.diff(poisson_arrivals(rate, count, 4)))
    found = np.array(row.samples.latency_ns) / MS
    assert found == pytest.approx(lindley(due, STEADY[SUPER]), abs=1e-3)
    # What a closed loop would have said.
    assert set(took(row)) == {STEADY[SUPER]}
    assert row.latency.maximum_ms > STEADY[SUPER]
    assert result.overall.queue_ms is not None
    assert result.overall.queue_ms.mean_ms == pytest.approx(
        lindley(due, STEADY[SUPER]).mean() - STEADY[SUPER], abs=1e-3
    )


def test_a_stall_makes_the_requests_behind_it_late() -> None:
    """Requests every 10 ms that take 4 ms, one of them 100 ms: ten more are late."""

    def latency(depth: str, number: int, seconds: float) -> float:
        return 100.0 if number == 60 else 4.0

    result, _ = bench(
        latency, scenario="fixed-rate", rate=100.0, duration=1.0, repeats=1, warmup=0.0
    )
    late = [value for row in result.depths for value in row.samples.latency_ns if value > 4 * MS]
    expected = [100.0]
    while expected[-1] - 10 + 4 > 4:
        expected.append(expected[-1] - 10 + 4)
    assert sorted(late, reverse=True) == [round(value * MS) for value in expected]


def test_fixed_rate_is_the_rate_that_was_asked_for() -> None:
    result, _ = bench(constant, scenario="fixed-rate", rate=50.0, duration=2.0, repeats=2)
    for row in result.depths:
        assert row.latency.count == 100
        assert row.images_per_second == pytest.approx(50, rel=0.02)
        assert set(row.samples.latency_ns) == {round(MS * STEADY[row.depth])}


def test_arrivals_of_mixed_depths() -> None:
    result, _ = bench(
        constant,
        scenario="fixed-rate",
        rate=50.0,
        mode="mixed",
        mix={"base": 1, MIDDLE: 1, SUPER: 2},
    )
    assert result.overall.requests == 3 * 50
    counts = {row.depth: row.latency.count for row in result.depths}
    assert counts[SUPER] / 150 == pytest.approx(0.5, abs=0.12)
    assert {row.images_per_second for row in result.depths} == {None}


def test_a_rate_that_cannot_be_served_is_refused_before_the_run() -> None:
    with pytest.raises(UsageError, match=r"3000 requests a second cannot be served at .*lower"):
        bench(constant, scenario="poisson", rate=3000.0)


def test_a_rate_just_above_what_can_be_served_is_unstable() -> None:
    result, _ = bench(constant, scenario="fixed-rate", rate=130.0, repeats=1, duration=5.0)
    rows = by_depth(result)
    assert rows[BASE].verdict.word == "valid"
    assert rows[SUPER].verdict.word == "unstable"
    assert any("saturated" in reason for reason in rows[SUPER].verdict.reasons)
    assert rows[SUPER].latency.count == 650


def test_stalls_are_seen_and_kept() -> None:
    def latency(depth: str, number: int, seconds: float) -> float:
        return STEADY[depth] * (12 if number % 50 == 0 else 1)

    result, _ = bench(latency)
    assert result.verdict.word == "unstable"
    assert any("stalls" in reason for reason in result.verdict.reasons)
    assert max(row.latency.maximum_ms for row in result.depths) >= 12 * STEADY[BASE]


def spread(result: BenchResult) -> list[str]:
    return [reason for reason in result.verdict.reasons if "spread: " in reason]


@pytest.mark.parametrize("mode", ["interleaved", "fixed", "mixed", "switching"])
def test_two_speeds_are_seen_in_every_mode(mode: str) -> None:
    """Three calls of ten take twice as long; in no order that a round could hide."""
    draw = random.Random(2)

    def latency(depth: str, number: int, seconds: float) -> float:
        return STEADY[depth] * (2 if draw.random() < 0.3 else 1)

    result, _ = bench(latency, mode=mode, duration=2.0)
    assert result.verdict.word == "unstable"
    assert len(spread(result)) >= len(LADDER)
    assert {row.verdict.word for row in result.depths} == {"unstable"}


def test_what_switching_costs_is_no_spread() -> None:
    before: list[str] = []

    def latency(depth: str, number: int, seconds: float) -> float:
        changed = bool(before) and before[-1] != depth
        before.append(depth)
        return STEADY[depth] * (2 if changed else 1)

    assert spread(bench(latency, mode="switching")[0]) == []


def test_drift_is_seen() -> None:
    result, _ = bench(lambda depth, number, seconds: STEADY[depth] * (1 + 0.05 * seconds))
    assert result.verdict.word == "unstable"
    assert all("drifted" in reason for reason in result.verdict.reasons)


def test_a_throttled_clock_is_seen() -> None:
    """Half of the run at half the clock: the sensor says why."""

    def halfway(seconds: float) -> bool:
        return seconds > 1.5

    result, _ = bench(
        lambda depth, number, seconds: STEADY[depth] * (1.7 if halfway(seconds) else 1.0),
        FakeSensor(lambda seconds: {"throttle": ["sw power cap"] if halfway(seconds) else []}),
        duration=2.0,
    )
    assert result.verdict.word == "throttled"
    assert any("sw power cap" in reason for reason in result.verdict.reasons)
    assert any("drifted" in reason for reason in result.verdict.reasons)
    assert {row.verdict.word for row in result.depths} == {"throttled"}


def test_a_falling_clock_is_seen_where_no_reason_is_told() -> None:
    result, _ = bench(
        constant,
        FakeSensor(lambda seconds: {"clocks_mhz": {"sm": 1590.0 if seconds < 1.5 else 900.0}}),
        duration=2.0,
    )
    assert result.verdict.word == "throttled"
    assert any("1590 to 900 MHz" in reason for reason in result.verdict.reasons)


def test_sensors_that_tell_nothing_leave_it_unknown() -> None:
    result, _ = bench(constant, FakeSensor(lambda seconds: {}))
    assert result.verdict.word == "unknown"
    clock = FakeClock()
    workload = FakeWorkload(clock, constant)
    none = run_bench(workload, workload.table.ladder, Options(duration=0.5), clock=clock)
    assert none.verdict.word == "unknown"


def test_too_few_samples_are_said_to_be_too_few() -> None:
    result, _ = bench(constant, duration=0.0, count=7)
    for row in result.depths:
        assert row.latency.percentiles_ms == {
            "50": STEADY[row.depth],
            "90": None,
            "95": None,
            "99": None,
            "99.9": None,
        }
        assert row.verdict.word == "unstable"
        assert "7 samples are too few" in row.verdict.reasons[0]


def test_energy_is_that_of_the_counter_and_belongs_to_the_depth() -> None:
    sensor = FakeSensor(lambda seconds: {"throttle": [], "energy_j": {"total": 20.0 * seconds}})
    result, _ = bench(constant, sensor, mode="fixed")
    for row in result.depths:
        assert row.energy_per_image_j == pytest.approx(20 * STEADY[row.depth] / 1e3)
    together, _ = bench(constant, sensor)
    assert {row.energy_per_image_j for row in together.depths} == {None}
    mean = sum(STEADY.values()) / 3
    assert together.overall.energy_per_image_j == pytest.approx(20 * mean / 1e3)


def test_energy_from_power_is_its_integral() -> None:
    sensor = FakeSensor(lambda seconds: {"throttle": [], "power_w": {"total": 10 + seconds}})
    result, _ = bench(constant, sensor, duration=2.0)
    wall = result.overall.wall_s
    expected = (10 * wall + wall**2 / 2) / result.overall.images
    assert result.overall.energy_per_image_j == pytest.approx(expected, rel=1e-6)


def test_energy_that_is_not_told_is_unknown() -> None:
    result, _ = bench(constant)
    assert result.overall.energy_per_image_j is None


def test_devices_are_read_before_during_and_after() -> None:
    result, _ = bench(constant, duration=3.0)
    (device,) = result.devices
    seconds = [state.seconds for state in device.states]
    assert device.name == "Imaginary T4"
    assert seconds == sorted(seconds)
    assert seconds[0] < 0
    assert seconds[-1] >= 9
    assert len([moment for moment in seconds if 0 < moment < 9]) >= 12


def test_sensors_are_read_between_calls_only() -> None:
    clock = FakeClock()
    workload = FakeWorkload(clock, constant)
    reads: list[int] = []

    class Slow(FakeSensor):
        def read(self, seconds: float) -> Any:
            reads.append(clock.now())
            clock.work(7 * MS)
            return super().read(seconds)

    result = run_bench(
        workload, workload.table.ladder, Options(duration=2.0), sensors=[Slow()], clock=clock
    )
    assert len(reads) > 8
    for row in result.depths:
        assert set(took(row)) == {STEADY[row.depth]}


def test_waiting_requests_are_not_made_to_wait_for_sensors() -> None:
    """Requests every 12 ms that take 10 leave no gap for readings."""
    clock = FakeClock()
    workload = FakeWorkload(clock, constant)

    class Slow(FakeSensor):
        def read(self, seconds: float) -> Any:
            clock.work(50 * MS)
            return super().read(seconds)

    options = Options(scenario="fixed-rate", rate=1000 / 12, duration=3.0, repeats=1)
    depths = workload.table.ladder[-1:]
    result = run_bench(workload, depths, options, sensors=[Slow()], clock=clock)
    assert set(result.depths[0].samples.latency_ns) == {10 * MS}


def test_garbage_is_not_collected_while_measuring() -> None:
    states: list[bool] = []

    def latency(depth: str, number: int, seconds: float) -> float:
        states.append(gc.isenabled())
        return STEADY[depth]

    assert gc.isenabled()
    bench(latency)
    assert gc.isenabled()
    assert not any(states[-100:])


def test_a_call_that_fails_ends_the_run_and_closes_everything() -> None:
    clock = FakeClock()

    def latency(depth: str, number: int, seconds: float) -> float:
        if number == 200:
            raise RuntimeError("the device is gone")
        return 1.0

    workload = FakeWorkload(clock, latency)
    with pytest.raises(RuntimeError, match="the device is gone"):
        run_bench(workload, workload.table.ladder, Options(), clock=clock)
    assert workload.closed
    assert gc.isenabled()


def test_what_computes_something_else_is_not_timed() -> None:
    clock = FakeClock()
    workload = FakeWorkload(clock, constant)
    workload.wrong = True
    with pytest.raises(CheckFailedError):
        run_bench(workload, workload.table.ladder, Options(), clock=clock)
    assert workload.closed
    assert len(workload.calls) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_what_was_added_since_before() -> None:
    """What an earlier run freed is no part of what the next one has, and hides nothing."""
    kept: list[np.ndarray] = []

    class Holder(FakeWorkload):
        def load(self, depths: Any) -> None:
            super().load(depths)
            # In pieces that the C library keeps for itself when they are freed.
            kept.extend(np.ones(12_000) for _ in range(800))

        def close(self) -> None:
            super().close()
            kept.clear()

    for _ in range(2):
        workload = Holder(clock := FakeClock(), constant)
        result = run_bench(workload, workload.table.ladder, Options(duration=0.1), clock=clock)
        memory = result.memory
        assert memory.before is not None
        assert memory.loaded is not None
        assert memory.peak is not None
        assert 70e6 < memory.loaded - memory.before < 110e6
        assert memory.peak >= memory.loaded


def test_offline_counts_images() -> None:
    result, _ = bench(constant, scenario="offline", batch=8, count=10, duration=0.5)
    for row in result.depths:
        assert row.images_per_second == pytest.approx(8e3 / STEADY[row.depth])
    assert result.overall.images == 8 * result.overall.requests


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scenario": "poisson"}, "needs --rate"),
        ({"rate": 5.0}, "--rate is for requests that arrive"),
        ({"streams": 2}, "scenario single has one stream"),
        ({"scenario": "streams", "streams": 2, "mode": "interleaved"}, "choose --mode fixed"),
        ({"scenario": "poisson", "rate": 5.0, "mode": "switching"}, "choose --mode fixed"),
        ({"scenario": "offline", "mode": "mixed"}, "one depth at a time"),
        ({"mix": {"base": 1.0}}, "--mix is for --mode mixed"),
        ({"mode": "mixed", "mix": {"base": 1.0}}, "--mix has no weight for"),
        ({"percentiles": (100.0,)}, "between 0 and 100"),
        ({"percentiles": ()}, "between 0 and 100"),
        ({"batch": 0}, "--batch is 0"),
        ({"duration": float("nan")}, "--duration is nan"),
        ({"duration": float("inf")}, "--duration is inf"),
        ({"scenario": "sometimes"}, "unknown scenario"),
        ({"mode": "backwards"}, "unknown mode"),
        ({"scope": "all"}, "unknown scope"),
        ({"scenario": "poisson", "rate": -1.0}, "--rate is -1"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        bench(constant, **changes)


def test_a_mix_of_unknown_depths_is_refused() -> None:
    with pytest.raises(DepthError, match="unknown depth"):
        bench(constant, mode="mixed", mix={"XX": 1.0})
    with pytest.raises(UsageError, match="which --depth does not"):
        bench(constant, mode="mixed", mix={"base": 1, MIDDLE: 1, "super": 1, "TT-2": 1})


@pytest.mark.parametrize("text", ["", "base", "base=", "base=x", "base=0", "=1", "base=1,base=2"])
def test_mixes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="is not a list of weights"):
        parse_mix(text)


def test_mix_from_text() -> None:
    assert parse_mix("base=3, level:1=0.5,FF-2=1") == {"base": 3, "level:1": 0.5, "FF-2": 1}


# Several streams need a real clock: sleeping stands for work that leaves the processor free.


class Sleeper(FakeWorkload):
    """Calls that take 4 ms of waiting, on the machine's own clock; ``two_speeds``: or 8."""

    def __init__(self, *, two_speeds: bool = False) -> None:
        super().__init__(FakeClock(), constant)
        self.waits = itertools.cycle((0.004, 0.008) if two_speeds else (0.004,))
        self.together = 0
        self.most = 0
        self._lock = threading.Lock()

    def call(self, depth: Any) -> Any:
        def run(item: int) -> None:
            with self._lock:
                self.together += 1
                self.most = max(self.most, self.together)
                wait = next(self.waits)
            time.sleep(wait)
            with self._lock:
                self.together -= 1

        return run


def sleepy(**changes: Any) -> tuple[BenchResult, Sleeper]:
    workload = Sleeper()
    options = Options(**{"duration": 0.4, "warmup": 0.0, "repeats": 1, **changes})
    depths = workload.table.ladder[:1]
    return run_bench(workload, depths, options, sensors=[FakeSensor()]), workload


def test_streams_run_at_the_same_time() -> None:
    one, _ = sleepy(scenario="streams", streams=1)
    four, workload = sleepy(scenario="streams", streams=4)
    assert workload.most == 4
    assert one.depths[0].images_per_second is not None
    assert four.depths[0].images_per_second is not None
    assert four.depths[0].images_per_second > 2 * one.depths[0].images_per_second


def test_requests_that_overlap_are_no_spread() -> None:
    """Two on one device slow each other down; one alone that takes twice as long is a fault."""
    for streams in (1, 2):
        workload = Sleeper(two_speeds=True)
        options = Options(
            scenario="streams", streams=streams, duration=0.3, warmup=0.0, repeats=1, count=40
        )
        depths = workload.table.ladder[:1]
        result = run_bench(workload, depths, options, sensors=[FakeSensor()])
        assert len(spread(result)) == (streams == 1)


def test_streams_share_one_queue_of_arrivals() -> None:
    result, workload = sleepy(scenario="poisson", streams=3, rate=300.0, duration=0.5)
    (row,) = result.depths
    assert row.latency.count == 150
    assert row.samples.scheduled_ns is not None
    assert len(set(row.samples.scheduled_ns)) == 150
    assert (
        min(
            start - due
            for start, due in zip(row.samples.started_ns, row.samples.scheduled_ns, strict=True)
        )
        >= 0
    )
    assert 1 < workload.most <= 3


def test_every_request_is_served_once_whatever_the_number_of_streams() -> None:
    clock = MonotonicClock()
    due = [clock.now()] * 200
    queue = iter(range(200))
    logs = [Log() for _ in range(4)]

    def job(log: Log) -> Any:
        return lambda stop: open_loop(
            [lambda item: time.sleep(0.0005)], [0] * 200, due, 1, queue, clock, log, lambda s: None
        )

    on_streams([job(log) for log in logs], lambda slack: None)
    numbers = sorted(int(row[1]) for log in logs for row in log.rows)
    assert numbers == list(range(200))
    assert sum(len(log.rows) > 0 for log in logs) > 1


def test_a_stream_that_fails_stops_the_others() -> None:
    workload = Sleeper()
    healthy = workload.call(None)
    calls = itertools.count()

    def call(depth: Any) -> Any:
        def run(item: int) -> None:
            if next(calls) == 40:
                raise RuntimeError("one stream is gone")
            healthy(item)

        return run

    workload.call = call  # type: ignore[method-assign]
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="one stream is gone"):
        run_bench(
            workload,
            workload.table.ladder[:1],
            Options(scenario="streams", streams=3, duration=120.0, repeats=1, warmup=0.0),
        )
    assert time.monotonic() - began < 60
    assert workload.closed


def test_waiting_for_a_moment_ends_at_it() -> None:
    clock = MonotonicClock()
    late = []
    for _ in range(20):
        moment = clock.now() + 3 * MS
        clock.sleep_until(moment)
        late.append(clock.now() - moment)
    assert min(late) >= 0
    before = clock.now()
    clock.sleep_until(before - MS)
    assert clock.now() - before < 100 * MS
