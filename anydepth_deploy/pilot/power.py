"""What a device draws, as something that a controller can hold.

Sensors of power are slow to read and show the past second or so: read them every few dozen calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from anydepth_deploy.bench.sensors import find_sensors
from anydepth_deploy.bench.sensors.state import Sensor, State

__all__ = ["PowerSensor"]

TOTAL = "total"


class PowerSensor:
    """Watts of the device that computes: the mean since the reading before where it counts joules,
    else what it says now. Nothing is opened before it is asked.

    ``on_device``: a GPU or a Jetson computes, not the processor. Unverified on hardware.
    """

    def __init__(
        self,
        on_device: bool,
        *,
        find: Callable[[], Sequence[Sensor]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find or (lambda: find_sensors("cuda" if on_device else "cpu"))
        self._clock = clock
        self._sensor: Sensor | None = None
        self._last: tuple[float, float] | None = None

    def __call__(self) -> float | None:
        """Watts; None where nothing tells, and at a first reading of a counter."""
        state = self._read()
        now, before = self._joules(state), self._last
        self._last = now
        if now is None or before is None or now[0] <= before[0] or now[1] < before[1]:
            return state.power_w.get(TOTAL)
        return (now[1] - before[1]) / (now[0] - before[0])

    @property
    def works(self) -> bool:
        """Whether something here tells what the device draws."""
        state = self._read()
        return TOTAL in state.energy_j or TOTAL in state.power_w

    def _read(self) -> State:
        if self._sensor is None:
            self._sensor = self._find()[0]
        return self._sensor.read(0.0)

    def _joules(self, state: State) -> tuple[float, float] | None:
        """When, and how many so far."""
        found = state.energy_j.get(TOTAL)
        return None if found is None else (self._clock(), found)
