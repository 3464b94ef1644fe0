"""ONNX Runtime on NVIDIA GPUs, with its own CUDA kernels. **Unverified** on hardware.

Operators that the CUDA provider lacks are computed on the CPU. INT8 graphs run, those for either
target: their Quantize and Dequantize are computed as they stand and what lies between them in
floating point, so the result is that of 8 bits, the speed is not.
"""

from __future__ import annotations

from pathlib import Path

from anydepth_deploy.runtimes.engine import Engine, EngineOptions
from anydepth_deploy.runtimes.onnxruntime.engine import CPU, CUDA, OnnxRuntimeEngine

__all__ = ["open_engine"]


def open_engine(path: Path, options: EngineOptions) -> Engine:
    """Open an ONNX file on the GPU.

    Raises :class:`UsageError` without ONNX Runtime, :class:`DeviceError` where its CUDA provider is
    not installed or does not start, and :class:`BundleError`.
    """
    return OnnxRuntimeEngine(path, options, [CUDA, CPU])
