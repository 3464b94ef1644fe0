"""The clock that runs are timed with, not the one that tells the day; tests bring their own."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "MonotonicClock", "ProcessorClock"]

SPIN_NS = 300_000
"""The last part of a wait is spent looking at the clock: sleeping ends tens of microseconds late,
which a small network's latency would show."""


class Clock(Protocol):
    """Nanoseconds that only rise."""

    def now(self) -> int: ...

    def sleep_until(self, moment: int) -> None:
        """Return at ``moment``, at once where it has passed."""
        ...


class MonotonicClock:
    """The system's performance counter."""

    now = staticmethod(time.perf_counter_ns)

    def sleep_until(self, moment: int) -> None:
        remaining = moment - time.perf_counter_ns()
        if remaining > SPIN_NS:
            time.sleep((remaining - SPIN_NS) / 1e9)
        while time.perf_counter_ns() < moment:
            pass


class ProcessorClock:
    """Processor time of this process, all threads together: what calls of one thread cost while
    others have the processors, too. It stands still in a wait, so that none is possible."""

    now = staticmethod(time.process_time_ns)

    def sleep_until(self, moment: int) -> None:
        raise NotImplementedError("processor time does not pass while nothing is computed")
