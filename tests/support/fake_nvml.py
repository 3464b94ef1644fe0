"""A stand-in for ``pynvml`` with imaginary GPUs; its names and constants are the real one's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

CONSTANTS = (
    "NVML_CLOCK_SM",
    "NVML_CLOCK_MEM",
    "NVML_TEMPERATURE_GPU",
    "NVML_COMPUTEMODE_DEFAULT",
    "NVML_COMPUTEMODE_EXCLUSIVE_THREAD",
    "NVML_COMPUTEMODE_PROHIBITED",
    "NVML_COMPUTEMODE_EXCLUSIVE_PROCESS",
)
NO_PERMISSION, NOT_SUPPORTED, INVALID = 4, 3, 2


class FakeNvmlError(Exception):
    """Like ``pynvml.NVMLError``."""

    def __init__(self, value: int) -> None:
        super().__init__(f"status {value}")
        self.value = value


@dataclass
class FakeGpu:
    """A Tesla T4, a little warm."""

    uuid: str = "GPU-11111111-aaaa"
    name: str | bytes = "Tesla T4"
    sm: int = 1590
    memory: int = 5001
    temperature: int = 61
    milliwatts: int = 68_500
    millijoules: int = 123_456_789
    reasons: int = 0
    compute: list[int] = field(default_factory=list)
    graphics: list[int] = field(default_factory=list)
    clocks: dict[int, list[int]] = field(
        default_factory=lambda: {5001: [1590, 1575, 1005, 990, 300], 405: [300]}
    )
    locked: tuple[int, int] | None = None
    follows: bool = True


class FakeNvml:
    """The driver. ``failing``: calls that fail, with their status. ``calls``: what was called."""

    def __init__(self, *gpus: FakeGpu, failing: dict[str, int] | None = None) -> None:
        self.gpus = gpus or (FakeGpu(),)
        self.failing = failing or {}
        self.calls: list[tuple[Any, ...]] = []

    def install(self, patch: pytest.MonkeyPatch, *, without: tuple[str, ...] = ()) -> FakeNvml:
        """Put in place of pynvml. ``without``: names that an older one lacks."""
        real: Any = importlib.import_module("pynvml")
        module = SimpleNamespace(**{name: getattr(real, name) for name in CONSTANTS})
        for name, function in self._functions().items():
            assert callable(getattr(real, name)), name
            if name not in without:
                setattr(module, name, self._wrapped(name, function))
        patch.setitem(sys.modules, "pynvml", module)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return self

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments after the GPU's handle, of every call of ``name``."""
        return [call[2:] for call in self.calls if call[0] == name]

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            if name in self.failing:
                raise FakeNvmlError(self.failing[name])
            return function(*arguments)

        return call

    def _functions(self) -> dict[str, Callable[..., Any]]:
        def processes(kind: str) -> Callable[[FakeGpu], list[SimpleNamespace]]:
            return lambda gpu: [SimpleNamespace(pid=pid) for pid in getattr(gpu, kind)]

        return {
            "nvmlInit": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "570.86.10",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 12080,
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: self.gpus[index],
            "nvmlDeviceGetHandleByUUID": lambda uuid: ("part", uuid),
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda part: self.gpus[-1],
            "nvmlDeviceGetIndex": lambda gpu: self.gpus.index(gpu),
            "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
            "nvmlDeviceGetName": lambda gpu: gpu.name,
            "nvmlDeviceGetPciInfo": lambda gpu: SimpleNamespace(busId=b"00000000:3B:00.0"),
            "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: gpu.sm, 2: gpu.memory}[kind],
            "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: {1: 1590, 2: 5001}[kind],
            "nvmlDeviceGetApplicationsClock": lambda gpu, kind: {1: 585, 2: 5001}[kind],
            "nvmlDeviceGetTemperature": lambda gpu, kind: {0: gpu.temperature}[kind],
            "nvmlDeviceGetTemperatureV": lambda gpu, kind: {0: gpu.temperature}[kind],
            "nvmlDeviceGetPowerUsage": lambda gpu: gpu.milliwatts,
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 70_000,
            "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: gpu.millijoules,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: gpu.reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: gpu.reasons,
            "nvmlDeviceGetPersistenceMode": lambda gpu: 1,
            "nvmlDeviceGetComputeMode": lambda gpu: 3,
            "nvmlDeviceGetEccMode": lambda gpu: [1, 0],
            "nvmlDeviceGetMigMode": lambda gpu: [0, 0],
            "nvmlDeviceGetComputeRunningProcesses": processes("compute"),
            "nvmlDeviceGetComputeRunningProcesses_v2": processes("compute"),
            "nvmlDeviceGetGraphicsRunningProcesses": processes("graphics"),
            "nvmlDeviceGetGraphicsRunningProcesses_v2": processes("graphics"),
            "nvmlDeviceGetSupportedMemoryClocks": lambda gpu: list(gpu.clocks),
            "nvmlDeviceGetSupportedGraphicsClocks": lambda gpu, memory: gpu.clocks[memory],
            "nvmlDeviceSetGpuLockedClocks": self._lock,
            "nvmlDeviceResetGpuLockedClocks": self._unlock,
        }

    @staticmethod
    def _lock(gpu: FakeGpu, low: int, high: int) -> None:
        gpu.locked = (low, high)
        if gpu.follows:
            gpu.sm = high

    @staticmethod
    def _unlock(gpu: FakeGpu) -> None:
        gpu.locked = None
