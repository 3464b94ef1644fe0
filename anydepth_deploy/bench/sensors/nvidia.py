"""An NVIDIA GPU as NVML shows it: how it is set, clocks, heat, power, and why clocks are held down.

Not for Jetson, where NVML does not tell. Unverified on hardware.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from anydepth_deploy.bench.sensors.nvml import (
    Gpu,
    NvmlError,
    as_text,
    gpu_uuid,
    load_nvml,
    open_gpu,
)
from anydepth_deploy.bench.sensors.state import Device, State
from anydepth_deploy.bench.sensors.sysfs import Survey, UnreadableError
from anydepth_deploy.errors import MissingExtraError

__all__ = ["HARMLESS", "THROTTLING", "NvidiaSensor", "gpu_uuid", "throttle_reasons"]

THROTTLING = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bits of ``nvmlClocksEventReasons`` that mean less speed than asked for."""

HARMLESS = {
    0x001: "GPU idle",
    0x002: "applications clocks setting",
    0x010: "sync boost",
    0x100: "display clock setting",
}
"""Bits that explain a clock by idleness, or by how it was set."""

UNKNOWN_NAME = "unknown NVIDIA GPU"


def throttle_reasons(bits: int) -> list[str]:
    """The reasons in ``bits`` that count as throttling; one that is not known counts."""
    words = [word for bit, word in THROTTLING.items() if bits & bit]
    rest = bits & ~(sum(THROTTLING) + sum(HARMLESS))
    words += [f"event reason {1 << n:#x}" for n in range(rest.bit_length()) if rest >> n & 1]
    return words


class NvidiaSensor:
    """A GPU; ``gpu``: its number, as nvidia-smi counts, or None, see
    :func:`~anydepth_deploy.bench.sensors.nvml.open_gpu`.

    Power: since Ampere NVML gives an average of the last second, before that a momentary value.
    Energy: a counter since the driver was loaded, from Volta on.
    """

    def __init__(self, gpu: int | None = None) -> None:
        self._gpu: Gpu | None = None
        self._reason = ""
        try:
            self._gpu = open_gpu(load_nvml("reading the sensors of an NVIDIA GPU"), gpu)
        except (MissingExtraError, NvmlError) as error:
            self._reason = str(error)

    def describe(self) -> Device:
        """The GPU, how it is set, and which readings there will not be."""
        if self._gpu is None:
            return Device(
                kind="nvidia", name=UNKNOWN_NAME, unknown=[f"everything ({self._reason})"]
            )
        survey = Survey()
        try:
            name = _name(self._gpu)
        except UnreadableError as error:
            name = UNKNOWN_NAME
            survey.missing("name", error)
        for setting, read in _SETTINGS.items():
            survey.note(setting, partial(read, self._gpu))
        survey.missing("locked clocks", "NVML does not tell what was locked")
        for what, _, _, check in _READINGS:
            survey.check(what, partial(check, self._gpu))
        survey.check("throttling", partial(_event_reasons, self._gpu))
        return Device(kind="nvidia", name=name, settings=survey.settings, unknown=survey.unknown)

    def read(self, seconds: float) -> State:
        """Clocks, temperature, power, energy and throttling, as far as they are told."""
        if self._gpu is None:
            return State(seconds=seconds)
        values: dict[str, dict[str, float]] = {}
        for _, field, key, read in _READINGS:
            try:
                values.setdefault(field, {})[key] = read(self._gpu)
            except UnreadableError:
                continue
        throttle: list[str] | None
        try:
            throttle = throttle_reasons(_event_reasons(self._gpu))
        except UnreadableError:
            throttle = None
        return State.model_validate({"seconds": seconds, "throttle": throttle, **values})


def _clock(gpu: Gpu, function: str, domain: str) -> int:
    """MHz."""
    return int(gpu.get(function, gpu.constant(f"NVML_CLOCK_{domain}")))


def _temperature(gpu: Gpu) -> float:
    """Degrees Celsius."""
    sensor = gpu.constant("NVML_TEMPERATURE_GPU")
    try:
        return float(gpu.get("nvmlDeviceGetTemperature", sensor))
    except NvmlError:  # deprecated since CUDA 13
        return float(gpu.get("nvmlDeviceGetTemperatureV", sensor))


