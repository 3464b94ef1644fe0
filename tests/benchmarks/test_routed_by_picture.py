"""Arithmetic of ``benchmarks/routed_by_picture.py``: COCO's own evaluation, finite differences and
brute force as oracles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from mixtures import Found, Mixtures, Objects
from numpy.typing import NDArray
from routers import ROUTERS, Mixing, choose, cross_validated, mean_cost, price_of

from anydepth_deploy.annotations.scoring import coco_stats

PICTURES, RUNGS, CLASSES = 40, 3, 3


def made(seed: int = 0) -> tuple[list[Objects], list[list[Found]]]:
    """Objects, and for each rung boxes near most of them and boxes anywhere."""
    rng = np.random.default_rng(seed)
    truth, found = [], [[] for _ in range(RUNGS)]  # type: tuple[list[Objects], list[list[Found]]]
    for _ in range(PICTURES):
        count = int(rng.integers(0, 6))
        boxes = np.column_stack([rng.uniform(0, 80, (count, 2)), rng.uniform(10, 40, (count, 2))])
        truth.append(Objects(boxes, rng.integers(0, CLASSES, count)))
        for rung, results in enumerate(found):
            near = boxes + rng.normal(0, 6 - 2 * rung, boxes.shape)
            other = np.column_stack([rng.uniform(0, 80, (8, 2)), rng.uniform(10, 40, (8, 2))])
            labels = np.concatenate([truth[-1].labels, rng.integers(0, CLASSES, 8)])
            scores = np.concatenate([rng.uniform(0.2, 1, count), rng.uniform(0, 0.6, 8)])
            results.append(Found(np.maximum(np.concatenate([near, other]), 1), labels, scores))
    return truth, found


def by_coco(
    truth: list[Objects], found: list[list[Found]], choice: NDArray[np.int64], times: list[int]
) -> float:
    """The same pictures, each as often as ``times`` says, in COCO's evaluation."""
    rows: list[NDArray[np.float64]] = []
    images: list[dict[str, int]] = []
    boxes: list[dict[str, object]] = []
    for place, count in enumerate(times):
        for _ in range(count):
            images.append({"id": len(images)})
            one = found[choice[place]][place]
            number = np.full(len(one.scores), images[-1]["id"])
            rows.append(np.column_stack([number, one.boxes, one.scores, one.labels]))
            for box, label in zip(truth[place].boxes, truth[place].labels, strict=True):
                boxes.append(
                    {
                        "id": len(boxes) + 1,
                        "image_id": images[-1]["id"],
                        "category_id": int(label),
                        "bbox": box.tolist(),
                        "area": float(box[2] * box[3]),
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": label, "name": str(label)} for label in range(CLASSES)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    return 100 * coco_stats(content, rows)[0]


def test_mixtures_have_the_precision_that_coco_gives_them() -> None:
    truth, found = made()
    mixtures = Mixtures(truth, found, CLASSES)
    rng = np.random.default_rng(1)
    for trial in range(6):
        choice = np.full(PICTURES, trial) if trial < RUNGS else rng.integers(0, RUNGS, PICTURES)
        weights = np.eye(RUNGS)[choice]
        expected = by_coco(truth, found, choice, [1] * PICTURES)
        assert mixtures.ap(weights) == pytest.approx(expected, abs=1e-9)
        times = np.bincount(rng.integers(0, PICTURES, PICTURES), minlength=PICTURES)
        expected = by_coco(truth, found, choice, times.tolist())
        assert mixtures.ap(weights, times) == pytest.approx(expected, abs=1e-9)
    assert 5 < expected < 95


def plain_precision(mixtures: Mixtures, weights: NDArray[np.float64]) -> float:
    """AP without interpolation, from its definition."""
    values = []
    for item in mixtures._classes:
        weight = weights.ravel()[item.cell]
        for hits in item.hits:
            value = sum(
                weight[hit] * weight[hits[hits <= hit]].sum() / weight[: hit + 1].sum()
                for hit in hits
            )
            values.append(value / item.objects.sum())
    return 100 * float(np.mean(values))


def test_gains_are_derivatives_of_precision() -> None:
    truth, found = made(2)
    mixtures = Mixtures(truth, found, CLASSES)
    weights = np.full((PICTURES, RUNGS), 1 / RUNGS)
    gains = mixtures.gains(weights)
    assert (gains[:, 0] == 0).all()
    step = 1e-6
    for picture, rung in itertools.product(range(0, PICTURES, 5), range(1, RUNGS)):
        moved = [weights.copy() for _ in range(2)]
        for sign, one in zip((1, -1), moved, strict=True):
            one[picture, rung] += sign * step
            one[picture, 0] -= sign * step
        high, low = (plain_precision(mixtures, one) for one in moved)
        expected = (high - low) / (2 * step) * PICTURES
        assert gains[picture, rung] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_prices_lead_to_costs_and_to_the_best_choice_of_that_cost() -> None:
    rng = np.random.default_rng(3)
    costs = np.array([1.0, 1.4, 2.0])
    gains = np.column_stack([np.zeros(8), rng.normal(1, 1, (8, 2))])
    for wanted in (1.2, 1.5, 1.8):
        chosen = choose(gains, costs, price_of(gains, costs, wanted))
        cost = mean_cost(chosen, costs)
        assert cost <= wanted
        every = np.array(list(itertools.product(range(3), repeat=8)))
        total = gains[np.arange(8), every].sum(axis=1)
        cheap = costs[every].mean(axis=1) <= cost + 1e-12
        assert (chosen * gains).sum() == pytest.approx(total[cheap].max())
    assert price_of(gains, costs, 5.0) == 0


def test_mixing_is_on_the_upper_edge() -> None:
    costs, scores = np.array([1.0, 2, 3, 4, 5]), np.array([10.0, 11, 15, 15.5, 15.4])
    mixing = Mixing(costs, scores)
    assert mixing.edge == [0, 2, 3]
    for cost in (1.0, 1.5, 2.9, 3.0, 3.25, 4.0):
        shares = mixing.shares(cost)
        pairs = itertools.combinations(range(5), 2)
        best = max(
            scores[a] + (scores[b] - scores[a]) * (cost - costs[a]) / (costs[b] - costs[a])
            for a, b in pairs
            if costs[a] <= cost <= costs[b]
        )
        assert shares @ costs == pytest.approx(cost)
        assert shares @ scores == pytest.approx(best)
        drawn = mixing.draw(cost, 4000, np.random.default_rng(0))
        assert drawn.mean(axis=0) == pytest.approx(shares, abs=1e-3)
    one, other = (mixing.draw(1.5, 400, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("router", ROUTERS)
def test_routers_learn_what_features_tell_and_nothing_else(router: str) -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(600, 5))
    told = np.column_stack([np.zeros(600), features[:, 0] + 1, 2 * features[:, 1]])
    noisy = told + rng.normal(0, 1, told.shape) * np.array([0.0, 1, 1])
    predicted = cross_validated(ROUTERS[router], features, noisy)
    assert ((predicted - told) ** 2).mean() < 0.1 * told.var(axis=0).mean()
    chance = rng.normal(0, 1, (600, 2))
    nothing = cross_validated(ROUTERS[router], features, chance)
    assert np.var(nothing) < 0.05
