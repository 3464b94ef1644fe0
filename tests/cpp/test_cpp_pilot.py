"""The pilot of the C++ library against the Python package's: the same decisions, words and counts
on the same trace, to the last bit."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from cpp_build import PATIENT, CppError, Probe, open_probe

from anydepth_deploy.control.controller import Controller
from anydepth_deploy.control.rungs import Rung, guessed_rungs
from anydepth_deploy.control.simulation import even_ladder, scenes
from anydepth_deploy.errors import UsageError

pytestmark = PATIENT


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


Step = dict[str, Any]


def trace_of(
    rungs: Sequence[Rung],
    calls: int,
    factor: Callable[[int, int], float],
    noise: float = 0.03,
    stray: float = 0.01,
    seed: int = 0,
    **more: Callable[[int], float | None],
) -> list[Step]:
    """What a call would take at each rung; ``more``: entries of a step, where not None."""
    draw = random.Random(seed)
    steps = []
    for call in range(calls):
        by = max(0.3, draw.gauss(1, noise)) * (4 if draw.random() < stray else 1)
        costs = {
            rung.depth: by * rung.milliseconds * factor(call, place)
            for place, rung in enumerate(rungs)
        }
        told = {name: value(call) for name, value in more.items()}
        steps.append(
            {"costs": costs, **{name: value for name, value in told.items() if value is not None}}
        )
    return steps


def flown(
    rungs: Sequence[Rung], options: dict[str, Any], trace: Sequence[Step], said: list[str]
) -> dict[str, Any]:
    """What the probe answers, of the Python package."""
    controller = Controller(rungs, **options)
    depths, reasons = [], []
    for step in trace:
        if "target" in step:
            controller.target_ms = step["target"]
        if "push" in step:
            controller.push(step["push"])
        depth = controller.choose(step.get("budget"))
        reasons.append(str(controller.explain()))
        controller.report(step["costs"][depth])
        depths.append(depth)
    counted = controller.counters
    by_rung = [[depth, item.calls, item.total_ms] for depth, item in counted.rungs.items()]
    return {
        "depths": depths,
        "reasons": reasons,
        "target": controller.target_ms,
        "counters": [counted.calls, counted.missed, counted.changes, by_rung],
        "said": said,
    }


LADDER = even_ladder(6, noise=0.03)
GUESSED = guessed_rungs([rung.depth for rung in LADDER], [50.0, 60.0, 80.0, 90.0, 95.0, 120.0])


def compare(
    probe: Probe,
    caplog: pytest.LogCaptureFixture,
    rungs: Sequence[Rung],
    options: dict[str, Any],
    trace: Sequence[Step],
) -> dict[str, Any]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        expected = flown(rungs, options, trace, [])
    expected["said"] = [record.getMessage() for record in caplog.records]
    given = [asdict(rung) for rung in rungs]
    found: dict[str, Any] = probe.call("pilot", rungs=given, options=options, trace=trace)
    assert found == expected
    return found


@pytest.mark.parametrize("policy", ["mean", "deadline"])
@pytest.mark.parametrize("percentile", [95, 99])
@pytest.mark.parametrize("rungs", [LADDER, GUESSED], ids=["measured", "guessed"])
def test_every_scene(
    probe: Probe,
    caplog: pytest.LogCaptureFixture,
    rungs: Sequence[Rung],
    policy: str,
    percentile: int,
) -> None:
    options = {"target_ms": 4.3, "policy": policy, "percentile": percentile}
    taken = set()
    for seed, scene in enumerate(scenes(LADDER)):
        trace = trace_of(LADDER, 400, scene.factor, scene.noise, seed=seed, target=scene.target)
        taken |= set(compare(probe, caplog, rungs, options, trace)["depths"])
    assert len(taken) > 2  # there was something to decide


def test_what_slows_down_what_is_guilty_and_what_nobody_reaches(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    def factor(call: int, rung: int) -> float:
        return (3 if 100 <= call < 200 else 1) * (2 if rung == 3 and call % 300 > 150 else 1)

    trace = trace_of(LADDER, 900, factor, seed=7)
    for policy in ("mean", "deadline"):
        found = compare(probe, caplog, LADDER, {"target_ms": 4.4, "policy": policy}, trace)
        assert "is below what rung0 takes now" in found["said"][0]
        assert any(" times what the ladder says" in reason for reason in found["reasons"])
        assert found["counters"][1] > 50
    odd = trace_of(LADDER, 300, lambda call, rung: 1.3 if rung == 5 else 1.0, seed=8)
    found = compare(probe, caplog, LADDER, {"target_ms": 5.5}, odd)
    assert any("rung5 takes 1." in reason for reason in found["reasons"])
    slow = trace_of(LADDER, 60, lambda call, rung: 4.0)
    found = compare(
        probe, caplog, LADDER, {"fps": 60.0, "floor": "rung1", "ceiling": "rung4"}, slow
    )
    assert "calls take 4" in found["said"][0]
    assert set(found["depths"]) <= {"rung1", "rung2", "rung3", "rung4"}


def test_budgets_of_single_calls_and_pushed_readings(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    trace = trace_of(
        LADDER,
        300,
        lambda call, rung: 1.0,
        budget=lambda call: 3.0 + call % 7 / 2 if call % 3 == 0 else None,
    )
    compare(probe, caplog, LADDER, {"target_ms": 4.0, "policy": "deadline"}, trace)
    compare(probe, caplog, LADDER, {"target_ms": 4.0}, trace)
    trace = trace_of(
        LADDER,
        1400,
        lambda call, rung: 1.0,
        push=lambda call: 9 + 4 * math.sin(call / 40) if call % 10 == 0 and call < 300 else None,
    )
    found = compare(probe, caplog, LADDER, {"target": 10.0}, trace)
    assert "has stopped to answer (nothing was pushed)" in found["said"][0]
    assert len(set(found["depths"])) > 2


ONE = [Rung("full", 5.0)]

REFUSED: list[tuple[Sequence[Rung], dict[str, Any]]] = [
    ([], {"target_ms": 4.0}),
    ([Rung("a", 1.0), Rung("a", 2.0)], {"target_ms": 4.0}),
    ([Rung("a", 1.0), Rung("b", 2.0, guessed=True)], {"target_ms": 4.0}),
    ([Rung("a", 0.0)], {"target_ms": 4.0}),
    ([Rung("a", 1.0, p95=-1.5)], {"target_ms": 4.0}),
    ([Rung("a", 1.0, p99=-1e-7)], {"target_ms": 4.0}),
    (ONE, {}),
    (ONE, {"target_ms": 4.0, "fps": 3.0}),
    (ONE, {"target_ms": 0.0}),
    (ONE, {"fps": -123456.789}),
    (ONE, {"target_ms": 4.0, "policy": "median"}),
    (ONE, {"target_ms": 4.0, "percentile": 50}),
    (ONE, {"target": 4.0, "policy": "deadline"}),
    (ONE, {"target_ms": 4.0, "floor": "b"}),
    (LADDER, {"target_ms": 4.0, "floor": "rung4", "ceiling": "rung2"}),
    (LADDER, {"target_ms": 2.0, "strict": True}),
    (LADDER, {"target_ms": 2.0, "strict": True, "policy": "deadline"}),
    (LADDER, {"target_ms": 9.0, "strict": True}),
    (GUESSED, {"target_ms": 4.0, "strict": True}),
]


@pytest.mark.parametrize(("rungs", "options"), REFUSED)
def test_the_same_words_of_what_is_refused(
    probe: Probe, rungs: Sequence[Rung], options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError) as expected:
        Controller(rungs, **options)
    given = [asdict(rung) for rung in rungs]
    with pytest.raises(CppError) as found:
        probe.call("pilot", rungs=given, options=options, trace=[])
    assert (found.value.kind, found.value.message) == ("UsageError", str(expected.value))


@pytest.mark.parametrize("cost", [0.0, -2.5])
def test_what_is_no_time_is_refused(probe: Probe, cost: float) -> None:
    controller = Controller(ONE, target_ms=4.0)
    controller.choose()
    with pytest.raises(UsageError) as expected:
        controller.report(cost)
    with pytest.raises(CppError) as found:
        probe.call(
            "pilot",
            rungs=[asdict(ONE[0])],
            options={"target_ms": 4.0},
            trace=[{"costs": {"full": cost}}],
        )
    assert found.value.message == str(expected.value)