def _event_reasons(gpu: Gpu) -> int:
    return int(
        gpu.first(
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",  # drivers before 535
        )
    )


_READINGS: tuple[tuple[str, str, str, Callable[[Gpu], float]], ...] = (
    ("sm clock", "clocks_mhz", "sm", lambda gpu: _clock(gpu, "nvmlDeviceGetClockInfo", "SM")),
    (
        "memory clock",
        "clocks_mhz",
        "memory",
        lambda gpu: _clock(gpu, "nvmlDeviceGetClockInfo", "MEM"),
    ),
    ("temperature", "temperatures_c", "gpu", _temperature),
    ("power", "power_w", "total", lambda gpu: gpu.get("nvmlDeviceGetPowerUsage") / 1e3),
    (
        "energy",
        "energy_j",
        "total",
        lambda gpu: gpu.get("nvmlDeviceGetTotalEnergyConsumption") / 1e3,
    ),
)
"""What it is, field of State, key there, and how it is read; NVML has mW and mJ."""


def _name(gpu: Gpu) -> str:
    return as_text(gpu.get("nvmlDeviceGetName"))


def _cuda_driver(gpu: Gpu) -> str:
    version = int(gpu.system("nvmlSystemGetCudaDriverVersion_v2"))
    return f"{version // 1000}.{version % 1000 // 10}"


def _on_off(value: object) -> str:
    return "on" if value else "off"


def _mode(gpu: Gpu, function: str) -> str:
    """Of a feature with a current and a pending state; that a GPU lacks it is known, too."""
    try:
        current, pending = gpu.get(function)
    except NvmlError as error:
        if error.not_supported:
            return "not supported"
        raise
    now, then = _on_off(current), _on_off(pending)
    return now if now == then else f"{now}, {then} after a reset"


def _compute_mode(gpu: Gpu) -> str:
    value = gpu.get("nvmlDeviceGetComputeMode")
    names = ("DEFAULT", "EXCLUSIVE_THREAD", "PROHIBITED", "EXCLUSIVE_PROCESS")
    for name in names:
        if value == gpu.constant(f"NVML_COMPUTEMODE_{name}"):
            return name.lower().replace("_", " ")
    return str(value)


def _pci_bus(gpu: Gpu) -> str:
    return as_text(gpu.get("nvmlDeviceGetPciInfo").busId)


def _others(gpu: Gpu) -> str:
    """How many other processes have the GPU open, for computing or drawing.

    In a container with its own process numbers this process cannot be told from others, nor are
    others always shown.
    """
    found = set()
    for kind in ("Compute", "Graphics"):
        function = f"nvmlDeviceGet{kind}RunningProcesses"
        # Drivers before 510 have no third version of this call.
        found |= {process.pid for process in gpu.first(function, f"{function}_v2")}
    return str(len(found - {os.getpid()}))


_SETTINGS: dict[str, Callable[[Gpu], str]] = {
    "driver": lambda gpu: as_text(gpu.system("nvmlSystemGetDriverVersion")),
    "cuda driver": _cuda_driver,
    "index": lambda gpu: str(gpu.index),
    "uuid": lambda gpu: as_text(gpu.get("nvmlDeviceGetUUID")),
    "pci bus": _pci_bus,
    "persistence mode": lambda gpu: _on_off(gpu.get("nvmlDeviceGetPersistenceMode")),
    "compute mode": _compute_mode,
    "power limit": lambda gpu: f"{gpu.get('nvmlDeviceGetEnforcedPowerLimit') / 1e3:g} W",
    "max sm clock": lambda gpu: f"{_clock(gpu, 'nvmlDeviceGetMaxClockInfo', 'SM')} MHz",
    "applications clock": lambda gpu: f"{_clock(gpu, 'nvmlDeviceGetApplicationsClock', 'SM')} MHz",
    "ecc": lambda gpu: _mode(gpu, "nvmlDeviceGetEccMode"),
    "mig": lambda gpu: _mode(gpu, "nvmlDeviceGetMigMode"),
    "other processes": _others,
}
