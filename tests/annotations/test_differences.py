"""How far apart two depths are in a picture: against the definition, written out in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anydepth_deploy.annotations.differences import difference

Row = tuple[float, float, float, float, float, int]
"""x, y, width, height, score, category."""


def rows(*items: Row) -> NDArray[np.float64]:
    return np.array([(7, *item) for item in items], np.float64).reshape(-1, 7)


def plain_iou(a: Row, b: Row) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def plain_difference(first: list[Row], second: list[Row]) -> float:
    """The definition of docs/evaluation.md."""
    left = [item for item in first if item[4] >= 0.3]
    right = [item for item in second if item[4] >= 0.3]
    total = 0.0
    while True:
        pairs = [
            (plain_iou(a, b), i, j)
            for i, a in enumerate(left)
            for j, b in enumerate(right)
            if a[5] == b[5] and plain_iou(a, b) >= 0.5
        ]
        if not pairs:
            break
        overlap, i, j = max(pairs)
        one, other = (left.pop(i)[4] - 0.3) / 0.7, (right.pop(j)[4] - 0.3) / 0.7
        total += abs(one - other) + min(one, other) * (1 - overlap)
    return total + sum((item[4] - 0.3) / 0.7 for item in left + right)


@pytest.mark.parametrize("seed", range(20))
def test_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects = rng.uniform([0, 0, 20, 20], [60, 60, 60, 60], (6, 4))

    def look() -> list[Row]:
        found: list[Row] = []
        for box in np.repeat(objects, 2, axis=0)[rng.random(12) < 0.7]:
            x, y, w, h = box + rng.normal(0, 4, 4)
            found.append((x, y, w, h, rng.uniform(0.1, 1), int(rng.integers(1, 3))))
        return found

    first, second = look(), look()
    found = difference(rows(*first), rows(*second))
    assert found.weight == pytest.approx(plain_difference(first, second))
    assert difference(rows(*second), rows(*first)).weight == pytest.approx(found.weight)
    assert found.matched_first.sum() == found.matched_second.sum()


def test_what_it_means() -> None:
    box: Row = (10, 10, 40, 40, 1.0, 1)
    same = difference(rows(box), rows(box))
    assert same.weight == 0
    assert same.matched_first.all()
    assert same.matched_second.all()
    assert difference(rows(box), rows()).weight == 1
    assert difference(rows(), rows()).weight == 0
    assert difference(rows(box), rows((*box[:5], 2))).weight == 2  # another class
    assert difference(rows((10, 10, 40, 40, 0.3, 1)), rows()).weight == 0  # nothing jumps
    assert difference(rows((10, 10, 40, 40, 0.29, 1)), rows()).first.shape == (0, 7)
    assert difference(rows((0, 0, 0, 0, 0.9, 1)), rows((0, 0, 0, 0, 0.9, 1))).weight > 1  # no area
