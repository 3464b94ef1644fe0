"""What a local server leaves behind when it is killed: shared memory, and processes of its models.

Every server has a name of its own, which its shared memory begins with and the command lines of its
processes contain. Beside that memory lies a record of the server's process. Where that process is
gone, nobody else will ever use what carries the name. Whatever has no such record, is somebody
else's, or was recorded in a container, where numbers mean other processes, stays as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SHARED", "clean", "record", "remove", "server_name"]

SHARED = Path("/dev/shm")
"""Where Linux keeps the system's shared memory; empty after a start of the machine."""

PREFIX = "anydepth-server-"
RECORD = "owner"
NAME = re.compile(f"{re.escape(PREFIX)}[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*-")
"""A whole name: a shorter one would take the memory of several servers with it."""
PROCESSES = Path("/proc")


def server_name(token: str) -> str:
    """The name of a server; ``token`` is its own alone: letters, digits, _ and -."""
    return _checked(f"{PREFIX}{token}-")


def record(name: str, pid: int) -> None:
    """Note that the process ``pid`` owns what begins with ``name``."""
    content = {"pid": pid, "started": _started(pid), "namespace": _namespace()}
    path = SHARED / f"{name}{RECORD}"
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(path)


def clean() -> list[str]:
    """End the processes and remove the memory of servers that are gone; returns their names."""
    found = []
    for path in sorted(SHARED.glob(f"{PREFIX}*{RECORD}")):
        name = path.name.removesuffix(RECORD)
        with contextlib.suppress(OSError):  # another start may be cleaning up as well
            # Whoever may write here may also leave a link to a file of ours: that is no record.
            has = path.lstat()
            ours = stat.S_ISREG(has.st_mode) and has.st_uid == os.getuid()
            if NAME.fullmatch(name) and ours and _is_gone(path):
                remove(name)
                found.append(name)
    return found


def remove(name: str) -> None:
    """End what still runs under ``name`` and remove its shared memory, the record last.

    Raises :class:`ValueError` for what is no server's name.
    """
    _checked(name)
    for pid in _processes(name):
        with contextlib.suppress(OSError):  # it may have ended by itself
            handle = os.pidfd_open(pid)
            try:
                if _carries(pid, name):  # still the same process
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
    own = SHARED / f"{name}{RECORD}"
    for path in SHARED.glob(f"{name}*"):
        if path != own:
            path.unlink(missing_ok=True)
    own.unlink(missing_ok=True)


def _is_gone(path: Path) -> bool:
    """Whether the process of a record ended; False where that cannot be told."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pid, started, namespace = (content[key] for key in ("pid", "started", "namespace"))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not isinstance(pid, int) or isinstance(pid, bool) or pid < 1:
        return False
    if not isinstance(started, str) or not started or namespace != _namespace():
        return False
    return _started(pid) != started  # where that cannot be read, `clean` passes over the record


def _started(pid: int) -> str:
    """When a process began, in the machine's own counting: a number may be used again, but not
    with the same beginning. Nothing for a process that ended, also if nobody asked how yet.

    Raises :class:`OSError` where it may be there and only cannot be looked at, as with too many
    files open.
    """
    try:
        fields = (PROCESSES / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *rest = fields.rsplit(")", 1)[1].split()
    return "" if state in "ZX" else rest[18]


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!a} cannot be a server's name: expected {PREFIX}, letters, digits, _ and "
            "single -, and a - at its end"
        )
    return name


def _namespace() -> str:
    """Which numbers of processes are ours: a container has its own."""
    return str((PROCESSES / "self" / "ns" / "pid").readlink())


def _processes(name: str) -> Iterator[int]:
    for folder in PROCESSES.iterdir():
        if folder.name.isdigit() and _carries(int(folder.name), name):
            yield int(folder.name)


def _carries(pid: int, name: str) -> bool:
    """Whether a process of ours was started with an argument that begins with ``name``: Triton
    gives a model's process the name of its shared memory."""
    folder = PROCESSES / str(pid)
    try:
        if folder.stat().st_uid != os.getuid():
            return False
        words = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.startswith(name.encode()) for word in words)
