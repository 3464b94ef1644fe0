"""Cliffs: found where scores were made to fall, named by the stage, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth, DepthSpace, DepthTable, Gate
from anydepth_deploy.ladders.diagnose import (
    depths_between,
    explained_by,
    find_cliffs,
    losses_of,
    usual_tolerance,
)
from anydepth_deploy.ladders.features import stage_distance
from anydepth_deploy.ladders.terms import Term, between

SPACE = DepthSpace(
    (*(Gate(f"layer{n}", 0) for n in range(1, 5)), Gate("encoder", 1), Gate("decoder", 2, 6)),
    (1, 1, 1, 1, 1, 4),
)
TABLE = DepthTable(SPACE, (SPACE.base, SPACE.super))
LOSS = {"layer1": 0.5, "layer2": 0.3, "layer3": 0.2, "layer4": 1.0, "encoder": 4.0}


def scores(spoil: Callable[[Depth], float] = lambda _: 0.0) -> dict[Depth, float]:
    """Of the depths between base and super: a sum, half a point up or down by chance, less what
    ``spoil`` takes away."""
    rng = np.random.default_rng(0)
    found = {}
    for depth in filter(lambda depth: between(SPACE, depth), SPACE.every):
        skipped = [
            gate.name for gate, value in zip(SPACE.gates, depth.settings, strict=True) if value
        ]
        total = 75 - sum(LOSS.get(name, 0) for name in skipped) - 0.4 * (6 - depth.settings[-1])
        found[depth] = total + rng.uniform(-0.5, 0.5) - spoil(depth)
    return found


def cliffs(known: Mapping[Depth, float]) -> list[Any]:
    losses = losses_of(TABLE, known)
    explained = {depth: explained_by(TABLE, losses, known, depth) for depth in known}
    return find_cliffs(TABLE, known, explained, 3.0)


def test_a_sum_has_no_cliffs() -> None:
    known = scores()
    assert cliffs(known) == []
    losses = losses_of(TABLE, known)
    assert losses["encoder"] == pytest.approx(4, abs=1)
    assert losses["decoder"] == pytest.approx(0.8, abs=1)
    mixed = SPACE.parse("FTFF-T-5")
    assert explained_by(TABLE, losses, known, mixed) == pytest.approx(
        known[SPACE.super] - losses["layer2"] - losses["encoder"] - losses["decoder"] / 2
    )


def test_a_stage_that_fits_the_others_only_at_both_ends_is_named() -> None:
    """Layer 1 taken and skipped is not the same to layer 2: both ends are as good as ever."""

    def spoil(depth: Depth) -> float:
        return 30.0 * (depth.settings[0] != depth.settings[1])

    known = scores(spoil)
    found = cliffs(known)
    assert {cliff.depth for cliff in found} == {depth for depth in known if spoil(depth)}
    assert {cliff.stage for cliff in found} <= {"layer1", "layer2"}
    for cliff in found:
        assert cliff.fall > 25
        below = cliff.below
        if below is not None:  # does less and scores more
            assert known[below] - known[cliff.depth] == pytest.approx(cliff.fall)
            assert all(
                mine >= theirs
                for mine, theirs in zip(below.settings[:5], cliff.depth.settings[:5], strict=True)
            )


def test_stages_that_fail_together_only() -> None:
    """Each loss alone is small, so that only adding up tells."""

    def spoil(depth: Depth) -> float:
        return 12.0 * (depth.settings[2] == depth.settings[3] == 1 and depth.settings[0] == 0)

    known = scores(spoil)
    found = cliffs(known)
    assert {cliff.depth for cliff in found} == {depth for depth in known if spoil(depth)}
    assert {cliff.stage for cliff in found} <= {"layer1", "layer3", "layer4"}


@pytest.mark.parametrize("seed", range(12))
def test_few_scored_depths_of_many_name_the_same_stages(seed: int) -> None:
    """Of 256 depths a tenth is scored, so that most have no neighbour among them, or one that is as
    bad."""
    space = DepthSpace(tuple(Gate(f"layer{n}", 0) for n in range(8)), (1,) * 8)
    table = DepthTable(space, (space.base, space.super))
    rng = np.random.default_rng(seed)
    one, other = rng.choice(8, 2, replace=False)
    known = {}
    for depth in depths_between(table, space.every, most=26, seed=seed):
        apart = depth.settings[one] != depth.settings[other]
        known[depth] = 75 - 0.4 * sum(depth.settings) + rng.uniform(-0.3, 0.3) - 30 * apart
    losses = losses_of(table, known)
    explained = {depth: explained_by(table, losses, known, depth) for depth in known}
    found = find_cliffs(table, known, explained, 3.0)
    assert {cliff.depth for cliff in found} == {
        depth for depth in known if depth.settings[one] != depth.settings[other]
    }
    named = {name for cliff in found for name in cliff.stage.split(" and ")}
    assert named == {f"layer{one}", f"layer{other}"}


def test_a_sample_begins_with_what_adding_up_needs() -> None:
    chosen = depths_between(TABLE, SPACE.every, most=20)
    assert len(chosen) == len(set(chosen)) == 20
    assert chosen[:2] == [SPACE.super, SPACE.base]
    assert all(between(SPACE, depth) for depth in chosen)
    known = dict.fromkeys(chosen, 1.0)
    assert list(losses_of(TABLE, known)) == [gate.name for gate in SPACE.gates]
    assert set(depths_between(TABLE, SPACE.every, most=1000)) == set(scores())
    assert chosen == depths_between(TABLE, SPACE.every, most=20)
    assert chosen != depths_between(TABLE, SPACE.every, most=20, seed=1)


class FakeSession:
    """A chain of three pieces: the second is twice as large where it is skipped, turned by a known
    angle; the third halves what it is given."""

    def __init__(self, skipped: Depth) -> None:
        self.skipped = skipped

    def observe(
        self,
        images: NDArray[np.float32],
        depth: Depth,
        see: Callable[[str, Mapping[str, NDArray[Any]]], None],
    ) -> None:
        see("stem", {"stem": images})
        maps = np.zeros((len(images), 2, 4, 6), np.float32)
        maps[:, 0] = images[:, 0]
        if depth == self.skipped:
            maps = 2 * np.stack([0.6 * maps[:, 0], 0.8 * maps[:, 0]], axis=1)
        see("stage", {"stage/8": maps})
        see("head", {"raw": maps[:, :, 0] / 2, "count": np.array([int(depth == self.skipped)])})
        see("post", {"scores": np.random.default_rng().random(3, np.float32)})


def test_distances_of_features_are_those_of_vectors() -> None:
    skipped = SPACE.parse("FTFF-F-6")
    batches = [np.full((n, 3, 4, 6), n, np.float32) for n in (1, 3)]
    found = stage_distance(
        FakeSession(skipped),  # type: ignore[arg-type]
        Term("layer2", 1),
        SPACE.super,
        skipped,
        batches,
    )
    (own,), (behind,) = found.own, found.behind
    assert (own.piece, own.size, behind.piece, behind.size) == ("stage", (4, 6), "head", ())
    for item in (own, behind):
        assert item.cosine == pytest.approx(0.6)
        assert item.norms == pytest.approx(2)
        assert item.distance == pytest.approx(np.hypot(1 - 1.2, 1.6))
    assert found.growth == pytest.approx(1)
    same = stage_distance(
        FakeSession(skipped),  # type: ignore[arg-type]
        Term("layer2", 1),
        SPACE.super,
        SPACE.super,
        batches,
    )
    assert (same.own, same.behind, same.growth) == ((), (), 0)


@pytest.mark.parametrize(("base", "expected"), [(69.0, 3.0), (60.0, 5.0), (3.0, 15.0), (80.0, 3.0)])
def test_a_base_that_finds_nothing_excuses_nothing(base: float, expected: float) -> None:
    assert usual_tolerance(base, 70.0) == expected
