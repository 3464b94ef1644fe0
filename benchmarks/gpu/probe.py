"""Look for one thing that steps need, and say why it cannot be used.

    python -m benchmarks.gpu.probe torch

In a process of its own: what is installed badly may crash. Prints a line of JSON, ``{"reason":
null}`` where the thing works. The probes are **unverified** where there is a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["PROBES", "MissingError", "main"]

EXPORT = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors", "scipy")
"""What the extra ``export`` brings."""

MAJOR, MINOR = 75, 76
"""Attributes of a device: the two numbers of its compute capability."""


class MissingError(Exception):
    """What was looked for cannot be used; the message says why."""


def gpu() -> dict[str, Any]:
    """The first GPU that CUDA shows, asked of the driver's library alone, which is wherever a GPU
    is, also on Jetson."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise MissingError("NVIDIA's driver (libcuda.so.1) is not installed") from None
    if status := cuda.cuInit(0):
        raise MissingError(f"NVIDIA's driver finds no device (cuInit gives {status})")
    device, number = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGet(ctypes.byref(device), 0):
        raise MissingError("NVIDIA's driver shows no device")
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    digits = []
    for attribute in (MAJOR, MINOR):
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        digits.append(str(number.value))
    cuda.cuDriverGetVersion(ctypes.byref(number))
    return {
        "name": name.value.decode(errors="replace"),
        "capability": f"sm{''.join(digits)}",
        "memory_mib": memory.value >> 20,
        "cuda": f"{number.value // 1000}.{number.value % 1000 // 10}",
    }


def package() -> None:
    """The package and what its command line needs."""
    importlib.import_module("anydepth_deploy.cli")
    for name in ("numpy", "PIL", "pydantic", "rich", "typer"):
        importlib.import_module(name)


def export() -> None:
    for name in EXPORT:
        importlib.import_module(name)


def plot() -> None:
    importlib.import_module("matplotlib")


def evaluation() -> None:
    importlib.import_module("faster_coco_eval")


def sensors() -> None:
    importlib.import_module("pynvml").nvmlInit()


def torch() -> None:
    """torch, and whether it can compute here."""
    module = importlib.import_module("torch")
    if not module.cuda.is_available():
        raise MissingError(f"torch {module.__version__} finds no GPU")
    module.ones(2, device="cuda").sum().item()


def torch_compile() -> None:
    """What torch.compile needs on a GPU, Triton and a C compiler, is tried."""
    module = importlib.import_module("torch")
    module.compile(lambda values: values * 2 + 1)(module.ones(8, device="cuda")).sum().item()


def onnxruntime_cuda() -> None:
    _provider("CUDAExecutionProvider")


def onnxruntime_tensorrt() -> None:
    _provider("TensorrtExecutionProvider")


def tensorrt() -> None:
    _tensorrt("tensorrt")


def tensorrt_rtx() -> None:
    """TensorRT-RTX, which knows the devices that it runs on by name."""
    module = _tensorrt("tensorrt_rtx")
    known = [name for name in module.ComputeCapability.__members__ if name.startswith("SM")]
    capability = gpu()["capability"].upper()
    if capability not in known:
        raise MissingError(
            f"TensorRT-RTX {module.__version__} does not run on {capability} (but on "
            f"{', '.join(sorted(known))})"
        )


def _tensorrt(name: str) -> Any:
    module = importlib.import_module(name)
    for other in ("onnx", "onnx_ir", "onnxruntime", "scipy", "cuda.bindings.runtime"):
        importlib.import_module(other)
    return module


def _provider(name: str) -> None:
    """ONNX Runtime lists providers that do not start for want of a library: one is started."""
    ort = importlib.import_module("onnxruntime")
    if name not in ort.get_available_providers():
        raise MissingError(f"this ONNX Runtime ({ort.__version__}) has no {name}")
    helper = importlib.import_module("onnx.helper")
    values = [helper.make_tensor_value_info(word, 1, [4]) for word in ("x", "y")]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "probe", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(model.SerializeToString())
        session = ort.InferenceSession(str(path), providers=[name])
    if name not in session.get_providers():
        raise MissingError(
            f"{name} of ONNX Runtime {ort.__version__} is installed and does not start"
        )


PROBES: dict[str, Callable[[], Any]] = {
    "gpu": gpu,
    "package": package,
    "export": export,
    "plot": plot,
    "evaluation": evaluation,
    "sensors": sensors,
    "torch": torch,
    "torch-compile": torch_compile,
    "onnxruntime-cuda": onnxruntime_cuda,
    "onnxruntime-tensorrt": onnxruntime_tensorrt,
    "tensorrt": tensorrt,
    "tensorrt-rtx": tensorrt_rtx,
}
"""By name; each raises where the thing cannot be used, with the reason."""


def main(name: str) -> None:
    reason: str | None = None
    found: Any = None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # libraries greet when they are imported
            found = PROBES[name]()
    except ModuleNotFoundError as error:
        reason = f"the Python module {error.name} is not installed"
    except Exception as error:  # whatever a library raises is a reason
        first = (str(error).strip().splitlines() or [""])[0][:300]
        reason = first if isinstance(error, MissingError) else f"{type(error).__name__}: {first}"
    print(json.dumps({"reason": reason, "found": found if isinstance(found, dict) else None}))


if __name__ == "__main__":
    main(sys.argv[1])
