"""A processor as Linux shows it: how it is set, its clocks, heat, energy, and who else uses it.

On other systems everything is unknown. Not read by psutil: it takes clocks from ``/proc/cpuinfo``
where it can, which is a constant in a virtual machine, shows thermal zones only where there is no
hwmon, cannot be pointed at another ``/sys``, does not say why a reading is missing, and knows
nothing of governors, energy, throttling or quotas.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from anydepth_deploy.bench.sensors.counters import CpuUse, PackageEnergy, ThermalEvents
from anydepth_deploy.bench.sensors.state import Device, State
from anydepth_deploy.bench.sensors.sysfs import (
    CPU_FOLDER,
    Survey,
    Tree,
    UnreadableError,
    clock_gauges,
    cpu_ranges,
    online_cpus,
    read_gauges,
    temperature_gauges,
)
from anydepth_deploy.reading.cpu_quota import CpuQuota
from anydepth_deploy.reading.processor import field_of, processor_name

__all__ = ["CpuSensor"]

SLOWEST_CLOCKS = 0.02
"""Seconds. Before 5.17 Linux waits 10 ms for the clock of every idle x86 core, which would disturb
what is measured: clocks that take longer in all are not read."""

HYPERVISORS = (
    ("amazon ec2", "Amazon EC2"),
    ("google compute engine", "Google Compute Engine"),
    ("vmware", "VMware"),
    ("virtualbox", "VirtualBox"),
    ("virtual machine", "Hyper-V"),
    ("hyperv", "Hyper-V"),
    ("parallels", "Parallels"),
    ("kvm", "KVM"),
    ("qemu", "QEMU"),
    ("xen", "Xen"),
)
"""What they leave in the names of the machine or of its clocks, the particular ones first."""

HINTS = (
    "/sys/class/dmi/id/sys_vendor",
    "/sys/class/dmi/id/product_name",
    "/sys/hypervisor/type",
    "/sys/devices/system/clocksource/clocksource0/available_clocksource",
)

QUOTA = "CPU quota of the control group"


class CpuSensor:
    """The processors below ``root``; see :class:`~anydepth_deploy.bench.sensors.state.Sensor`.

    ``State.throttle_events`` counts throttling for heat (Intel) and waits for the quota of a
    container, and is None where heat is not counted: AMD, ARM, virtual machines. A wait for the
    quota since the reading before shows up in ``State.throttle`` everywhere; that there was none is
    no proof that clocks were free, so it is None otherwise.

    ``own`` and ``now``: seconds of processor time of this process, and of the clock on the wall.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        own: Callable[[], float] = time.process_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        tree = self._tree = Tree(root)
        self._temperatures = temperature_gauges(tree)
        self._energy = PackageEnergy(tree)
        self._events = ThermalEvents(tree)
        self._quota = CpuQuota(tree)
        self._waits = self._quota.throttled()
        try:
            self._machine: str | UnreadableError = _machine(tree)
        except UnreadableError as error:
            self._machine = error
        self._use = CpuUse(tree, steal_is_told=self._machine == "bare metal", own=own, now=now)
        self._clocks = clock_gauges(tree)
        self._no_clocks = "no cpufreq"
        begin = now()
        read_gauges(tree, self._clocks)
        if self._clocks and (took := now() - begin) > SLOWEST_CLOCKS:
            self._no_clocks = f"reading {len(self._clocks)} of them takes {1e3 * took:.0f} ms"
            self._clocks = []

    def describe(self) -> Device:
        """The processors, how they are set, and which readings there will not be."""
        tree, survey = self._tree, Survey()
        survey.note("machine", self._say_machine)
        survey.note("online cpus", lambda: str(len(online_cpus(tree))))
        survey.note("allowed cpus", lambda: _allowed(tree))
        survey.note("cpu quota", self._say_quota)
        survey.note("governor", lambda: _by_cpu(tree, "scaling_governor"))
        survey.note("scaling driver", lambda: _by_cpu(tree, "scaling_driver"))
        survey.note("clock limits", lambda: _limits(tree))
        survey.note("boost", lambda: _boost(tree))
        survey.note("smt", lambda: _smt(tree))
        self._probe(survey)
        return Device(
            kind="cpu", name=processor_name(tree), settings=survey.settings, unknown=survey.unknown
        )

    def read(self, seconds: float) -> State:
        """Clocks, temperatures, energy, throttling and use by others, as far as they are told."""
        other, stolen = self._use.read()
        waits = self._quota.throttled()
        waited = waits is not None and self._waits is not None and waits > self._waits
        self._waits = waits
        events: int | None
        try:
            events = self._events.read() + (waits or 0)
        except UnreadableError:
            events = None
        return State(
            seconds=seconds,
            clocks_mhz=read_gauges(self._tree, self._clocks),
            temperatures_c=read_gauges(self._tree, self._temperatures),
            energy_j=self._energy.read(),
            throttle=[QUOTA] if waited else None,
            throttle_events=events,
            other_cpu=other,
            stolen_cpu=stolen,
        )

    def _say_machine(self) -> str:
        if isinstance(self._machine, UnreadableError):
            raise self._machine
        return self._machine

    def _say_quota(self) -> str:
        cores = self._quota.cores()
        return "none" if cores is None else f"{cores:g} core{'s' * (cores != 1)}"

    def _probe(self, survey: Survey) -> None:
        """Name the readings that cannot be made."""
        if not read_gauges(self._tree, self._clocks):
            reason = f"{self._clocks[0].path} cannot be read" if self._clocks else self._no_clocks
            survey.missing("clocks", reason)
        if not read_gauges(self._tree, self._temperatures):
            survey.missing("temperatures", "no hwmon of a processor and no thermal zone tells")
        if "total" not in self._energy.read():
            survey.missing("energy", self._energy.reason)
        survey.check("throttle events", self._events.read)
        survey.check("use by others", self._use.check)
        survey.check("stolen time", self._use.check_steal)


