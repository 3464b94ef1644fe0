"""How many images the router has under way at once."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from anydepth_deploy.serve.models.places import Places


def test_who_finds_no_place_waits() -> None:
    places = Places(4)
    assert places.take(3) == 3
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(places.take(2)))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    places.give(1)
    thread.join(10)
    assert taken == [2]


@pytest.mark.parametrize(("images", "taken"), [(1, 1), (4, 4), (5, 4), (10**9, 4), (0, 1)])
def test_more_images_than_places_take_all(images: int, taken: int) -> None:
    places = Places(4)
    assert places.take(images) == taken
    places.give(taken)
    assert places.take(4) == 4


def test_who_does_not_wait_is_told() -> None:
    places = Places(4)
    assert places.try_take(3) == 3
    assert places.try_take(2) == 0
    assert places.try_take(1) == 1
    assert places.try_take(0) == 0
    places.give(4)
    assert places.try_take(9) == 4


def test_there_are_never_more_under_way() -> None:
    places, lock = Places(5), threading.Lock()
    now = most = 0

    def work(taken: int) -> None:
        nonlocal now, most
        with lock:
            now += taken
            most = max(most, now)
        time.sleep(0.0005)
        with lock:
            now -= taken
        places.give(taken)

    draw = random.Random(0)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(200):  # one thread asks, as Triton calls `execute`
            pool.submit(work, places.take(draw.randrange(1, 7)))
    assert now == 0
    assert most == 5
