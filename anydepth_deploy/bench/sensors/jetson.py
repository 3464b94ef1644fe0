"""A Jetson as its kernel shows it: power mode, clocks, thermal zones, power rails, throttling.

From the files that NVIDIA's Jetson Linux Developer Guide names (Platform Power and Performance), so
that no other package is needed. Unverified on hardware.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from anydepth_deploy.bench.sensors.state import Device, State
from anydepth_deploy.bench.sensors.sysfs import (
    Gauge,
    Runner,
    Survey,
    Tree,
    UnreadableError,
    clock_gauges,
    hwmon_folders,
    read_gauges,
    run_command,
    temperature_gauges,
)

__all__ = ["GpuClock", "JetsonSensor", "gpu_clock", "is_jetson"]

MODEL = "/proc/device-tree/model"
RELEASE = "/etc/nv_tegra_release"

DEVFREQ = (
    "/sys/class/devfreq/*gpu*",
    "/sys/class/devfreq/*.ga10b",
    "/sys/class/devfreq/*.gv11b",
    "/sys/class/devfreq/*.gp10b",
    "/sys/devices/gpu.0/devfreq/*",
    "/sys/devices/platform/gpu.0/devfreq/*",
)
"""Where the GPU's clock is, from the newest releases to the oldest."""

MEMORY_CLOCKS = (
    "/sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "/sys/kernel/debug/clk/emc/clk_rate",
)
"""In Hz, for root only."""

_NO_CLOCK = {
    "gpu": "no devfreq of a GPU can be read",
    "emc": f"{MEMORY_CLOCKS[0]} is for root only, where it is",
    "cpu0": "no cpufreq",
}

THROTTLING = ("throttle", "cpufreq", "devfreq", "balanced")
"""In the types of cooling devices that hold clocks down. Fans do not, nor does hot-surface-alert,
which only tells that the case is warm."""

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""What the whole module takes; AGX Orin has no such rail."""

NVPMODEL_SECONDS = 2.0


@dataclass(frozen=True)
class GpuClock:
    """The folder of the GPU's clock, and its bounds in Hz."""

    folder: str
    low: int
    high: int


class JetsonSensor:
    """The module below ``root``; see :class:`~anydepth_deploy.bench.sensors.state.Sensor`.

    ``run``: runs ``nvpmodel``.
    """

    def __init__(self, root: Path = Path("/"), *, run: Runner = run_command) -> None:
        tree = self._tree = Tree(root)
        self._run = run
        self._temperatures = temperature_gauges(tree)
        self._clocks = clock_gauges(tree)
        with contextlib.suppress(UnreadableError):
            self._clocks.append(Gauge("gpu", f"{_gpu_folder(tree)}/cur_freq", 1e-6))
        self._clocks += [Gauge("emc", path, 1e-6) for path in MEMORY_CLOCKS if tree.exists(path)]
        self._rails = _rails(tree)
        self._cooling = _cooling(tree)
        self._events = tree.find("/sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt")

    def describe(self) -> Device:
        """The module, how it is set, and which readings there will not be."""
        tree, survey = self._tree, Survey()
        survey.note("l4t", lambda: _release(tree))
        survey.note("power mode", self._power_mode)
        survey.note("gpu clock", lambda: _say_clock(gpu_clock(tree)))
        survey.note("fan", lambda: _fan(tree))
        state = self.read(0.0)
        for name, reason in _NO_CLOCK.items():
            if name not in state.clocks_mhz:
                survey.missing(f"{name} clock", reason)
        if not state.temperatures_c:
            survey.missing("temperatures", "no thermal zone tells")
        if "total" not in state.power_w:
            rails = f"no rail {TOTAL_RAILS[0]}" if state.power_w else "no ina3221 in hwmon"
            survey.missing("total power", rails)
        if state.throttle is None:
            survey.missing("throttling", "no cooling device tells")
        if state.throttle_events is None:
            survey.missing("throttle events", "no oc*_event_cnt in hwmon")
        try:
            name = tree.text(MODEL)
        except UnreadableError as error:
            name = "unknown Jetson"
            survey.missing("name", error)
        return Device(kind="jetson", name=name, settings=survey.settings, unknown=survey.unknown)

    def read(self, seconds: float) -> State:
        """Clocks, temperatures, power by rail and throttling, as far as they are told.

        ``throttle_events`` counts alarms of too much current or too little voltage, which lower
        clocks for a moment.
        """
        return State(
            seconds=seconds,
            clocks_mhz=read_gauges(self._tree, self._clocks),
            temperatures_c=read_gauges(self._tree, self._temperatures),
            power_w=self._power(),
            throttle=self._throttle(),
            throttle_events=self._count(),
        )

    def _power(self) -> dict[str, float]:
        """Watts: millivolts times milliamperes."""
        values: dict[str, float] = {}
        for name, volts, amperes in self._rails:
            try:
                watts = self._tree.number(volts) * self._tree.number(amperes) * 1e-6
            except UnreadableError:
                continue
            values[name] = watts
        for name in TOTAL_RAILS:
            if name in values:
                values["total"] = values[name]
                break
        return values

    def _throttle(self) -> list[str] | None:
        """Cooling devices at work; None unless all can be read or one is."""
        active, complete = [], bool(self._cooling)
        for name, path in self._cooling:
            try:
                if self._tree.number(path) > 0:
                    active.append(name)
            except UnreadableError:
                complete = False
        return active if active or complete else None

    def _count(self) -> int | None:
        try:
            counts = [int(self._tree.number(path)) for path in self._events]
        except UnreadableError:
            return None
        return sum(counts) if counts else None

    def _power_mode(self) -> str:
        output = self._run(["nvpmodel", "-q"], NVPMODEL_SECONDS)
        match = re.search(
            r"NV Power Mode:[ \t]*(\S[^\r\n]*)(?:\s+(\d+)\s*$)?", output, re.MULTILINE
        )
        if match is None:
            raise UnreadableError(f"nvpmodel says {' '.join(output.split())[:40]!a}")
        name = match[1].strip()
        return f"{name} ({match[2]})" if match[2] else name


