"""Devices that engines are built for, by the names that people call them.

Compute capabilities: NVIDIA's list of CUDA GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from anydepth_deploy.errors import UsageError

__all__ = ["ALIASES", "JETSONS", "capabilities"]

ALIASES = {
    "t4": "sm75",
    "a10": "sm86",
    "rtx3090": "sm86",
    "l4": "sm89",
    "l40s": "sm89",
    "rtx4090": "sm89",
    "rtx5090": "sm120",
}

JETSONS = ("xavier", "orin", "thor")
"""Families; ``orin-nano`` and ``agx-orin`` are of one."""


def capabilities(words: Iterable[str]) -> tuple[str, ...]:
    """Compute capabilities (``sm75``) from these and from names of devices (``T4``), in any case,
    each once. What is neither is left as it is, for the builder to refuse.

    Raises :class:`UsageError` for a Jetson.
    """
    return tuple(dict.fromkeys(map(_capability, words)))


def _capability(word: str) -> str:
    name = re.sub(r"[\s_]+", "-", word.strip().lower())
    if {*name.split("-")} & {*JETSONS}:
        raise UsageError(
            f"'{word}' is a Jetson, which TensorRT-RTX does not build for: build on the device, "
            "with --runtime tensorrt and no --target"
        )
    plain = name.replace("-", "")
    return ALIASES.get(plain, plain if re.fullmatch(r"sm[0-9]+", plain) else word)
