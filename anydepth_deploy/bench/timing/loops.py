"""The loops that make calls and note when: closed (the next when the last is done) and open (when
requests are due, whether anybody is ready or not).

Nothing but the call lies between the two looks at the clock. What is noted of a call is five
integers, so memory grows with the samples and with nothing else.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.timing.clock import Clock

__all__ = ["Call", "Log", "Pause", "closed_loop", "on_streams", "open_loop"]

Call = Callable[[int], object]
"""Runs one of the inputs, by its index, and returns when the result is there."""

Pause = Callable[[int | None], None]
"""Called between calls for whatever else has to be done, with the nanoseconds that are left until
the next request is due; None where nobody waits."""

POLL_S = 0.05


class Log:
    """What one stream did."""

    def __init__(self) -> None:
        self._numbers = array("q")

    def add(self, call: int, number: int, due: int, began: int, ended: int) -> None:
        self._numbers.extend((call, number, due, began, ended))

    @property
    def rows(self) -> NDArray[np.int64]:
        """[n, 5]: index of the call, number of the round or request, when it was due, began and
        ended, in nanoseconds of the clock. A view: nothing can be added any more."""
        return np.frombuffer(self._numbers, np.int64).reshape(-1, 5)


def closed_loop(
    calls: Sequence[Call],
    rounds: Iterator[Sequence[int]],
    items: int,
    goes_on: Callable[[int], bool],
    clock: Clock,
    log: Log,
    pause: Pause,
) -> None:
    """Make the calls of one round after the other while ``goes_on(rounds made)``.

    All calls of a round get the same input, one of ``items``.
    """
    now, add = clock.now, log.add
    number = 0
    while goes_on(number):
        item = number % items
        for index in next(rounds):
            call = calls[index]
            began = now()
            call(item)
            ended = now()
            add(index, number, began, began, ended)
        number += 1
        pause(None)


def open_loop(
    calls: Sequence[Call],
    chosen: Sequence[int],
    due: Sequence[int],
    items: int,
    requests: Iterator[int],
    clock: Clock,
    log: Log,
    pause: Pause,
) -> None:
    """Serve the requests that ``requests`` hands out, each at its moment, or as soon after it as
    this stream is free. Every request is served, however late.

    ``chosen``: the call of each request; ``due``: the moment, in nanoseconds of the clock. Streams
    that share ``requests`` serve one queue, first come, first served.
    """
    now, add = clock.now, log.add
    for number in requests:
        call, moment = calls[chosen[number]], due[number]
        pause(moment - now())
        clock.sleep_until(moment)
        began = now()
        call(number % items)
        ended = now()
        add(chosen[number], number, moment, began, ended)


def on_streams(jobs: Sequence[Callable[[threading.Event], None]], pause: Pause) -> None:
    """Run ``jobs`` at the same time and wait for all.

    A job is given an event that is set when it should stop early: one of them failed, or the user
    interrupted. One job runs in this thread, without any other. Raises what the first job to fail
    raised.
    """
    stop = threading.Event()
    if len(jobs) == 1:
        jobs[0](stop)
        return
    errors: list[BaseException] = []
    ready = threading.Barrier(len(jobs) + 1)

    def work(job: Callable[[threading.Event], None]) -> None:
        ready.wait()
        try:
            job(stop)
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    ready.wait()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(POLL_S)
                pause(None)
    except BaseException:
        stop.set()
        raise
    if errors:
        raise errors[0]
