"""Asks libraries what they have here, all at once, each in a process of its own, for a limited
time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydepth_deploy.errors import in_one_line

__all__ = ["Answer", "ask"]

SECONDS = 20.0
"""That a library may take."""

CHILD = """
import sys
if sys.path[:1] == [""]:
    del sys.path[0]  # a file in the working folder is no library
sys.path.append({folder!r})
from anydepth_deploy.machine.probe import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Answer:
    """``found``: what a library told. ``reason``: why it told nothing; ``missing``: because it is
    not installed."""

    found: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    missing: bool = False


def ask(names: Iterable[str], seconds: float = SECONDS) -> dict[str, Answer]:
    """The answer of each probe, see :data:`~anydepth_deploy.machine.probe.PROBES`, at most
    ``seconds`` after the first was started."""
    children = {name: _start(name) for name in names}
    end = time.monotonic() + seconds
    try:
        return {name: _end(child, end, seconds) for name, child in children.items()}
    finally:  # also after Ctrl-C, which they do not get
        for child in children.values():
            if not isinstance(child, str):
                _kill(child)


def _start(name: str) -> subprocess.Popen[bytes] | str:
    source = str(Path(__file__).parents[2])
    try:
        return subprocess.Popen(
            [sys.executable or "python3", "-c", CHILD.format(folder=source), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"no process can be started: {error.strerror or type(error).__name__}"


def _end(child: subprocess.Popen[bytes] | str, end: float, seconds: float) -> Answer:
    if isinstance(child, str):
        return Answer(reason=child)
    try:
        out, _ = child.communicate(timeout=max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Answer(reason=f"looking for it took over {seconds:g} s")
    try:
        told = json.loads(out)
        return Answer(dict(told["found"]), told["reason"], bool(told["missing"]))
    except (ValueError, KeyError, TypeError):
        return Answer(reason=f"importing it ends the process: {_ended(child.returncode)}")


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End what was started, and what that started."""
    if child.poll() is None:
        with contextlib.suppress(OSError, AttributeError):  # Windows has no groups
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _ended(code: int) -> str:
    if code >= 0:
        return f"status {code}"
    try:
        return in_one_line(signal.Signals(-code).name)
    except ValueError:
        return f"signal {-code}"
