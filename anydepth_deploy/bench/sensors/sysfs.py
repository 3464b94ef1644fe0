"""Reading what Linux tells in small files, below a root that a test can choose.

Formats: the kernel's own documentation, ``Documentation/ABI/testing/sysfs-*`` for cpufreq, thermal
zones and hwmon.
"""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from anydepth_deploy.reading.system_files import CPU_FOLDER, Tree, UnreadableError

__all__ = [
    "CPU_FOLDER",
    "Gauge",
    "Runner",
    "Survey",
    "Tree",
    "UnreadableError",
    "clock_gauges",
    "cpu_ranges",
    "hwmon_folders",
    "online_cpus",
    "read_gauges",
    "run_command",
    "temperature_gauges",
]

COLDEST, HOTTEST = -50.0, 150.0
"""Degrees Celsius; a sensor that says otherwise is switched off or absent."""

MOST_CPUS = 1 << 16

CPU_HWMON = ("k10temp", "zenpower", "coretemp", "cpu_thermal")
"""Names under which drivers of processors report to hwmon."""

Runner = Callable[[Sequence[str], float], str]
"""Runs a command for at most so many seconds and gives what it printed; raises
:class:`UnreadableError`."""


class Survey:
    """Collects settings, and what could not be found out."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.unknown: list[str] = []

    def note(self, name: str, read: Callable[[], str]) -> None:
        """Put what ``read`` gives under ``name``, or the reason why not under the unknown."""
        try:
            self.settings[name] = read()
        except UnreadableError as error:
            self.missing(name, error)

    def check(self, name: str, read: Callable[[], object]) -> None:
        """Put the reason why ``read`` cannot be made, where that is so, under the unknown."""
        try:
            read()
        except UnreadableError as error:
            self.missing(name, error)

    def missing(self, name: str, reason: object) -> None:
        self.unknown.append(f"{name} ({reason})")


@dataclass(frozen=True)
class Gauge:
    """A number in a file, times ``scale``; outside of the bounds it counts as unreadable."""

    name: str
    path: str
    scale: float
    lowest: float = 0.0
    highest: float = math.inf


def read_gauges(tree: Tree, gauges: Iterable[Gauge]) -> dict[str, float]:
    """The values of those that can be read now."""
    values: dict[str, float] = {}
    for gauge in gauges:
        try:
            value = tree.number(gauge.path) * gauge.scale
        except UnreadableError:
            continue
        if gauge.lowest <= value <= gauge.highest:
            values[gauge.name] = value
    return values


def online_cpus(tree: Tree) -> list[int]:
    """Numbers of the processors that are switched on. Raises :class:`UnreadableError`."""
    path = f"{CPU_FOLDER}/online"
    text = tree.text(path)
    cpus: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match is None:
            raise UnreadableError(f"{path} says {text[:24]!a}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= MOST_CPUS:
            raise UnreadableError(f"{path} says {text[:24]!a}")
        cpus.extend(range(first, last + 1))
    return cpus


def cpu_ranges(cpus: Iterable[int]) -> str:
    """``cpu0-3,6`` for 0, 1, 2, 3 and 6."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    texts = (str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return "cpu" + ",".join(texts)


def clock_gauges(tree: Tree) -> list[Gauge]:
    """Clocks of processors in MHz, ``cpu0`` and so on, as cpufreq has them.

    Not from ``/proc/cpuinfo``: in a virtual machine that is a constant.
    """
    paths = tree.find(f"{CPU_FOLDER}/cpu[0-9]*/cpufreq/scaling_cur_freq")
    return [Gauge(path.split("/")[-3], path, 1e-3) for path in paths]


def hwmon_folders(tree: Tree) -> list[tuple[str, str]]:
    """Name and folder of every hwmon device; their numbers change from boot to boot."""
    found = []
    for path in tree.find("/sys/class/hwmon/hwmon*"):
        try:
            found.append((tree.text(f"{path}/name"), path))
        except UnreadableError:
            continue
    return found


def temperature_gauges(tree: Tree) -> list[Gauge]:
    """Degrees Celsius of the processor (hwmon) and of all thermal zones, those that can be read.

    A name that is taken already gets a number: ``k10temp Tctl``, ``k10temp Tctl 2``.
    """
    found: list[tuple[str, str]] = []
    for name, folder in hwmon_folders(tree):
        if name not in CPU_HWMON:
            continue
        for path in tree.find(f"{folder}/temp*_input"):
            try:
                label = tree.text(path.removesuffix("_input") + "_label")
            except UnreadableError:
                label = path.rsplit("/", 1)[1].removesuffix("_input")
            found.append((f"{name} {label}", path))
    for folder in tree.find("/sys/class/thermal/thermal_zone*"):
        try:
            found.append((tree.text(f"{folder}/type"), f"{folder}/temp"))
        except UnreadableError:
            continue
    gauges: dict[str, Gauge] = {}
    for name, path in found:
        unique, count = name, 1
        while unique in gauges:
            count += 1
            unique = f"{name} {count}"
        gauges[unique] = Gauge(unique, path, 1e-3, COLDEST, HOTTEST)
    return list(gauges.values())


def run_command(command: Sequence[str], seconds: float) -> str:
    """What ``command`` prints. Raises :class:`UnreadableError`: it is not there, fails or hangs.

    A Ctrl-C at the terminal does not reach it: what restores clocks has to finish.
    """
    name = command[0]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            start_new_session=True,
            check=False,
        )
    except FileNotFoundError:
        raise UnreadableError(f"no {name}") from None
    except subprocess.TimeoutExpired:
        raise UnreadableError(f"{name} took over {seconds:g} s") from None
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror or type(error).__name__}") from None
    output = done.stdout.decode("utf-8", errors="replace")
    if done.returncode != 0:
        words = (done.stderr.decode("utf-8", errors="replace").strip() or output.strip()).split()
        said = f": {' '.join(words)[:120]}" if words else ""
        raise UnreadableError(f"{name} failed with status {done.returncode}{said}")
    return output