def is_jetson(tree: Tree) -> bool:
    """Whether this is a Jetson, by its device tree or the release of its system."""
    if tree.exists(RELEASE):
        return True
    try:
        model = tree.text(MODEL).lower()
    except UnreadableError:
        return False
    return "jetson" in model or ("nvidia" in model and "orin" in model)


def gpu_clock(tree: Tree) -> GpuClock:
    """Where the GPU's clock is set, and between what bounds. Raises :class:`UnreadableError`."""
    folder = _gpu_folder(tree)
    low, high = (int(tree.number(f"{folder}/{end}_freq")) for end in ("min", "max"))
    return GpuClock(folder, low, high)


def _gpu_folder(tree: Tree) -> str:
    for pattern in DEVFREQ:
        for folder in tree.find(pattern):
            if tree.exists(f"{folder}/cur_freq"):
                return folder
    raise UnreadableError("no devfreq of a GPU")


def _say_clock(clock: GpuClock) -> str:
    low, high = clock.low / 1e6, clock.high / 1e6
    return f"locked at {high:g} MHz" if low == high else f"{low:g}-{high:g} MHz, not locked"


def _rails(tree: Tree) -> list[tuple[str, str, str]]:
    """Name, voltage and current of every rail that is measured.

    Further channels of an INA3221 are voltages of shunts, which have no current of their own.
    """
    found = []
    for name, folder in hwmon_folders(tree):
        if not name.startswith("ina3221"):
            continue
        for path in tree.find(f"{folder}/in[0-9]*_label"):
            channel = path.rsplit("/in", 1)[1].removesuffix("_label")
            volts, amperes = f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input"
            try:
                label = tree.text(path)
            except UnreadableError:
                continue
            if label.upper() != "NC" and tree.exists(volts) and tree.exists(amperes):
                found.append((label, volts, amperes))
    return found


def _cooling(tree: Tree) -> list[tuple[str, str]]:
    """Type and state of the cooling devices that hold clocks down."""
    found = []
    for folder in tree.find("/sys/class/thermal/cooling_device*"):
        try:
            name = tree.text(f"{folder}/type")
        except UnreadableError:
            continue
        if any(word in name.lower() for word in THROTTLING):
            found.append((name, f"{folder}/cur_state"))
    return found


def _release(tree: Tree) -> str:
    """``36.4.3`` of ``# R36 (release), REVISION: 4.3, ...``."""
    text = tree.text(RELEASE)
    match = re.search(r"R(\d+)\b[^\n]*?REVISION:\s*([\d.]*\d)", text)
    if match is None:
        raise UnreadableError(f"{RELEASE} says {text[:40]!a}")
    return f"{match[1]}.{match[2]}"


def _fan(tree: Tree) -> str:
    for name, folder in hwmon_folders(tree):
        if "fan" in name and tree.exists(f"{folder}/pwm1"):
            return f"pwm {tree.number(f'{folder}/pwm1'):.0f} of 255"
    raise UnreadableError("no fan in hwmon")
