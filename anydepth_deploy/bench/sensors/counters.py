"""What Linux counts up: energy, throttling, and whose time the processors spent.

Sources: ``Documentation/power/powercap``, ``Documentation/admin-guide/cgroup-v2`` and ``proc_stat``
of the manual pages, section 5.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from anydepth_deploy.reading.system_files import CPU_FOLDER, Tree, UnreadableError

__all__ = ["CpuUse", "PackageEnergy", "ThermalEvents"]

SHORTEST = 0.1
"""Seconds; ``/proc/stat`` counts hundredths for every processor, too coarse for less than this."""


@dataclass
class _Zone:
    name: str
    path: str
    range: float
    package: bool
    last: float = 0.0
    wraps: int = 0


class PackageEnergy:
    """Joules by RAPL zone since some moment in the past (``package-0``, ``package-0 core``).

    ``total`` is what all processor packages take, memory and the rest of the machine left out; it
    is there when every package can be read, which on most machines only root may.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._zones: list[_Zone] = []
        self._complete = True
        self.reason = "no /sys/class/powercap/intel-rapl:*"
        names: dict[str, str] = {}
        # AMD's counters bear the same name; those of intel-rapl-mmio count the same energy again.
        for folder in tree.find("/sys/class/powercap/intel-rapl:*"):
            key = folder.rsplit("/", 1)[1]
            above = key.rpartition(":")[0]
            package = ":" not in above  # until its name says otherwise
            try:
                name = names[key] = tree.text(f"{folder}/name")
                package = package and name.startswith("package")
                path = f"{folder}/energy_uj"
                tree.number(path)
                largest = tree.number(f"{folder}/max_energy_range_uj")
                if largest <= 0:
                    raise UnreadableError(f"{folder}/max_energy_range_uj says {largest:g}")
            except UnreadableError as error:
                if self._complete:  # what a package lacks matters most
                    self.reason = str(error)
                self._complete = self._complete and not package
                continue
            full = f"{names[above]} {name}" if above in names else name
            self._zones.append(_Zone(full, path, largest, package))

    def read(self) -> dict[str, float]:
        """Joules; a counter that starts over goes on from where it was."""
        values: dict[str, float] = {}
        total, complete = 0.0, self._complete
        for zone in self._zones:
            try:
                raw = self._tree.number(zone.path)
            except UnreadableError as error:
                if zone.package:
                    self.reason, complete = str(error), False
                continue
            zone.wraps += raw < zone.last
            zone.last = raw
            values[zone.name] = (raw + zone.wraps * zone.range) * 1e-6
            total += values[zone.name] if zone.package else 0.0
        if complete and any(zone.package for zone in self._zones):
            values["total"] = total
        return values


class ThermalEvents:
    """How often processors throttled themselves for heat since boot (Intel tells, AMD does not)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._paths = tree.find(f"{CPU_FOLDER}/cpu[0-9]*/thermal_throttle/*_throttle_count")

    def read(self) -> int:
        """The sum over all processors, of cores and packages. Raises :class:`UnreadableError`."""
        if not self._paths:
            raise UnreadableError(f"no {CPU_FOLDER}/cpu*/thermal_throttle")
        return sum(int(self._tree.number(path)) for path in self._paths)


class CpuUse:
    """How many cores others kept busy between two readings.

    ``own``: seconds that this process has spent, all its threads together, without children.
    ``steal_is_told``: a count of stolen time that never left 0 means that nothing was stolen;
    otherwise it is taken for one that the hypervisor does not keep.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        steal_is_told: bool,
        own: Callable[[], float] = time.process_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree, self._own, self._now = tree, own, now
        self._steal_is_told = steal_is_told
        self._last: tuple[float, float, _Ticks] | None = None
        self._hertz = float(getattr(os, "sysconf", lambda _: 100)("SC_CLK_TCK"))

    def check(self) -> None:
        """Raises :class:`UnreadableError` where there is nothing to count by."""
        _ticks(self._tree)

    def check_steal(self) -> None:
        """Raises :class:`UnreadableError` where stolen time is not counted."""
        if self._steal(_ticks(self._tree)) is None:
            raise UnreadableError("the hypervisor may not tell: /proc/stat has had 0 since boot")

    def read(self) -> tuple[float | None, float | None]:
        """Cores that other processes took, and cores that the hypervisor gave to others.

        Both since the reading before, or one earlier still if that is less than :data:`SHORTEST`
        ago, in which case both are None. A hypervisor's theft is not counted as use by others.
        """
        try:
            ticks = _ticks(self._tree)
        except UnreadableError:
            self._last = None
            return None, None
        now, own = self._now(), self._own()
        if self._last is None:
            self._last = (now, own, ticks)
            return None, None
        then, own_then, before = self._last
        seconds = now - then
        if seconds < SHORTEST:
            return None, None
        self._last = (now, own, ticks)
        if ticks.total <= before.total:  # a sandbox that shows a file, but does not count
            return None, None
        busy = (ticks.busy - before.busy) / self._hertz - (own - own_then)
        steal, steal_before = self._steal(ticks), before.steal
        stolen = None
        if steal is not None and steal_before is not None:
            stolen = max(0.0, (steal - steal_before) / self._hertz / seconds)
        return max(0.0, busy / seconds), stolen

    def _steal(self, ticks: _Ticks) -> int | None:
        return ticks.steal if ticks.steal or self._steal_is_told else None


@dataclass(frozen=True)
class _Ticks:
    """Of all processors together, in units of the kernel's clock; guests count as busy."""

    busy: int
    steal: int | None
    total: int


def _ticks(tree: Tree) -> _Ticks:
    """user nice system idle iowait irq softirq steal; guests are in user already."""
    line = tree.text("/proc/stat").splitlines()[0].split()
    try:
        if line[0] != "cpu" or len(line) < 5:
            raise ValueError
        values = [int(word) for word in line[1:9]]
    except ValueError:
        raise UnreadableError("/proc/stat has no line for all processors") from None
    if sum(values) <= 0:
        raise UnreadableError("/proc/stat counts nothing")
    steal = values[7] if len(values) > 7 else None
    return _Ticks(sum(values[:3]) + sum(values[5:7]), steal, sum(values))
