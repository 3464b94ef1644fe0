"""Making the calls of a scenario: which loop, on which streams, for how long."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.timing import plans
from anydepth_deploy.bench.timing.clock import Clock
from anydepth_deploy.bench.timing.loops import Call, Log, closed_loop, on_streams, open_loop
from anydepth_deploy.bench.timing.monitor import Monitor
from anydepth_deploy.errors import UsageError
from anydepth_deploy.progress import Progress

__all__ = ["BEGAN", "CALL", "DUE", "ENDED", "NUMBER", "Measured", "Stretch", "Timer", "quiet"]

CALL, NUMBER, DUE, BEGAN, ENDED = range(5)
"""Columns of a log."""

PATIENCE = 10
"""Requests that would take this many times longer to serve than to arrive are refused."""

PROGRESS_NS = 500_000_000


@dataclass(frozen=True)
class Stretch:
    """A part of the run with no pause in it. ``call``: the only one that was made in it, or None.
    ``begin`` and ``end``: seconds of the readings around it; ``wall``: seconds from the moment its
    first request was due to the end of its last."""

    call: int | None
    begin: float
    end: float
    wall: float


@dataclass
class Measured:
    """What was noted. ``rows`` int64 [n, 5]: the columns above, in the order calls began."""

    rows: NDArray[np.int64]
    stretches: list[Stretch]
    warm: list[list[int]] = field(default_factory=list)


class Timer:
    """Runs ``calls`` as ``options`` say; each takes the index of one of ``items`` inputs."""

    def __init__(
        self,
        calls: Sequence[Call],
        names: Sequence[str],
        items: int,
        options: Options,
        shares: Sequence[float],
        monitor: Monitor,
        clock: Clock,
        progress: Progress | None = None,
    ) -> None:
        self._calls, self._names, self._items = list(calls), list(names), items
        self._options, self._shares = options, list(shares)
        self._monitor, self._clock, self._progress = monitor, clock, progress
        self._shown = clock.now() - PROGRESS_NS
        self._rows: list[NDArray[np.int64]] = []
        self._stretches: list[Stretch] = []

    def first_calls(self) -> list[int]:
        """Nanoseconds of the very first call of each."""
        took = []
        for index, call in enumerate(self._calls):
            self._show(f"first call at {self._names[index]}", index, len(self._calls), now=True)
            began = self._clock.now()
            call(0)
            took.append(self._clock.now() - began)
        return took

    def warm_up(self) -> list[list[int]]:
        """Run each call for the time and the number of times that were asked for; what each took,
        in nanoseconds."""
        options, clock = self._options, self._clock
        took: list[list[int]] = [[] for _ in self._calls]
        for index, call in enumerate(self._calls):
            until = clock.now() + int(1e9 * options.warmup)
            while len(took[index]) < options.warmup_count or clock.now() < until:
                self._show(f"warm-up at {self._names[index]}", index, len(self._calls))
                began = clock.now()
                call(len(took[index]) % self._items)
                took[index].append(clock.now() - began)
        return took

    def measure(self, service: Sequence[float]) -> Measured:
        """Make the calls that count. ``service``: seconds that each call takes, roughly.

        Raises :class:`UsageError` where requests would arrive much faster than they can be served.
        """
        if self._options.arriving:
            self._check_rate(service)
        with quiet():
            if self._options.mode == "fixed":
                self._in_turn()
            else:
                self._stretch(None, 0, 1)
        rows = _joined(self._rows)
        if (np.diff(rows[:, BEGAN]) < 0).any():  # streams side by side
            rows = rows[np.argsort(rows[:, BEGAN], kind="stable")]
        return Measured(rows, self._stretches)

    def _in_turn(self) -> None:
        """One call at a time, several stretches of each, their order drawn anew."""
        repeats, count = self._options.repeats, len(self._calls)
        order = plans.interleaved(count, self._options.seed)
        for repeat in range(repeats):
            for place, index in enumerate(next(order)):
                for number in range(self._options.warmup_count):
                    self._calls[index](number % self._items)
                self._stretch(index, repeat * count + place, repeats * count)

    def _stretch(self, index: int | None, place: int, places: int) -> None:
        begin = self._monitor.read()
        logs = [Log() for _ in range(self._options.streams)]
        jobs = self._arrivals if self._options.arriving else self._closed
        on_streams(jobs(index, logs, place, places), self._monitor.pause)
        end = self._monitor.read()
        rows = _joined([log.rows for log in logs])
        wall = float(rows[:, ENDED].max() - rows[:, DUE].min()) / 1e9
        self._rows.append(rows)
        self._stretches.append(Stretch(index, begin, end, wall))

    def _closed(
        self, index: int | None, logs: Sequence[Log], place: int, places: int
    ) -> list[Callable[[threading.Event], None]]:
        """Jobs that each make one call after the other."""
        options, clock, depths = self._options, self._clock, len(self._calls)
        # One depth is cut into stretches; together, the time and requests of all add up.
        factor = depths if index is None else 1 / options.repeats
        duration = int(1e9 * options.duration * factor)
        per_stream = options.count * factor / options.streams
        least = {
            "fixed": math.ceil(per_stream),
            "interleaved": options.count,
            "mixed": math.ceil(per_stream),
            # A round holds every call once after every other; one call opens the first.
            "switching": 1 + math.ceil(options.count / depths),
        }[options.mode or "fixed"]
        began = clock.now()

        def job(stream: int, stop: threading.Event) -> None:
            def goes_on(number: int) -> bool:
                elapsed = clock.now() - began
                if stream == 0:
                    share = min(elapsed / duration if duration else 1.0, number / least)
                    self._show_share(index, place, places, share)
                return not stop.is_set() and (number < least or elapsed < duration)

            rounds = self._rounds(index, options.seed + 1000 * place + stream)
            pause = self._monitor.pause if len(logs) == 1 else _nothing
            closed_loop(self._calls, rounds, self._items, goes_on, clock, logs[stream], pause)

        return [partial(job, stream) for stream in range(len(logs))]

    def _rounds(self, index: int | None, seed: int) -> Iterator[Sequence[int]]:
        if index is not None:
            return plans.fixed(index)
        if self._options.mode == "interleaved":
            return plans.interleaved(len(self._calls), seed)
        if self._options.mode == "switching":
            return plans.switching(len(self._calls), seed)
        return plans.mixed(self._shares, seed)

    def _arrivals(
        self, index: int | None, logs: Sequence[Log], place: int, places: int
    ) -> list[Callable[[threading.Event], None]]:
        """Jobs that share the requests of one queue."""
        options, clock = self._options, self._clock
        assert options.rate is not None
        count = self._requests(1 if index is not None else len(self._calls))
        if index is not None:
            count = math.ceil(count / options.repeats)
        seed = options.seed + 1000 * place
        if options.scenario == "poisson":
            moments = plans.poisson_arrivals(options.rate, count, seed)
        else:
            moments = plans.fixed_arrivals(options.rate, count)
        rounds = self._rounds(index, seed)
        chosen = [next(rounds)[0] for _ in range(count)]
        due = (moments + clock.now()).tolist()
        # Handing out the next number of a range is one step for all streams.
        queue = iter(range(count))

        def job(stream: int, stop: threading.Event) -> None:
            def requests() -> Iterator[int]:
                for number in queue:
                    if stop.is_set():
                        return
                    if stream == 0:
                        self._show_share(index, place, places, number / count)
                    yield number

            pause = self._monitor.pause if len(logs) == 1 else _nothing
            open_loop(self._calls, chosen, due, self._items, requests(), clock, logs[stream], pause)

        return [partial(job, stream) for stream in range(len(logs))]

    def _requests(self, depths: int) -> int:
        """Requests of all stretches together, for so many depths."""
        rate = self._options.rate or 0.0
        return depths * max(math.ceil(rate * self._options.duration), self._options.count)

    def _check_rate(self, service: Sequence[float]) -> None:
        options = self._options
        assert options.rate is not None
        if options.mode == "mixed":
            mean = sum(share * took for share, took in zip(self._shares, service, strict=True))
            times = {"the mix": mean}
        else:
            times = dict(zip(self._names, service, strict=True))
        for name, took in times.items():
            if options.rate * took > PATIENCE * options.streams:
                raise UsageError(
                    f"{options.rate:g} requests a second cannot be served at {name}: "
                    f"{options.streams} stream(s) that take {1e3 * took:.1f} ms each serve "
                    f"{options.streams / took:.1f}; lower --rate or raise --streams"
                )

    def _show_share(self, index: int | None, place: int, places: int, share: float) -> None:
        name = self._names[index] if index is not None else f"{len(self._calls)} depths"
        done = (place + min(share, 1.0)) / places
        self._show(f"measuring {name}", int(100 * done), 100)

    def _show(self, what: str, done: int, total: int, *, now: bool = False) -> None:
        """Progress, between calls and not too often: drawing it takes time, too."""
        moment = self._clock.now()
        if self._progress is not None and (now or moment - self._shown >= PROGRESS_NS):
            self._progress(what, done, total)
            self._shown = moment


@contextmanager
def quiet() -> Iterator[None]:
    """Without Python's garbage collector, whose pauses would be somebody's latency."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One after the other; a single one as it is, since it may be large."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _nothing(slack: int | None) -> None:
    """Where the main thread reads the sensors."""
