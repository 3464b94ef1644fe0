"""Arithmetic of ``benchmarks/triton_shedding.py``, without a server."""

from __future__ import annotations

import random

import numpy as np
import pytest
from triton_auto import Load, poisson
from triton_shedding import REFUSED, OpenLoad, summary
from tritonclient.utils import InferenceServerException


def test_requests_are_counted_once() -> None:
    answers = [(10.0, 0), (20.0, 2), (31.0, 2), (30.0, 5), (1.0, REFUSED), (2.0, REFUSED)]
    assert summary(answers, 30.0, [0, 2, 5]) == {
        "requests": 6,
        "refused_percent": 33.3,
        "late_percent": 16.7,
        "median_ms": 25.0,
        "p95_ms": 30.85,
        "levels_percent": [25.0, 50.0, 25.0],
    }


def test_nothing_answered() -> None:
    found = summary([(1.0, REFUSED)], 30.0, [0, 1])
    assert found["refused_percent"] == 100
    assert found["median_ms"] is found["p95_ms"] is None
    assert found["levels_percent"] == [0, 0]


def test_moments_are_random_ones_at_their_rate() -> None:
    """Gaps of a Poisson process have a mean and a deviation of one over the rate."""
    moments = poisson(random.Random(3), 50.0, 400.0)
    gaps = np.diff([0.0, *moments])
    assert moments[0] > 0
    assert moments[-1] < 400
    assert len(moments) == pytest.approx(20_000, rel=0.03)
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(0.02, rel=0.03)
    assert gaps.std() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("status", "row"), [("StatusCode.UNAVAILABLE", REFUSED), ("StatusCode.INTERNAL", None)]
)
def test_only_a_full_router_refuses(
    status: str, row: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Load, parameters: dict[str, str]) -> int:
        raise InferenceServerException("no", status=status)

    monkeypatch.setattr(Load, "row", fails)
    load = object.__new__(OpenLoad)
    if row is None:
        with pytest.raises(InferenceServerException):
            load.row({})
    else:
        assert load.row({}) == row
