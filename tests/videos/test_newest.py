"""The newest frame each time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count

import pytest

from anydepth_deploy.videos.live import Newest


def live_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "anydepth-live"]


def test_old_items_are_let_go() -> None:
    wanted, made = threading.Semaphore(0), threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(7):
            wanted.acquire()
            yield number
            made.release()

    def make(more: int) -> None:
        for _ in range(more):
            wanted.release()
            made.acquire()  # it is in its place: the next one is asked for

    newest = Newest(items)
    found = iter(newest)
    make(1)
    assert next(found) == 0
    make(4)
    assert next(found) == 4  # 1 to 3 came meanwhile
    make(1)
    assert next(found) == 5
    wanted.release()
    assert list(found) == [6]
    assert live_threads() == []


def test_the_last_item_comes_before_the_error() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("gone")

    found = iter(Newest(items))
    assert next(found) == 1
    with pytest.raises(ValueError, match="gone"):
        next(found)
    assert live_threads() == []


def test_closed_early() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from count()
        finally:
            closed.set()

    newest = Newest(items)
    found = iter(newest)
    first = next(found)
    assert next(found) > first
    newest.close()
    assert closed.is_set()
    assert live_threads() == []
