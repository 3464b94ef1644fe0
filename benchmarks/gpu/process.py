"""Commands with a time limit, which leave nothing running behind them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TIMED_OUT", "Finished", "run_command"]

TIMED_OUT = 124
"""The exit status of a command that was ended because its time was over, as ``timeout`` has it."""


@dataclass(frozen=True)
class Finished:
    """How a command ended. ``rc``: its exit status, the negative number of the signal that ended
    it, or :data:`TIMED_OUT`. ``out``, ``err``: what it printed."""

    rc: int
    seconds: float
    out: str
    err: str

    @property
    def message(self) -> str:
        """Why it failed, in a line; empty where it did not."""
        if self.rc == 0:
            return ""
        if self.rc == TIMED_OUT:
            return f"not done after {self.seconds:.0f} s"
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("error:")] or lines[-1:]
        died = f"ended by {signal_name(-self.rc)}" if self.rc < 0 else ""
        return ": ".join(word for word in (died, told[-1][:500] if told else "") if word)


def signal_name(number: int) -> str:
    """``SIGSEGV``, or the number where it has no name here."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def run_command(
    command: Sequence[str],
    *,
    seconds: float,
    cwd: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run ``command`` for at most ``seconds``; what it prints also lies beside ``log``.

    ``environment``: beside this process's own. The whole group of processes is ended when the time
    is over or the caller is interrupted: builders have children of their own.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = log.with_suffix(".out"), log.with_suffix(".err")
    began = time.monotonic()
    with paths[0].open("wb") as out, paths[1].open("wb") as err:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            rc = child.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            rc = TIMED_OUT
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    told = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    return Finished(rc, time.monotonic() - began, *told)
