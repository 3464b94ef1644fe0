"""The processor, memory and disk of this machine, as far as the system tells.

Nothing here raises: what cannot be found out is None.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from anydepth_deploy.reading.cpu_quota import CpuQuota
from anydepth_deploy.reading.processor import field_of, processor_name
from anydepth_deploy.reading.system_files import Tree, UnreadableError
from anydepth_deploy.runtimes.threads import usable_cores

__all__ = ["folder", "memory", "nvidia_on_the_bus", "processor", "system"]

X86 = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "amx_int8": ("amx_int8",),
    "bf16": ("avx512_bf16", "amx_bf16"),
}
ARM = {
    "neon": ("asimd", "neon"),
    "dot_product": ("asimddp",),
    "int8_products": ("i8mm",),
    "fp16": ("asimdhp",),
    "bf16": ("bf16",),
    "sve": ("sve",),
}
"""Features that decide how fast, or how rightly, runtimes compute, and the flags that mean them."""

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
NO_LIMIT = 1 << 60
"""Bytes: control groups of version 1 say no limit with a number beyond all memory."""

NVIDIA = "0x10de"
"""The vendor's number on the PCI bus."""


def system() -> dict[str, Any]:
    """What runs here."""
    return {
        "name": platform.system() or None,
        "platform": platform.platform() or None,
        "machine": platform.machine() or None,
    }


def processor(root: Path = Path("/")) -> dict[str, Any]:
    """Its name, cores, how many of them this process may keep busy, and its features: true, false,
    or null where the system does not tell."""
    tree = Tree(root)
    quota: float | None = None
    with contextlib.suppress(UnreadableError):
        quota = CpuQuota(tree).cores()
    usable: int | None = None
    with contextlib.suppress(OSError, ValueError):
        usable = usable_cores(root)
    return {
        "name": processor_name(tree),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "quota_cores": quota,
        "features": features(tree),
    }


def features(tree: Tree, machine: str | None = None) -> dict[str, bool | None]:
    """The features of an x86 or an Arm processor; none of others."""
    kind = (machine or platform.machine()).lower()
    wanted, key = (ARM, "Features") if kind in ("aarch64", "arm64") else (X86, "flags")
    if wanted is X86 and kind not in ("x86_64", "amd64"):
        return {}
    try:
        told = field_of(tree, "/proc/cpuinfo", key)
    except UnreadableError:
        told = None
    flags = None if told is None else set(told.split())
    return {
        name: None if flags is None else bool(flags & {*names}) for name, names in wanted.items()
    }


def memory(root: Path = Path("/")) -> dict[str, int | None]:
    """Bytes in all, bytes that can be had, and the limit of the container, if there is one."""
    tree = Tree(root)
    found: dict[str, int | None] = {"total": None, "available": None, "limit": None}
    with contextlib.suppress(UnreadableError):
        text = tree.text("/proc/meminfo")
        for name, key in (("total", "MemTotal"), ("available", "MemAvailable")):
            if match := re.search(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE):
                found[name] = int(match[1]) * 1024
    for path in LIMITS:
        try:
            limit = int(tree.text(path))
        except (UnreadableError, ValueError):
            continue
        if limit < min(NO_LIMIT, found["total"] or NO_LIMIT):
            found["limit"] = limit
        break
    return found


def folder(path: Path) -> dict[str, Any]:
    """The working folder: bytes of its disk, and whether it can be written."""
    found: dict[str, Any] = {"path": None, "free": None, "total": None, "writable": None}
    try:
        found["path"] = str(path.absolute())
        usage = shutil.disk_usage(path)
        found |= {"free": usage.free, "total": usage.total}
        with tempfile.TemporaryFile(dir=path):
            found["writable"] = True
    except OSError:
        found["writable"] = False
    return found


def nvidia_on_the_bus(root: Path = Path("/")) -> int | None:
    """How many GPUs of NVIDIA are plugged in, whether there is a driver or not; None where the
    system does not tell."""
    tree = Tree(root)
    devices = tree.find("/sys/bus/pci/devices/*/vendor")
    if not devices:
        return None
    count = 0
    for path in devices:
        with contextlib.suppress(UnreadableError):
            kind = tree.text(f"{path.removesuffix('/vendor')}/class")
            count += tree.text(path) == NVIDIA and kind.startswith("0x03")
    return count
