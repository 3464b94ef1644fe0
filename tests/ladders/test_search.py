"""The front of times and scores: against brute force over all pairs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy.depth import Depth, DepthSpace, DepthTable, Gate
from anydepth_deploy.ladders.search import dominated, gains_of, pareto, rungs_of, search
from anydepth_deploy.ladders.terms import terms_of

SPACE = DepthSpace(
    (*(Gate(f"layer{n}", 0) for n in range(1, 5)), Gate("encoder", 1), Gate("decoder", 2, 3)),
    (1, 1, 1, 1, 1, 2),
)
TABLE = DepthTable(SPACE, (SPACE.base, SPACE.super))
BASE, SUPER = SPACE.base, SPACE.super

Points = dict[Depth, tuple[float, float]]


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def brute_force(points: Points) -> set[tuple[float, float]]:
    """The points that no other beats, by looking at all pairs."""
    return {
        point
        for point in points.values()
        if not any(beats(rival, point) for rival in points.values())
    }


@st.composite
def points(draw: st.DrawFn) -> Points:
    """Base, super and some others, on a grid so coarse that many are equal."""
    chosen = draw(st.lists(st.sampled_from(SPACE.every), max_size=14, unique=True))
    value = st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(float))
    return {depth: draw(value) for depth in dict.fromkeys([*chosen, BASE, SUPER])}


@examples(300)
@given(found=points())
def test_fronts_equal_brute_force(found: Points) -> None:
    front = pareto(found)
    assert {found[depth] for depth in front} == brute_force(found)
    assert len({found[depth] for depth in front}) == len(front)  # of equal ones, one
    assert [found[depth] for depth in front] == sorted(found[depth] for depth in front)


@examples(300)
@given(found=points())
def test_rungs_are_what_nothing_measured_beats_between_base_and_super(found: Points) -> None:
    rungs = rungs_of(BASE, SUPER, found)
    assert (rungs[0], rungs[-1]) == (BASE, SUPER)
    inside = {point for point in brute_force(found) if found[BASE][0] < point[0] < found[SUPER][0]}
    assert {found[depth] for depth in rungs[1:-1]} == inside
    for below, above in itertools.pairwise(rungs[:-1]):
        assert found[below][0] < found[above][0]
        assert found[below][1] < found[above][1]
    beaten = {
        depth
        for depth in (BASE, SUPER)
        if any(beats(point, found[depth]) for point in found.values())
    }
    assert beaten <= set(dominated(rungs, found)) <= {BASE, SUPER}


@examples(100)
@given(found=points())
def test_slack_keeps_what_is_beaten_by_little(found: Points) -> None:
    near = set(pareto(found, 0.2))
    assert {found[depth] for depth in pareto(found)} <= {found[depth] for depth in near}
    for depth, (time, score) in found.items():
        far = any(t <= 0.8 * time and s >= score for t, s in found.values())
        assert (depth in near) is not far


def test_a_network_of_one_depth() -> None:
    space = DepthSpace((), ())
    only = space.super
    assert rungs_of(only, only, {only: (3.0, 50.0)}) == [only]
    table = DepthTable(space, (only,))
    scores = FakeScores({only: 50.0})
    assert search(table, {only: 3.0}, scores, most=8) == {only: 50.0}  # type: ignore[arg-type]


class FakeScores:
    """Scores that are known beforehand; counts what was asked for."""

    def __init__(self, truth: Mapping[Depth, float]) -> None:
        self.truth, self.known = truth, dict[Depth, float]()

    def measure(self, depths: Sequence[Depth], progress: Any = None) -> None:
        self.known.update((depth, self.truth[depth]) for depth in depths)


def truth(interaction: float) -> tuple[dict[Depth, float], dict[Depth, float]]:
    """Times, and scores that are a sum but for what two gates gain together."""
    cost = {"layer1": 3, "layer2": 1, "layer3": 2, "layer4": 4, "encoder": 12}
    gain = {"layer1": 2.0, "layer2": 0.0, "layer3": 1.5, "layer4": 0.2, "encoder": 6.0}
    times, scores = dict[Depth, float](), dict[Depth, float]()
    for depth in SPACE.every:
        runs = {term.name for term in terms_of(SPACE) if term.runs(depth)}
        layers = depth.settings[-1]
        times[depth] = 20 + 2 * layers + sum(cost[name] for name in runs if name in cost)
        scores[depth] = 60 + (0, 0, 5, 6)[layers] + sum(gain.get(name, 0) for name in runs)
        scores[depth] += interaction * ({"layer1", "layer4"} <= runs)
    return times, scores


@pytest.mark.parametrize("interaction", [0.0, 0.7, -0.7])
def test_the_search_measures_the_true_front(interaction: float) -> None:
    times, true = truth(interaction)
    scores = FakeScores(true)
    search(TABLE, times, scores, most=96)  # type: ignore[arg-type]
    inside = {
        depth: (time, true[depth])
        for depth, time in times.items()
        if times[BASE] < time < times[SUPER] or depth in (BASE, SUPER)
    }
    measured = {depth: inside[depth] for depth in inside if depth in scores.known}
    assert brute_force(measured) == brute_force(inside)
    assert len(scores.known) < len(SPACE.every) / 2


def test_the_search_stops_at_so_many() -> None:
    times, true = truth(0.7)
    scores = FakeScores(true)
    search(TABLE, times, scores, most=5)  # type: ignore[arg-type]
    assert len(scores.known) == 2 + 7 + 7  # base, super and those beside them come first


def test_gains_are_differences_of_pairs() -> None:
    times, true = truth(0.7)
    found = {gain.name: gain for gain in gains_of(TABLE, times, true)}
    assert found["encoder"].at_super == pytest.approx(6)
    assert found["layer1"].at_super == pytest.approx(2.7)
    assert found["layer1"].at_base == pytest.approx(2)
    assert found["layer2"].milliseconds == 1
    assert found["decoder layer 3"].at_super == pytest.approx(1)
    assert found["decoder layer 2"].at_base == pytest.approx(5)
    assert [name for name, gain in found.items() if gain.nothing(0.1)] == ["layer2"]
    only = gains_of(TABLE, times, {SUPER: 70.0})
    assert not any(gain.nothing(0.1) for gain in only)
    assert SimpleNamespace(**vars(only[0])).at_super is None
