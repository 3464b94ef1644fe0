"""Whether this CPU multiplies 8-bit numbers without losing any of their sums."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

__all__ = ["lacks_vnni", "why_no_int8"]


@functools.cache
def lacks_vnni() -> bool | None:
    """Whether this is an x86 CPU without VNNI, whose instruction for 8-bit products adds pairs of
    them in 16 bits that saturate; None for an x86 CPU of which nothing is known."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return "avx512_vnni" not in flags and "avx_vnni" not in flags


def why_no_int8(graph: str) -> str | None:
    """Why OpenVINO does not run ``graph``, in INT8, on this CPU; None where it does."""
    if not lacks_vnni():
        return None
    return (
        f"{graph} is INT8, and OpenVINO loses sums of 8-bit products on a CPU without VNNI, as "
        "this one is (13 AP at base of the tiny AnyDepth-DETR): use ONNX Runtime, which does not, "
        "or another precision"
    )
