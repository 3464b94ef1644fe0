"""Which runtimes of bundles work here, from what their libraries told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anydepth_deploy.machine.probes import Answer
from anydepth_deploy.runtimes.registry import RUNTIMES

__all__ = ["RuntimeHere", "probe_of", "runtimes_here"]

SHARED = {"onnxruntime-cuda": "onnxruntime", "onnxruntime-tensorrt": "onnxruntime"}
"""Runtimes that are in the library of another, by name."""

PROVIDERS = {
    "onnxruntime": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}

INSTALL = {
    "onnxruntime": "pip install 'anydepth-deploy[onnxruntime]'",
    "onnxruntime-cuda": "pip install onnxruntime-gpu",
    "onnxruntime-tensorrt": "pip install onnxruntime-gpu tensorrt",
    "openvino": "pip install 'anydepth-deploy[openvino]'",
    "tensorrt": "pip install tensorrt 'anydepth-deploy[tensorrt]'",
    "tensorrt-rtx": "pip install 'anydepth-deploy[rtx]'",
}

JETSON = {
    "tensorrt": "sudo apt install python3-libnvinfer && pip install 'anydepth-deploy[tensorrt]'",
}
"""Where JetPack brings what pip does not."""


@dataclass(frozen=True)
class RuntimeHere:
    """A runtime: its version (None: not found), whether it works, what it computes on, why it does
    not work, and the line to type for that (None: none helps, or none is needed)."""

    name: str
    version: str | None
    works: bool
    devices: tuple[str, ...]
    reason: str | None
    fix: str | None


def probe_of(runtime: str) -> str:
    """What to ask for a runtime."""
    return SHARED.get(runtime, runtime)


def runtimes_here(
    answers: Mapping[str, Answer], *, gpu: str | None, jetson: bool
) -> list[RuntimeHere]:
    """A row for each of the registry. ``gpu``: the GPU that CUDA finds, if it finds one;
    ``answers`` are by :func:`probe_of`, and of ``cuda``."""
    return [
        _row(
            name,
            row.on_device,
            answers.get(probe_of(name), Answer(reason="not asked")),
            gpu,
            jetson,
        )
        for name, row in RUNTIMES.items()
    ]


def _row(name: str, on_device: bool, told: Answer, gpu: str | None, jetson: bool) -> RuntimeHere:
    version = told.found.get("version")
    install = (JETSON if jetson else {}).get(name) or INSTALL.get(name)
    reason, fix = told.reason, install if told.missing else None
    if reason is None and name in PROVIDERS:
        provider = PROVIDERS[name]
        problems = told.found.get("problems", {})
        if provider not in problems:
            reason, fix = f"this ONNX Runtime has no {provider}", install
        else:
            reason = problems[provider]
    if reason is None and on_device and gpu is None:
        reason = "no NVIDIA GPU that CUDA finds"
    if gpu is None and on_device:
        fix = None  # it would not work then
    devices = (gpu,) if on_device and gpu else tuple(told.found.get("devices", ("CPU",)))
    if name in PROVIDERS and not on_device:
        devices = ("CPU",)
    return RuntimeHere(
        name, version, reason is None, devices if reason is None else (), reason, fix
    )
