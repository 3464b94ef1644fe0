"""ONNX Runtime on NVIDIA GPUs, with TensorRT underneath. **Unverified** on hardware.

TensorRT builds engines for the parts of a graph that it can compute when a session is opened or
first runs, which takes minutes, and again for every new batch size; CUDA kernels and the CPU take
the rest. Engines are kept in no file, a bundle stays as it is, unless the environment names a
folder for them: ``ORT_TENSORRT_CACHE_PATH``, as ONNX Runtime calls it.

A precision comes from the graph. TensorRT may only use what the graph is made of: FP16 for FP16
artifacts and for INT8 ones, whose body is FP16, and 8 bits for INT8 ones, which have to be made
for ``tensorrt``.
"""

from __future__ import annotations

import os
from pathlib import Path

from anydepth_deploy.manifest import rounds_to_half
from anydepth_deploy.runtimes.engine import Engine, EngineOptions
from anydepth_deploy.runtimes.onnxruntime.engine import CPU, CUDA, OnnxRuntimeEngine

__all__ = ["CACHE_FOLDER", "open_engine"]

CACHE_FOLDER = "ORT_TENSORRT_CACHE_PATH"
"""Environment variable that names the folder for engines and timings."""


def open_engine(path: Path, options: EngineOptions) -> Engine:
    """Open an ONNX file on the GPU.

    Switches TF32 off in this process (``NVIDIA_TF32_OVERRIDE``), unless the environment says
    otherwise.

    Raises :class:`UsageError` without ONNX Runtime, :class:`DeviceError` where its TensorRT or CUDA
    provider is not installed or does not start, and :class:`BundleError`.
    """
    # The provider has no option for it, TensorRT's own default is on; FP32 means FP32 here.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    provider = ("TensorrtExecutionProvider", _settings(options))
    return OnnxRuntimeEngine(path, options, [provider, CUDA, CPU])


def _settings(options: EngineOptions) -> dict[str, str]:
    artifact = options.artifact
    folder = os.environ.get(CACHE_FOLDER)
    flags = {
        "trt_fp16_enable": artifact is not None and rounds_to_half(artifact),
        "trt_int8_enable": artifact is not None and artifact.precision == "int8",
        # Said either way: ONNX Runtime would take other variables of the environment for it.
        "trt_engine_cache_enable": bool(folder),
        "trt_timing_cache_enable": bool(folder),
    }
    settings = {name: str(value) for name, value in flags.items()}
    if folder:
        settings |= {"trt_engine_cache_path": folder, "trt_timing_cache_path": folder}
    return settings
