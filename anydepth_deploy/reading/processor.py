"""What the processor is called, as Linux tells it; C++ reads it in the same way."""

from __future__ import annotations

import platform
from collections.abc import Callable

from anydepth_deploy.reading.system_files import Tree, UnreadableError

__all__ = ["field_of", "processor_name"]


def processor_name(tree: Tree | None = None) -> str:
    """The model of the processor; of an Arm board, which does not tell, that of the board."""
    files = tree or Tree()
    sources: tuple[Callable[[], str | None], ...] = (
        lambda: field_of(files, "/proc/cpuinfo", "model name"),
        lambda: files.text("/proc/device-tree/model"),
        platform.processor,
        platform.machine,
    )
    for read in sources:
        try:
            name = read()
        except UnreadableError:
            continue
        if name:
            return " ".join(name.split())
    return "unknown processor"


def field_of(tree: Tree, path: str, key: str) -> str | None:
    """The first value of ``key``; None where there is none. Raises :class:`UnreadableError`."""
    for line in tree.text(path).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
