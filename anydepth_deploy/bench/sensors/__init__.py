"""Reading the devices of a machine: processors, NVIDIA GPUs, Jetsons."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from anydepth_deploy.bench.sensors.cpu import CpuSensor
from anydepth_deploy.bench.sensors.jetson import JetsonSensor, is_jetson
from anydepth_deploy.bench.sensors.nvidia import NvidiaSensor
from anydepth_deploy.bench.sensors.nvml import gpu_uuid
from anydepth_deploy.bench.sensors.state import Sensor
from anydepth_deploy.bench.sensors.sysfs import Tree

__all__ = ["CpuSensor", "JetsonSensor", "NvidiaSensor", "find_sensors", "gpu_uuid"]


def find_sensors(
    device: Literal["cpu", "cuda"], *, gpu: int | None = None, root: Path = Path("/")
) -> list[Sensor]:
    """Sensors of what is measured, the device itself first, and of the processors beside it.

    ``gpu``: its number, as nvidia-smi counts. ``root``: where ``/sys`` and ``/proc`` are. A sensor
    that does not work is there all the same, and says why.
    """
    processors = CpuSensor(root)
    if device == "cpu":
        return [processors]
    accelerator = JetsonSensor(root) if is_jetson(Tree(root)) else NvidiaSensor(gpu)
    return [accelerator, processors]
