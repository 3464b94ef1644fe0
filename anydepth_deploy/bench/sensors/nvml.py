"""NVIDIA's management library, as far as one GPU needs it.

A thin layer over ``pynvml`` (package ``nvidia-ml-py``), imported when it is first needed.
Functions and constants: NVML API Reference Manual. Unverified on hardware.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.bench.sensors.sysfs import UnreadableError
from anydepth_deploy.errors import MissingExtraError

__all__ = ["NO_PERMISSION", "Gpu", "NvmlError", "as_text", "gpu_uuid", "load_nvml", "open_gpu"]

NOT_SUPPORTED = 3
NO_PERMISSION = 4


class NvmlError(UnreadableError):
    """A call of NVML that failed; ``code`` is its status, None where there is none."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code

    @property
    def not_supported(self) -> bool:
        """Whether this GPU has no such thing."""
        return self.code == NOT_SUPPORTED


@dataclass(frozen=True)
class Gpu:
    """A GPU by NVML's handle. ``index``: as nvidia-smi counts. ``visible``: how CUDA names it."""

    nvml: Any
    handle: Any
    index: int
    visible: str | None

    def get(self, function: str, *arguments: Any) -> Any:
        """Call ``function`` on this GPU. Raises :class:`NvmlError`."""
        return _call(self.nvml, function, self.handle, *arguments)

    def first(self, *functions: str) -> Any:
        """What the first of ``functions`` gives that this driver has. Raises
        :class:`NvmlError`."""
        for function in functions[:-1]:
            try:
                return self.get(function)
            except NvmlError:
                continue
        return self.get(functions[-1])

    def constant(self, name: str) -> Any:
        """Raises :class:`NvmlError` where this pynvml lacks it."""
        try:
            return getattr(self.nvml, name)
        except AttributeError:
            raise NvmlError(f"this pynvml has no {name}") from None

    def system(self, function: str) -> Any:
        """Call ``function`` of the driver as a whole. Raises :class:`NvmlError`."""
        return _call(self.nvml, function)


def load_nvml(purpose: str) -> Any:
    """``pynvml``, started. Raises :class:`MissingExtraError`, or :class:`NvmlError` where there is
    no driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        raise MissingExtraError("nvidia-ml-py", "nvidia", purpose) from None
    try:
        nvml.nvmlInit()
    except Exception as error:
        raise NvmlError(f"no NVIDIA driver: {error}", getattr(error, "value", None)) from None
    return nvml


def open_gpu(nvml: Any, gpu: int | None) -> Gpu:
    """The GPU with number ``gpu``, as nvidia-smi counts.

    None: the first that ``CUDA_VISIBLE_DEVICES`` names, or else the first of all. Numbers in that
    variable are taken as nvidia-smi's, which CUDA's are not where GPUs of several kinds are mixed:
    set it to :func:`gpu_uuid` before CUDA starts. Raises :class:`NvmlError`.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() if gpu is None else ""
    if named.startswith("MIG-"):
        part = _call(nvml, "nvmlDeviceGetHandleByUUID", named)
        whole = _call(nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", part)
        return Gpu(nvml, whole, int(_call(nvml, "nvmlDeviceGetIndex", whole)), named)
    count = int(_call(nvml, "nvmlDeviceGetCount"))
    if named.startswith("GPU-"):  # a beginning of the UUID is enough for CUDA
        for index in range(count):
            found = _numbered(nvml, index)
            if (found.visible or "").startswith(named):
                return found
        raise NvmlError(f"no GPU {named}, which CUDA_VISIBLE_DEVICES names")
    index = gpu if gpu is not None else int(named) if named.isdecimal() else 0
    if not 0 <= index < count:
        raise NvmlError(f"no GPU {index}: nvidia-smi counts {count} from 0")
    return _numbered(nvml, index)


def gpu_uuid(gpu: int | None) -> str | None:
    """What ``CUDA_VISIBLE_DEVICES`` has to be for CUDA to use the GPU that :func:`open_gpu` opens.

    None where that cannot be found out.
    """
    try:
        return open_gpu(load_nvml("choosing a GPU"), gpu).visible
    except (MissingExtraError, NvmlError):
        return None


def _numbered(nvml: Any, index: int) -> Gpu:
    handle = _call(nvml, "nvmlDeviceGetHandleByIndex", index)
    try:
        uuid = as_text(_call(nvml, "nvmlDeviceGetUUID", handle))
    except NvmlError:
        uuid = None
    return Gpu(nvml, handle, index, uuid)


def _call(nvml: Any, function: str, *arguments: Any) -> Any:
    try:
        return getattr(nvml, function)(*arguments)
    except Exception as error:  # NVMLError, or AttributeError of an old pynvml
        words = " ".join(str(error).split()) or type(error).__name__
        raise NvmlError(words, getattr(error, "value", None)) from None


def as_text(value: object) -> str:
    """Older versions of pynvml give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
