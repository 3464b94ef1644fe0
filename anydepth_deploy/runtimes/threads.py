"""How many threads a runtime should start where nobody says.

Runtimes count the cores of the machine. In a container with a quota of one core, two threads wait
for each other and for the quota: the slowest tenth of calls take three to eight times as long. So
the quota of control groups and the processors that the process may run on have a say.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path

from anydepth_deploy.reading.cpu_quota import CpuQuota
from anydepth_deploy.reading.system_files import CPU_FOLDER, Tree, UnreadableError

__all__ = ["limited_threads", "usable_cores"]


def limited_threads(root: Path = Path("/"), allowed: Collection[int] | None = None) -> int | None:
    """Threads for one operator where the runtime's own choice would be too many; else None.

    At most the cores that the allowed processors make (two threads of a core count once), and the
    quota, rounded up. ``root`` and ``allowed`` (processors by number) are for tests: the machine's
    own where they are left out.
    """
    processors = _allowed_here() if allowed is None else allowed
    if not processors:
        return None
    tree = Tree(root)
    cores, most = _cores(tree, processors)
    few = len(processors) < len(tree.find(f"{CPU_FOLDER}/cpu[0-9]*"))
    return most if few or most < cores else None


def usable_cores(root: Path = Path("/"), allowed: Collection[int] | None = None) -> int:
    """Cores that this process may keep busy: those of the allowed processors, at most the quota.

    The processors that the system counts where it tells nothing else.
    """
    processors = _allowed_here() if allowed is None else allowed
    return _cores(Tree(root), processors)[1] if processors else os.cpu_count() or 1


def _cores(tree: Tree, processors: Collection[int]) -> tuple[int, int]:
    """Cores that ``processors`` make, and how many of them the quota allows, rounded up."""
    cores = len({_siblings(tree, processor) for processor in processors})
    try:
        quota = CpuQuota(tree).cores()
    except UnreadableError:
        quota = None
    return cores, max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _allowed_here() -> Collection[int]:
    """Processors that this process may run on; none where the system does not tell."""
    ask = getattr(os, "sched_getaffinity", None)  # of Linux
    return () if ask is None else set(ask(0))


def _siblings(tree: Tree, processor: int) -> str:
    """The processors of one core, as a text that is the same for each of them."""
    try:
        return tree.text(f"{CPU_FOLDER}/cpu{processor}/topology/thread_siblings_list")
    except UnreadableError:
        return str(processor)
