"""A pilot and a session together."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import anydepth_deploy as ad
import anydepth_deploy.pilot.power as power
from anydepth_deploy.bench.sensors.state import State
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.control.rungs import Rung
from anydepth_deploy.depth import DepthSpace, DepthTable, Gate
from anydepth_deploy.errors import DepthError, UsageError
from anydepth_deploy.pilot.pilot import Pilot
from anydepth_deploy.pilot.power import PowerSensor
from anydepth_deploy.runtimes.device_name import device_name

SPACE = DepthSpace((Gate("a", 0), Gate("b", 0)), (1, 1))
TABLE = DepthTable(SPACE, tuple(SPACE.parse(text) for text in ("TT", "FT", "FF")))
COSTS = {"TT": 10.0, "FT": 15.0, "FF": 20.0}


class FakeSession:
    """Takes as long as its clock says."""

    def __init__(self, **more: Any) -> None:
        self.table = TABLE
        self.macs = {"TT": 100, "FT": 150, "FF": 200, "TF": 150}
        self.depths = tuple(SPACE.parse(text) for text in COSTS)
        self.on_device = False
        self.measured_ladder: Any = None
        self.measured_elsewhere: Any = ()
        self.now = 0.0
        self.warmed: list[str] = []
        self.ran: list[str] = []
        self.__dict__.update(more)

    def run(self, images: Any, depth: str) -> Any:
        self.ran.append(depth)
        self.now += COSTS[depth] / 1000
        return images, depth

    def warm(self, depth: str, batch: int) -> None:
        self.warmed.append(f"{depth} {batch}")


def pilot_of(session: FakeSession, **options: Any) -> Pilot:
    return Pilot(session, clock=lambda: session.now, **options)


def measured(**more: Any) -> SimpleNamespace:
    """What ``ladder`` writes into a manifest."""
    rungs = [
        SimpleNamespace(depth=depth, milliseconds=cost, p95=1.1 * cost, p99=1.3 * cost, score=50.0)
        for depth, cost in COSTS.items()
    ]
    return SimpleNamespace(
        rungs=rungs, **{"device": device_name("onnxruntime"), "batch": 1, **more}
    )


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_costs_are_learned_where_nobody_measured_them() -> None:
    session = FakeSession()
    pilot = pilot_of(session, target_ms=13)
    assert session.warmed == ["TT 1", "FT 1", "FF 1"]
    for _ in range(100):
        found: Any = pilot.run(np.zeros(1, np.float32))
        assert found[1] == session.ran[-1]
    assert sum(COSTS[depth] for depth in session.ran[20:80]) / 60 == pytest.approx(13, rel=0.02)
    assert pilot.counters.calls == 100


def test_the_measured_ladder_of_a_session_is_used(caplog: pytest.LogCaptureFixture) -> None:
    pilot = pilot_of(FakeSession(measured_ladder=measured()), target_ms=17, policy="deadline")
    assert pilot.choose() == "FT"
    assert pilot.explain().tails["FT"] == pytest.approx(16.5)
    assert [rung.score for rung in pilot.rungs] == [50, 50, 50]
    assert not said(caplog)


def test_a_ladder_of_another_device_or_batch_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pilot_of(FakeSession(), rungs=measured(device="Orin"), target_ms=17)
    pilot_of(FakeSession(), rungs=measured(), target_ms=17, batch=4)
    assert "measured on Orin, this is" in said(caplog)[0]
    assert "with 1 image(s) a call, these have 4" in said(caplog)[1]
    assert all("anydepth-deploy ladder BUNDLE" in message for message in said(caplog))


def test_a_ladder_of_another_device_is_better_than_none(caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = (measured(device="T4"), measured(device="Orin"))
    pilot = pilot_of(FakeSession(measured_elsewhere=elsewhere), target_ms=17)
    assert [rung.milliseconds for rung in pilot.rungs] == list(COSTS.values())
    (message,) = said(caplog)
    assert "measured on Orin, this is" in message
    caplog.clear()
    pilot_of(FakeSession(measured_ladder=measured(), measured_elsewhere=elsewhere), target_ms=17)
    assert not said(caplog)


def test_rungs_of_ones_own_and_names_of_limits() -> None:
    session = FakeSession()
    rungs = [Rung("TT", 10.0), Rung("FF", 20.0)]
    pilot = pilot_of(session, rungs=rungs, target_ms=1, floor="super", warm=False)
    assert session.warmed == []
    assert pilot.choose() == "FF"
    assert pilot_of(session, target_ms=1, floor="level:1").choose() == "FT"


def test_a_call_that_fails_teaches_nothing() -> None:
    session = FakeSession()
    pilot = pilot_of(session, target_ms=13)

    def fail(images: Any, depth: str) -> Any:
        raise ad.AnyDepthError("no")

    session.run = fail  # type: ignore[method-assign]
    with pytest.raises(ad.AnyDepthError):
        pilot.run(np.zeros(1, np.float32))
    assert pilot.counters.calls == 0


def test_what_is_refused() -> None:
    session = FakeSession()
    with pytest.raises(UsageError, match="one of target_ms, fps, watts and target; found two"):
        pilot_of(session, watts=5, target=3)
    with pytest.raises(UsageError, match="one of target_ms, fps and target; found fps and target"):
        pilot_of(session, watts=5, fps=3)
    with pytest.raises(UsageError, match="this session cannot run TF"):
        pilot_of(session, rungs=[Rung("TF", 1.0)], target_ms=3)
    with pytest.raises(DepthError, match="unknown depth 'FFF'"):
        pilot_of(session, rungs=[Rung("FFF", 1.0)], target_ms=3)
    with pytest.raises(DepthError, match="unknown depth 'level:9'"):
        pilot_of(session, floor="level:9", target_ms=3)
    with pytest.raises(UsageError, match="rungs cannot be of type int"):
        pilot_of(session, rungs=3, target_ms=3)
    with pytest.raises(UsageError, match="a rung cannot be of type str"):
        pilot_of(session, rungs=["TT"], target_ms=3)
    with pytest.raises(UsageError, match="nothing is known of what the depths"):
        pilot_of(FakeSession(macs={}), target_ms=3)
    with pytest.raises(UsageError, match="strict needs costs that were measured"):
        pilot_of(session, target_ms=3, strict=True)


# --- power


class FakeMeter:
    """Draws so many watts; counts joules or says watts."""

    def __init__(self, counts: bool) -> None:
        self.now, self.joules, self.watts, self.counts = 0.0, 5.0, 10.0, counts

    def describe(self) -> Any: ...

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.joules += seconds * self.watts

    def read(self, seconds: float) -> State:
        if self.counts:
            return State(seconds=seconds, energy_j={"total": self.joules})
        return State(seconds=seconds, power_w={"total": self.watts})


def test_joules_become_watts() -> None:
    meter = FakeMeter(counts=True)
    sensor = PowerSensor(True, find=lambda: [meter], clock=lambda: meter.now)
    assert sensor() is None
    for watts in (10.0, 30.0):
        meter.watts = watts
        meter.pass_time(2)
        assert sensor() == pytest.approx(watts)
    meter.joules = 0  # the driver was loaded anew
    assert sensor() is None


def test_watts_are_what_they_are() -> None:
    meter = FakeMeter(counts=False)
    assert PowerSensor(True, find=lambda: [meter])() == 10


@pytest.mark.parametrize("counts", [True, False])
def test_watts_need_something_that_tells_them(
    monkeypatch: pytest.MonkeyPatch, counts: bool
) -> None:
    meter = FakeMeter(counts)
    monkeypatch.setattr(power, "find_sensors", lambda device: [meter])
    pilot_of(FakeSession(), watts=5)
    monkeypatch.setattr(meter, "read", lambda seconds: State(seconds=seconds))
    said = "nothing here tells what the processor draws, .*: give a sensor that does, or hold"
    with pytest.raises(UsageError, match=said):
        pilot_of(FakeSession(), watts=5)


def test_watts_are_held_by_the_sensor_of_the_device() -> None:
    """Calls at a fixed rate of one in 25 ms; a busy device draws 20 W, an idle one 5 W."""
    session, meter = FakeSession(), FakeMeter(counts=True)
    sensor = PowerSensor(False, find=lambda: [meter], clock=lambda: meter.now)
    pilot = pilot_of(session, rungs=measured(), watts=14.0, sensor=sensor)
    drawn = []
    for _ in range(2500):
        pilot.run(np.zeros(1, np.float32))
        busy = COSTS[session.ran[-1]] / 25
        meter.watts = 20 * busy + 5 * (1 - busy)
        meter.pass_time(0.025)
        drawn.append(meter.watts)
    assert sum(drawn[-500:]) / 500 == pytest.approx(14, rel=0.01)


def test_a_machine_without_a_meter_runs_the_floor(caplog: pytest.LogCaptureFixture) -> None:
    class Nothing(FakeMeter):
        def read(self, seconds: float) -> State:
            return State(seconds=seconds)

    sensor = PowerSensor(False, find=lambda: [Nothing(counts=False)])
    pilot = pilot_of(FakeSession(), watts=14.0, sensor=sensor, every=1)
    assert {pilot.choose() for _ in range(10)} == {"TT"}
    assert len(said(caplog)) == 1


# --- a real session


def test_detections_are_those_of_the_session(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    session = bundle.session(threads=1)
    images = np.random.default_rng(0).random((2, 3, *session.size), np.float32)
    caplog.set_level(logging.ERROR, "anydepth_deploy")
    pilot = ad.Pilot(session, target_ms=1e-3, batch=2)
    found, expected = pilot.run(images), session.run(images, "base")
    assert np.array_equal(found.boxes, expected.boxes)
    assert pilot.counters.rungs[str(session.table.space.base)].calls == 1
    pilot = ad.Pilot(session, target_ms=1e6, batch=2)
    began = time.perf_counter()
    for _ in range(4):
        found = pilot.run(images)
    assert pilot.counters.rungs[str(session.table.space.super)].calls >= 1
    total = sum(item.total_ms for item in pilot.counters.rungs.values())
    assert 0 < total <= 1000 * (time.perf_counter() - began)
    assert np.array_equal(found.scores, session.run(images, "super").scores)
