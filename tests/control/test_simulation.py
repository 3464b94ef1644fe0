"""The goals, on made-up devices; benchmarks/pilot_simulated.py has every ladder and target."""

from __future__ import annotations

import pytest

from anydepth_deploy.control.simulation import Run, Scene, even_ladder, scenes, simulate
from anydepth_deploy.errors import UsageError

LADDER = even_ladder(5, noise=0.02)


@pytest.mark.parametrize("name", [scene.name for scene in scenes(LADDER)])
def test_the_mean_of_sixty_calls_is_off_by_less_than_two_percent(name: str) -> None:
    for place in (0.0, 0.6, 1.0):
        scene = next(item for item in scenes(LADDER, place) if item.name == name)
        assert simulate(scene, LADDER, seed=1).mean_error() < 0.02


@pytest.mark.parametrize("name", ["constant", "noise", "step", "sawtooth", "drift"])
def test_deadlines_are_met_by_ninety_five_percent(name: str) -> None:
    scene = next(item for item in scenes(LADDER) if item.name == name)
    assert simulate(scene, LADDER, "deadline").late < 0.05


def test_a_ladder_that_is_wrong_is_learned() -> None:
    scene = Scene("wrong", lambda t: 4.2, calls=600)
    guess = even_ladder(5, base=1.0, top=9.0)
    assert simulate(scene, LADDER, guess=guess).mean_error() < 0.02


def test_a_fixed_rung_is_what_it_costs() -> None:
    scene = Scene("still", lambda t: 4.0, noise=0.0, calls=80)
    run = simulate(scene, LADDER, fixed=4)
    assert run.mean_error() == pytest.approx(5.2 / 4 - 1)
    assert (run.late, run.changes()) == (1, 0)


def test_windows_are_those_of_brute_force() -> None:
    run = Run([1.0, 2.0, 3.0], [0, 1, 1], [2.0, 2.0, 4.0])
    assert run.window_errors(2) == pytest.approx([4 / 3 - 1, 6 / 5 - 1])
    assert run.changes() == 1
    with pytest.raises(UsageError, match="3 calls have no window of 60"):
        run.mean_error()
