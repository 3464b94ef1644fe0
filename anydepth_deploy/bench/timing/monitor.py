"""Readings of sensors over a run: before, during, after; never inside of what is timed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from anydepth_deploy.bench.sensors.state import Device, Sensor, State
from anydepth_deploy.bench.timing.clock import Clock

__all__ = ["Monitor", "energy_between"]

INTERVAL_NS = 500_000_000
SLACK_NS = 20_000_000
"""Where requests arrive by themselves, sensors are read only in a gap as long as this."""


class Monitor:
    """Reads ``sensors`` when it is told to, and whenever :meth:`pause` finds that it is time."""

    def __init__(self, sensors: Sequence[Sensor], clock: Clock) -> None:
        self._sensors, self._clock = sensors, clock
        self._devices = [sensor.describe() for sensor in sensors]
        self._states: list[list[State]] = [[] for _ in sensors]
        self._zero = clock.now()
        self._last = self._zero

    def begin(self) -> int:
        """From now on moments are counted from here; the clock's nanoseconds. Readings made
        before get negative ones."""
        now = self._clock.now()
        shift = (now - self._zero) / 1e9
        self._states = [
            [
                state.model_copy(update={"seconds": round(state.seconds - shift, 6)})
                for state in states
            ]
            for states in self._states
        ]
        self._zero = now
        return now

    def read(self) -> float:
        """Read all sensors; the moment, in seconds since the beginning."""
        seconds = round((self._clock.now() - self._zero) / 1e9, 6)
        for sensor, states in zip(self._sensors, self._states, strict=True):
            states.append(sensor.read(seconds))
        self._last = self._clock.now()
        return seconds

    def pause(self, slack: int | None) -> None:
        """Read if the last reading is old, and nobody waits within ``slack`` nanoseconds."""
        if self._clock.now() - self._last >= INTERVAL_NS and (slack is None or slack >= SLACK_NS):
            self.read()

    @property
    def devices(self) -> list[Device]:
        """The devices with all readings so far; what was measured comes first."""
        return [
            device.model_copy(update={"states": list(states)})
            for device, states in zip(self._devices, self._states, strict=True)
        ]


def energy_between(device: Device, begin: float, end: float) -> float | None:
    """Joules that ``device`` took between two readings, at ``begin`` and ``end`` seconds.

    From its counter, or the integral of its power by the trapezoidal rule; None where it tells
    neither at both ends.
    """
    states = [state for state in device.states if begin <= state.seconds <= end]
    if len(states) < 2 or (states[0].seconds, states[-1].seconds) != (begin, end):
        return None
    counts = [state.energy_j.get("total") for state in (states[0], states[-1])]
    if counts[0] is not None and counts[1] is not None:
        return counts[1] - counts[0]
    total = 0.0
    for before, after in itertools.pairwise(states):
        one, other = before.power_w.get("total"), after.power_w.get("total")
        if one is None or other is None:
            return None
        total += (one + other) / 2 * (after.seconds - before.seconds)
    return total
