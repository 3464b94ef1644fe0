"""The memory of a process and of all that it started, while something happens."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

__all__ = ["Peak", "children", "memory"]

PROCESSES = Path("/proc")


def children(pid: int) -> dict[int, str]:
    """The processes that ``pid`` started, and their command lines."""
    found = {}
    for folder in PROCESSES.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            words = (folder / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if int(stat.rsplit(")", 1)[1].split()[1]) == pid:
            found[int(folder.name)] = words.replace(b"\0", b" ").decode("utf-8", "replace")
    return found


def memory(pid: int) -> int:
    """Bytes in use by ``pid`` and its children; what several of them share counts once."""
    return sum(_pages(item) for item in (pid, *children(pid)))


def _pages(pid: int) -> int:
    try:
        text = (PROCESSES / str(pid) / "smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0
    return 1024 * sum(int(value) for value in _values(text))


def _values(text: str) -> Iterator[str]:
    return iter(re.findall(r"^Pss: +(\d+) kB$", text, re.MULTILINE))


class Peak:
    """How far the memory of ``pid`` and its children grows while a ``with`` block runs."""

    def __init__(self, pid: int, every: float = 0.02) -> None:
        self._pid, self._every = pid, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._first = self._most = 0

    def __enter__(self) -> Peak:
        self._first = self._most = memory(self._pid)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        """Bytes more than in the beginning, at the highest."""
        return self._most - self._first

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, memory(self._pid))
            if self._done.wait(self._every):
                self._most = max(self._most, memory(self._pid))
                return
