"""What the sensors of a device said, moment by moment.

A value that could not be read is absent or None: unknown, never "fine". Whether a run was throttled
is for :mod:`anydepth_deploy.bench.verdict` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Device", "DeviceKind", "Sensor", "State"]

DeviceKind = Literal["cpu", "nvidia", "jetson"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class State(_Model):
    """One reading of everything a device tells."""

    seconds: float
    """Since measuring began; negative before."""
    clocks_mhz: dict[str, float] = Field(default_factory=dict)
    """By domain: ``cpu0``, ``sm``, ``memory``, ``gpu``."""
    temperatures_c: dict[str, float] = Field(default_factory=dict)
    power_w: dict[str, float] = Field(default_factory=dict)
    """By rail; ``total`` is what the whole device takes."""
    energy_j: dict[str, float] = Field(default_factory=dict)
    """Counters that only rise, by name; ``total`` as for power."""
    throttle: list[str] | None = None
    """Why clocks are held down right now; empty: they are not; None: that cannot be read."""
    throttle_events: int | None = None
    """A counter of throttling that only rises; None where there is none."""
    other_cpu: float | None = None
    """Cores kept busy by other processes since the reading before."""
    stolen_cpu: float | None = None
    """Cores that the hypervisor gave to other machines since the reading before."""


class Device(_Model):
    """A processor or GPU, how it is set, and its readings before, during and after."""

    kind: DeviceKind
    name: str
    settings: dict[str, str] = Field(default_factory=dict)
    """What stays as it is during a run: governor, power mode, driver, locked clocks."""
    unknown: list[str] = Field(default_factory=list)
    """Sensors that could not be read, each with the reason: ``governor (no cpufreq)``."""
    states: list[State] = Field(default_factory=list)


class Sensor(Protocol):
    """Reads one device. Neither method raises: what cannot be read is left out."""

    def describe(self) -> Device:
        """The device with its settings, without readings."""
        ...

    def read(self, seconds: float) -> State:
        """A reading now, labelled with ``seconds``; takes no longer than a few milliseconds."""
        ...


Sensors = Sequence[Sensor]
