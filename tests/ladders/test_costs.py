"""Times of all depths from a few: against sums that are known, on rounds that drift."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth, DepthSpace, DepthTable, Gate
from anydepth_deploy.ladders import costs as costs_module
from anydepth_deploy.ladders.costs import (
    CHECKS,
    medians,
    noise_of,
    plan_costs,
    time_depths,
    time_stages,
)
from anydepth_deploy.ladders.terms import between, fit, one_off, terms_of
from anydepth_deploy.manifest import Condition, StagePiece

DETR = DepthSpace(
    (*(Gate(f"layer{n}", 0) for n in range(1, 5)), Gate("encoder", 1), Gate("decoder", 2, 6)),
    (1, 1, 1, 1, 1, 4),
)
YOLO = DepthSpace(tuple(Gate(f"layer{n}", 0) for n in range(8)), (1,) * 8)
SPACES = {"detr": DETR, "yolo": YOLO}


def table_of(space: DepthSpace) -> DepthTable:
    return DepthTable(space, (space.base, space.super))


def truth(space: DepthSpace) -> dict[Depth, float]:
    """Milliseconds that are a sum: 10, and 1 to n for each term that runs."""
    terms = terms_of(space)
    return {
        depth: 10.0 + sum(1 + place for place, term in enumerate(terms) if term.runs(depth))
        for depth in space.every
    }


@pytest.mark.parametrize("name", SPACES)
def test_a_sum_is_found_from_the_depths_that_are_timed(name: str) -> None:
    space = SPACES[name]
    took = truth(space)
    plan = plan_costs(table_of(space), space.every)
    assert not plan.whole
    assert {space.base, space.super} <= set(plan.timed)
    assert len(plan.checks) == CHECKS
    assert not set(plan.checks) & set(plan.timed)
    assert len(plan.timed) < len(space.every) / 4
    model = fit(terms_of(space), {depth: took[depth] for depth in plan.timed}, relative=True)
    for depth in space.every:
        assert model.at(depth) == pytest.approx(took[depth])


def test_few_depths_are_all_timed() -> None:
    chosen = (*DETR.every[:9], DETR.base)
    plan = plan_costs(table_of(DETR), chosen)
    assert (plan.whole, plan.timed, plan.checks) == (True, chosen, ())


def test_one_depth() -> None:
    space = DepthSpace((), ())
    plan = plan_costs(DepthTable(space, (space.super,)), space.every)
    assert (plan.whole, plan.timed) == (True, (space.super,))


def test_depths_beside_and_between() -> None:
    beside = one_off(DETR, DETR.super)
    assert len(beside) == 5 + 5
    for depth in beside:
        settings = zip(depth.settings, DETR.super.settings, strict=True)
        assert sum(one != other for one, other in settings) == 1
    inside = [depth for depth in DETR.every if between(DETR, depth)]
    assert len(inside) == 2**5 * 3
    assert {depth.settings[-1] for depth in inside} == {4, 5, 6}


def test_medians_leave_out_what_hits_a_whole_round() -> None:
    """Rounds that take up to five times as long, and single calls that do."""
    rng = np.random.default_rng(0)
    own = np.array([2.0, 3.0, 5.0, 2.1])
    pace = np.concatenate([np.ones(21), rng.uniform(1, 5, 20)])
    table = own[:, None] * pace * rng.uniform(0.99, 1.01, (4, 41))
    table[2, ::9] *= 7
    found = medians(dict(zip("abcd", table, strict=True)))
    shares = np.array([found[key] for key in "abcd"]) / found["a"]
    assert shares == pytest.approx(own / own[0], rel=0.02)


def test_noise_is_what_halves_of_the_rounds_differ_by() -> None:
    """Drift that hits all alike is none, and what one of many does shows little."""
    drift = np.linspace(1, 4, 20)
    values = zip("abcde", (2.0, 3.0, 5.0, 7.0, 2.5), strict=True)
    took = {name: value * drift for name, value in values}
    assert noise_of(took) == pytest.approx(0, abs=1e-9)
    jumps = np.tile([1.0, 1.1], 10)
    assert noise_of({**took, "a": took["a"] * jumps}) == pytest.approx(0, abs=1e-9)
    loud = {"a": jumps, "b": jumps[::-1], "c": jumps**0.5, "d": jumps[::-1] ** 0.5}
    found = noise_of({name: took[name] * loud.get(name, 1) for name in took})
    assert found == pytest.approx(100 * (1.1**0.5 - 1), abs=1.5)


def given_times(monkeypatch: pytest.MonkeyPatch, took: Mapping[Depth, float], noise: float) -> None:
    """Calls take what ``took`` says, in rounds that drift; nothing is waited for."""
    rng = np.random.default_rng(1)

    def interleave(
        calls: Mapping[Any, Callable[[], object]], *, repeats: int, **_: Any
    ) -> dict[Any, NDArray[np.float64]]:
        pace = np.linspace(1, 3, repeats)
        return {key: took[key] / 1e3 * pace * rng.normal(1, noise, repeats) for key in calls}

    monkeypatch.setattr(costs_module, "interleave", interleave)


@pytest.mark.parametrize("name", SPACES)
def test_the_error_at_unseen_depths_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACES[name]
    took = truth(space)
    given_times(monkeypatch, took, 0.02)
    plan = plan_costs(table_of(space), space.every)
    found = time_depths(table_of(space), space.every, plan, lambda _: None, rounds=30)
    assert found.method == "depths"
    assert set(found.predicted) == set(space.every)
    assert [depth for depth, _, _ in found.checks] == list(plan.checks)
    assert found.error is not None
    assert found.error < 1
    assert found.noise is not None
    assert 0 < found.noise < 2
    # What is not a sum shows: one of the checks takes twice as long together with another gate.
    spoilt = {depth: 2 * value if depth in plan.checks else value for depth, value in took.items()}
    given_times(monkeypatch, spoilt, 0.02)
    found = time_depths(table_of(space), space.every, plan, lambda _: None, rounds=30)
    assert found.error == pytest.approx(50, abs=2)


def test_what_is_timed_whole_is_not_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = (*DETR.every[:5], DETR.base)
    given_times(monkeypatch, truth(DETR), 0.0)
    plan = plan_costs(table_of(DETR), chosen)
    found = time_depths(table_of(DETR), chosen, plan, lambda _: None, rounds=5)
    assert (found.method, found.error) == ("all", None)
    assert set(found.predicted) == set(chosen)


def test_pieces_are_timed_in_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only pieces, and a constant between them, move on."""
    space = DepthSpace((Gate("one", 0), Gate("two", 0), Gate("decoder", 1, 3)), (1, 1, 1))
    took = {"stem": 3.0, "one.f": 5.0, "one.t": 2.0, "both": 7.0, "decoder2": 1.5, "decoder3": 2.5}
    when = {
        "stem": [],
        "one.f": [Condition(gate=0, runs=True)],
        "one.t": [Condition(gate=0, runs=False)],
        "both": [Condition(gate=0, runs=True), Condition(gate=1, runs=True)],
        "decoder2": [Condition(gate=2, layer=2, runs=True)],
        "decoder3": [Condition(gate=2, layer=3, runs=True)],
    }
    pieces = {
        name: StagePiece(
            order=place, total=6, stage=name, variant="full", when=asked, reads={}, writes={}
        )
        for place, (name, asked) in enumerate(when.items())
    }
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def observe(depth: Depth, see: Callable[[str, Any], None]) -> None:
        for name, piece in pieces.items():
            if piece.runs(depth):
                now[0] += took[name] / 1e3
                see(name, {})

    def call(depth: Depth) -> None:
        observe(depth, lambda *_: None)
        now[0] += 0.004

    def interleave(
        calls: Mapping[Any, Callable[[], object]], *, repeats: int, warmup: int, **_: Any
    ) -> dict[Any, NDArray[np.float64]]:
        found: dict[Any, list[float]] = {key: [] for key in calls}
        for _round in range(warmup + repeats):
            for key, make in calls.items():
                began = now[0]
                make()
                found[key].append(now[0] - began)
        return {key: np.asarray(values[warmup:]) for key, values in found.items()}

    monkeypatch.setattr(costs_module, "interleave", interleave)
    checks = space.every[3:5]
    found = time_stages(space.every, pieces, checks, observe, call, rounds=5)
    assert found.method == "stages"
    assert found.error == pytest.approx(0, abs=1e-6)
    for depth in space.every:
        expected = 4 + sum(took[name] for name, piece in pieces.items() if piece.runs(depth))
        assert found.predicted[depth] == pytest.approx(expected)
    assert found.parts == pytest.approx({**took, "between": 4.0})