def _by_cpu(tree: Tree, file: str) -> str:
    """What a file of cpufreq says: once where it is the same for all, or by processors."""
    groups: dict[str, list[int]] = {}
    for cpu in online_cpus(tree):
        try:
            value = tree.text(f"{CPU_FOLDER}/cpu{cpu}/cpufreq/{file}")
        except UnreadableError:
            value = "unknown"
        groups.setdefault(value, []).append(cpu)
    if set(groups) == {"unknown"}:
        folders = tree.find(f"{CPU_FOLDER}/cpu[0-9]*/cpufreq")
        raise UnreadableError(f"no {folders[0]}/{file}" if folders else "no cpufreq")
    if len(groups) == 1:
        return next(iter(groups))
    return ", ".join(f"{value} ({cpu_ranges(cpus)})" for value, cpus in groups.items())


def _limits(tree: Tree) -> str:
    """Between which clocks the governor may choose, in MHz."""
    found = set()
    for folder in tree.find(f"{CPU_FOLDER}/cpu[0-9]*/cpufreq"):
        low, high = (tree.number(f"{folder}/scaling_{end}_freq") / 1e3 for end in ("min", "max"))
        found.add((low, high))
    if not found:
        raise UnreadableError("no cpufreq")
    return ", ".join(f"{low:.0f}-{high:.0f} MHz" for low, high in sorted(found))


def _boost(tree: Tree) -> str:
    """Whether clocks may exceed the nominal one."""
    for path, on in (
        (f"{CPU_FOLDER}/intel_pstate/no_turbo", 0),
        (f"{CPU_FOLDER}/cpufreq/boost", 1),
    ):
        try:
            value = tree.number(path)
        except UnreadableError:
            continue
        if value not in (0, 1):
            raise UnreadableError(f"{path} says {value:g}")
        return "on" if value == on else "off"
    raise UnreadableError("neither cpufreq/boost nor intel_pstate/no_turbo")


def _smt(tree: Tree) -> str:
    """``on``, or what the kernel says instead: ``off``, ``notsupported``."""
    if tree.number(f"{CPU_FOLDER}/smt/active") == 1:
        return "on"
    control = tree.text(f"{CPU_FOLDER}/smt/control")
    return "off" if control == "on" else control  # one thread a core, though more are allowed


def _allowed(tree: Tree) -> str:
    """The processors on which this process may run."""
    found = field_of(tree, "/proc/self/status", "Cpus_allowed_list")
    if found is None:
        raise UnreadableError("/proc/self/status does not tell")
    return found


def _machine(tree: Tree) -> str:
    """``bare metal``, ``virtual machine`` or ``virtual machine: KVM``."""
    flags = field_of(tree, "/proc/cpuinfo", "flags")
    words = []
    for path in HINTS:
        try:
            words.append(tree.text(path).lower())
        except UnreadableError:
            continue
    hints = " ".join(words)
    name = next((name for word, name in HYPERVISORS if word in hints), None)
    if flags is not None and "hypervisor" not in flags.split():
        return "bare metal"
    if flags is not None:
        return f"virtual machine: {name}" if name else "virtual machine"
    # Only x86 has a flag for it; and a cloud may rent out whole machines, too.
    if name is not None and "metal" not in hints:
        return f"virtual machine: {name}"
    raise UnreadableError("/proc/cpuinfo does not tell on this architecture")
