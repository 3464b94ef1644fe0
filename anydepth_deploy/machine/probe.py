"""Asks one library what it has here, in a process of its own: importing it may crash or hang.

The answer is one JSON object on standard output; what libraries print goes nowhere.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from anydepth_deploy.errors import AnyDepthError, first_line, in_one_line

__all__ = ["PROBES", "main"]

RELU = bytes.fromhex(
    "080812003a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f0a0179"
    "120a0a08080112040a02080142040a00100d"
)
"""A graph in ONNX: one Relu. What starts with it starts."""

PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider")


def _onnxruntime() -> dict[str, Any]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    available = onnxruntime.get_available_providers()
    problems: dict[str, str | None] = {}
    for name in PROVIDERS:
        if name not in available:
            continue
        try:
            session = onnxruntime.InferenceSession(RELU, providers=[name])
            started = name in session.get_providers()
            problems[name] = None if started else f"{name} does not start here"
        except Exception as error:
            problems[name] = first_line(error)
    return {"version": onnxruntime.__version__, "devices": available, "problems": problems}


def _openvino() -> dict[str, Any]:
    import openvino

    from anydepth_deploy.runtimes.openvino import computes_here

    version = str(openvino.__version__).split("-")[0]
    devices = list(openvino.Core().available_devices)
    return {"version": version, "devices": devices, "computes": [*computes_here()]}


def _tensorrt(runtime: str) -> dict[str, Any]:
    from anydepth_deploy.building.backend import load

    backend = load(runtime)
    return {"version": backend.version, "builds_for": [*backend.known_capabilities]}


def _torch() -> dict[str, Any]:
    import torch

    usable = torch.cuda.is_available()
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if usable else None,
        "devices": [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
        if usable
        else [],
    }


def _nvml() -> dict[str, Any]:
    from anydepth_deploy.bench.sensors.nvml import NvmlError, as_text, load_nvml, open_gpu

    nvml = load_nvml("listing NVIDIA GPUs")

    def tried(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except NvmlError:
            return None

    first = open_gpu(nvml, 0)
    gpus = []
    for index in range(int(nvml.nvmlDeviceGetCount())):
        gpu = open_gpu(nvml, index)
        memory = tried(lambda gpu=gpu: gpu.get("nvmlDeviceGetMemoryInfo"))
        capability = tried(lambda gpu=gpu: gpu.get("nvmlDeviceGetCudaComputeCapability"))
        mig = tried(lambda gpu=gpu: gpu.get("nvmlDeviceGetMigMode"))
        gpus.append(
            {
                "index": index,
                "name": tried(lambda gpu=gpu: as_text(gpu.get("nvmlDeviceGetName"))),
                "capability": capability and "sm{}{}".format(*capability),
                "memory_total": memory and int(memory.total),
                "memory_free": memory and int(memory.free),
                "mig": mig and bool(mig[0]),
            }
        )
    version = tried(lambda: int(first.system("nvmlSystemGetCudaDriverVersion_v2")))
    return {
        "driver": tried(lambda: as_text(first.system("nvmlSystemGetDriverVersion"))),
        "cuda": version and f"{version // 1000}.{version % 1000 // 10}",
        "gpus": gpus,
    }


def _cuda() -> dict[str, Any]:
    from anydepth_deploy.runtimes.tensorrt.cuda import load_cuda

    cuda = load_cuda()
    count = cuda.devices()
    found = cuda.device() if count else None
    driver = cuda.call("cudaDriverGetVersion")
    runtime = cuda.call("cudaRuntimeGetVersion")
    return {
        "devices": count,
        "driver": f"{driver // 1000}.{driver % 1000 // 10}" if driver else None,
        "runtime": f"{runtime // 1000}.{runtime % 1000 // 10}",
        "name": found and found.name,
        "capability": found and found.capability,
        "memory_total": found and found.total,
    }


def _sensors() -> dict[str, Any]:
    from anydepth_deploy.bench.sensors import find_sensors

    found = []
    for sensor in find_sensors("cuda"):
        device, state = sensor.describe(), sensor.read(0.0)
        found.append(
            {
                "kind": device.kind,
                "name": device.name,
                "settings": device.settings,
                "reads": [
                    *(f"clock {name}" for name in state.clocks_mhz),
                    *(f"temperature {name}" for name in state.temperatures_c),
                    *(f"power {name}" for name in state.power_w),
                    *(f"energy {name}" for name in state.energy_j),
                    *(["throttling"] if state.throttle is not None else []),
                ],
                "unknown": device.unknown,
            }
        )
    return {"sensors": found}


def _opener(runtime: str) -> dict[str, Any]:
    """Of a runtime that nothing more is known of."""
    from anydepth_deploy.runtimes.registry import find_runtime

    find_runtime(runtime).load()
    return {"version": None}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": lambda: _tensorrt("tensorrt"),
    "tensorrt-rtx": lambda: _tensorrt("tensorrt-rtx"),
    "torch": _torch,
    "nvml": _nvml,
    "cuda": _cuda,
    "sensors": _sensors,
}
"""What is asked, by name; any other name is that of a runtime."""


def main(words: list[str]) -> None:
    """Answer the question ``words[0]``."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    name = words[0]
    try:
        found = PROBES[name]() if name in PROBES else _opener(name)
        reason, missing = None, False
    except ModuleNotFoundError as error:
        found, reason, missing = {}, f"no package {error.name}", True
    except AnyDepthError as error:
        found, reason, missing = {}, str(error), "not installed" in str(error)
    except BaseException as error:  # whatever an import raises
        found, reason, missing = {}, f"{type(error).__name__}: {first_line(error)}", False
    told = {"found": found, "reason": reason and in_one_line(reason), "missing": missing}
    answer.write(json.dumps(told))
    answer.close()
    os._exit(0)  # libraries that hang at the end have no part in this


if __name__ == "__main__":
    main(sys.argv[1:])
