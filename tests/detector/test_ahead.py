"""Work ahead of whoever takes the results: in order, within bounds, without threads left."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator

import pytest

from anydepth_deploy.detector.ahead import mapped


def ours() -> list[str]:
    return [item.name for item in threading.enumerate() if item.name.startswith("anydepth-")]


@pytest.mark.parametrize(("ahead", "workers"), [(0, 1), (1, 1), (3, 2), (8, 4), (50, 4)])
def test_order_is_kept(ahead: int, workers: int) -> None:
    rng = random.Random(ahead)

    def slow(item: int) -> int:
        time.sleep(rng.random() / 500)
        return item * item

    assert list(mapped(slow, range(40), ahead, workers)) == [n * n for n in range(40)]
    assert list(mapped(slow, [], ahead, workers)) == []
    assert ours() == []


def test_without_ahead_nothing_is_taken_early() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(9):
            taken.append(number)
            yield number

    found = mapped(str, items(), 0)
    assert taken == []
    assert next(found) == "0"
    assert taken == [0]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_never_more_than_that_many_ahead(ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    found = mapped(lambda item: item, items(), ahead, 2)
    for number in range(20):
        assert next(found) == number
        deadline = time.monotonic() + 5
        while len(taken) < number + 1 + ahead and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.005)
        assert len(taken) == number + 1 + ahead
    found.close()  # type: ignore[attr-defined]
    assert ours() == []


@pytest.mark.parametrize("ahead", [0, 1, 4])
@pytest.mark.parametrize("where", ["items", "function"])
def test_errors_come_in_their_place(ahead: int, where: str) -> None:
    def items() -> Iterator[int]:
        for number in range(10):
            if number == 6 and where == "items":
                raise ValueError("six")
            yield number

    def function(item: int) -> int:
        if item == 6:
            raise ValueError("six")
        return item

    found = mapped(function, items(), ahead, 2)
    assert list(itertools.islice(found, 6)) == list(range(6))
    with pytest.raises(ValueError, match="six"):
        next(found)
    assert list(found) == []
    assert ours() == []


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("how", ["close", "drop", "error"])
def test_ended_early(ahead: int, how: str) -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    found = mapped(lambda item: item, items(), ahead, 2)
    assert next(found) == 0
    if how == "close":
        found.close()  # type: ignore[attr-defined]
    elif how == "error":
        with pytest.raises(KeyError):
            found.throw(KeyError("mine"))  # type: ignore[attr-defined]
    del found
    assert closed.is_set()
    assert ours() == []


def test_they_run_at_the_same_time() -> None:
    """Two that wait for each other."""
    barrier = threading.Barrier(2, timeout=10)
    assert list(mapped(lambda item: barrier.wait() >= 0, range(8), 4, 2)) == [True] * 8
