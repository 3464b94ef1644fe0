"""The machine, its versions, and the memory of this process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from anydepth_deploy.bench.results import Host
from anydepth_deploy.reading.processor import processor_name

__all__ = [
    "describe_host",
    "give_back_memory",
    "peak_memory",
    "resident_memory",
]

PACKAGES = (
    "anydepth-deploy",
    "cuda-bindings",
    "numpy",
    "nvidia-ml-py",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "pillow",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "torch",
)
"""What a latency may depend on."""


def describe_host() -> Host:
    """Processor, cores, memory, system, Python and the versions of packages that are installed."""
    return Host(
        processor=processor_name(),
        cores=os.cpu_count(),
        memory_bytes=_total_memory(),
        system=platform.platform(),
        python=platform.python_version(),
        packages=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def give_back_memory() -> None:
    """Return memory that was freed to the system, where the C library can: what an earlier session
    left behind would hide what the next one takes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_memory() -> int | None:
    """Bytes of this process in memory now; None where the system does not tell."""
    return _status("VmRSS")


def peak_memory() -> int | None:
    """The most bytes of this process that were in memory at any time; None as above."""
    found = _status("VmHWM")
    if found is not None or sys.platform == "win32":
        return found
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(field: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
