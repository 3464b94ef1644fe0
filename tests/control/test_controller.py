"""The controller as loops call it: choosing, reporting, sensors, what is said and what refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from anydepth_deploy.control.controller import Controller
from anydepth_deploy.control.rungs import Rung, guessed_rungs
from anydepth_deploy.errors import UsageError

COSTS = {"base": 10.0, "middle": 14.0, "super": 20.0}
LADDER = [Rung(depth, cost, 1.1 * cost, 1.2 * cost) for depth, cost in COSTS.items()]


def fly(controller: Controller, calls: int, factor: float = 1.0) -> list[str]:
    depths = []
    for _ in range(calls):
        depths.append(controller.choose())
        controller.report(COSTS[depths[-1]] * factor)
    return depths


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_loop_of_its_own() -> None:
    controller = Controller(LADDER, target_ms=12)
    assert sorted(fly(controller, 200)) == ["base"] * 100 + ["middle"] * 100
    counted = controller.counters
    assert (counted.calls, counted.missed) == (200, 0)
    assert counted.changes == 199
    assert counted.rungs["base"].calls == 100
    assert counted.rungs["middle"].mean_ms == 14
    assert counted.rungs["super"].mean_ms == 0


def test_frames_a_second_are_milliseconds_of_a_call() -> None:
    assert Controller(LADDER, fps=30).target_ms == pytest.approx(1000 / 30)


def test_a_block_is_timed_by_the_clock() -> None:
    now = [0.0]
    controller = Controller(LADDER, target_ms=12, clock=lambda: now[0])
    with controller.call() as depth:
        now[0] += COSTS[depth] / 1000
    assert controller.counters.rungs[depth].total_ms == pytest.approx(COSTS[depth])
    with pytest.raises(ZeroDivisionError), controller.call():
        raise ZeroDivisionError
    assert controller.counters.calls == 1


def test_a_budget_of_one_call_is_its_own() -> None:
    controller = Controller(LADDER, target_ms=11.5, policy="deadline")
    assert controller.choose(budget_ms=100) == "super"
    controller.report(20)
    assert controller.choose(budget_ms=15.41) == "middle"
    controller.report(16)
    assert controller.choose(budget_ms=1) == "base"
    controller.report(10)
    assert controller.counters.missed == 2
    assert controller.choose() == "base"
    percentile = Controller(LADDER, target_ms=12, policy="deadline", percentile=99)
    assert percentile.choose(budget_ms=16.7) == "base"  # 16.8 at the 99th percentile
    assert percentile.choose(budget_ms=16.81) == "middle"


def test_floor_and_ceiling_are_not_left() -> None:
    controller = Controller(LADDER, target_ms=1, floor="middle")
    assert set(fly(controller, 30)) == {"middle"}
    controller = Controller(LADDER, target_ms=100, floor="base", ceiling="middle")
    assert set(fly(controller, 30)) == {"middle"}


def test_targets_change_at_once() -> None:
    controller = Controller(LADDER, target_ms=10)
    fly(controller, 20)
    controller.target_ms = 20
    assert set(fly(controller, 20)[1:]) == {"super"}


def test_what_cannot_be_reached_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    controller = Controller(LADDER, target_ms=8)
    assert set(fly(controller, 50)) == {"base"}
    assert controller.counters.missed == 50
    assert said(caplog) == [
        "a target of 8.00 ms is below what base takes now (10.00 ms): calls run there, and are "
        "counted as missed; 10.00 to 20.00 ms can be held"
    ]
    assert "a mean of 8.00 ms is below what base takes (10.00 ms)" in str(controller.explain())
    loose = Controller(LADDER, target_ms=50)
    assert set(fly(loose, 50)) == {"super"}
    assert loose.counters.missed == 0
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("target", [8.0, 50.0])
@pytest.mark.parametrize("policy", ["mean", "deadline"])
def test_what_cannot_be_reached_is_refused_where_it_is_strict(target: float, policy: str) -> None:
    with pytest.raises(UsageError, match=r"out of reach: base takes 1\d\.\d\d ms, super 2\d\.\d\d"):
        Controller(LADDER, target_ms=target, policy=policy, strict=True)  # type: ignore[arg-type]


def test_a_ladder_of_another_device_is_said_once_and_held_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    controller = Controller(LADDER, target_ms=36)
    fly(controller, 100, factor=3)
    assert len(said(caplog)) == 1
    assert "calls take 3.00 times what this ladder says" in said(caplog)[0]
    assert "anydepth-deploy ladder BUNDLE" in said(caplog)[0]
    before = controller.counters.rungs
    fly(controller, 100, factor=3)
    after = controller.counters.rungs
    assert sum(item.total_ms for item in after.values()) - sum(
        item.total_ms for item in before.values()
    ) == pytest.approx(3600, rel=0.02)


def test_costs_that_nobody_measured_are_learned(caplog: pytest.LogCaptureFixture) -> None:
    rungs = guessed_rungs(list(COSTS), [100.0, 110.0, 130.0])
    controller = Controller(rungs, target_ms=16)
    fly(controller, 100)
    total = sum(COSTS[depth] for depth in fly(controller, 60))
    assert total / 60 == pytest.approx(16, rel=0.02)
    assert not said(caplog)


# --- sensors


def held(plant: Callable[[float], float], calls: int = 3000, every: int = 25) -> float:
    """What a sensor says at last, of a device on which mean cost leads to a reading."""
    costs = [10.0]
    controller = Controller(
        LADDER, target=12.0, sensor=lambda: plant(sum(costs[-every:]) / every), every=every
    )
    for _ in range(calls):
        cost = COSTS[controller.choose()]
        controller.report(cost)
        costs.append(cost)
    tail = costs[-10 * every :]
    return plant(sum(tail) / len(tail))


@pytest.mark.parametrize("slope", [0.2, 0.5, 1.0, 2.0])
def test_watts_are_held(slope: float) -> None:
    """Watts rise with what calls take; how steeply is not known to the controller."""
    assert held(lambda cost: 12 + slope * (cost - 15)) == pytest.approx(12, rel=0.01)


def test_the_length_of_a_queue_is_held() -> None:
    queue = [0.0]
    controller = Controller(LADDER, target=8.0, sensor=lambda: queue[0], every=1)
    lengths = []
    for _ in range(3000):
        cost = COSTS[controller.choose()]
        controller.report(cost)
        queue[0] = max(0.0, queue[0] + cost / 15 - 1)  # one comes every 15 ms
        lengths.append(queue[0])
    assert max(lengths) < 16
    assert sum(lengths[-500:]) / 500 == pytest.approx(8, rel=0.1)


def test_a_sensor_that_stops_is_said_once_and_calls_go_on(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[float | None] = [12.0, 11.0, 11.0]

    def sensor() -> float | None:
        if not answers:
            raise OSError("no such device")
        return answers.pop(0)

    controller = Controller(LADDER, target=12.0, sensor=sensor, every=1)
    fly(controller, 3)
    target = controller.target_ms
    assert target > 10
    fly(controller, 50)
    assert controller.target_ms == target
    assert said(caplog) == [
        "the sensor has stopped to answer (OSError: no such device); calls go on as they were when "
        "it said 11.00"
    ]
    assert "the sensor said last 11.00" in str(controller.explain())
    answers += [20.0] * 20
    fly(controller, 20)
    assert controller.target_ms == 10
    assert "the sensor says 20.00, 12.00 is to be held" in str(controller.explain())


def test_a_sensor_that_never_answers_runs_the_floor(caplog: pytest.LogCaptureFixture) -> None:
    controller = Controller(LADDER, target=12.0, sensor=lambda: None, every=1)
    assert set(fly(controller, 20)) == {"base"}
    assert said(caplog) == [
        "the sensor has stopped to answer (it says None); it never said anything: calls run at the "
        "floor"
    ]


def test_pushed_values_are_readings() -> None:
    controller = Controller(LADDER, target=5.0)
    for _ in range(20):
        controller.push(1.0)
    assert fly(controller, 10)[-1] == "super"
    for _ in range(20):
        controller.push(50.0)
    assert fly(controller, 10)[-1] == "base"


# --- threads


def test_threads_count_every_call_and_hold_the_mean() -> None:
    controller = Controller(LADDER, target_ms=16)
    taken: list[float] = []

    def work() -> None:
        for _ in range(500):
            depth = controller.choose()
            taken.append(COSTS[depth])
            controller.report(COSTS[depth], depth)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert controller.counters.calls == 2000
    assert sum(taken) / 2000 == pytest.approx(16, rel=0.01)


# --- words


def test_every_decision_is_explained() -> None:
    controller = Controller(LADDER, target_ms=12)
    assert str(controller.explain()) == "no depth was chosen yet"
    controller.choose()
    found = controller.explain()
    assert found.depth == "middle"
    assert found.pair == ("base", "middle")
    assert found.setpoint_ms == 12
    assert str(found) == (
        "middle: calls are to take 12.00 ms on average: base (10.00 ms) and middle (14.00 ms) "
        "alternate, 50% of calls at the latter; 0.00 ms owed"
    )
    deadline = Controller(LADDER, target_ms=16, policy="deadline")
    deadline.choose()
    assert str(deadline.explain()) == (
        "middle: 95% of calls take up to 15.40 ms, within 16.00 ms; at super it is up to 22.00 ms"
    )
    guessed = Controller(guessed_rungs("ab", [1.0, 2.0]), target_ms=16)
    guessed.choose()
    assert "not known yet" in str(guessed.explain())
    fly(controller, 20, factor=2)
    assert "all calls take 2.00 times what the ladder says" in str(controller.explain())


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="one of target_ms, fps and target; found none"):
        Controller(LADDER)
    with pytest.raises(UsageError, match="a sensor needs the target"):
        Controller(LADDER, target_ms=5, sensor=lambda: 1.0)
    with pytest.raises(UsageError, match="every is 0"):
        Controller(LADDER, target=5, every=0)
    controller = Controller(LADDER, target_ms=5)
    with pytest.raises(UsageError, match="no depth was chosen yet"):
        controller.report(5)
    controller.choose()
    for cost in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="a call cannot take"):
            controller.report(cost)
    with pytest.raises(UsageError, match="depth x is no rung; expected one of base, middle, super"):
        controller.report(5, "x")
    with pytest.raises(UsageError, match="nothing is held by a sensor"):
        controller.push(1)
    with pytest.raises(UsageError, match="target_ms is nan"):
        controller.target_ms = float("nan")
    held = Controller(LADDER, target=5)
    with pytest.raises(UsageError, match="a sensor cannot say nan"):
        held.push(float("nan"))
    with pytest.raises(UsageError, match="follows from a sensor"):
        held.target_ms = 3
