"""``make gpu-pack``: all that was found on this machine, with device and versions, in one file.

Nothing is sent: the file is left in the working folder, for whoever wants to help to look through
and to attach to an issue.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .device import ROOT, Machine, environment
from .process import run_command
from .results import RESULTS, WORK, archive, logs, read_all
from .summary import Outcome, markdown, outcome

__all__ = ["NothingError", "send"]

DOCTOR_SECONDS = 120


class NothingError(Exception):
    """There is nothing to send; the message says what to run first."""


def send(
    path: Path | None,
    machine: Machine,
    *,
    results: Path = RESULTS,
    work: Path = WORK,
    measured: Path = ROOT / "results",
) -> Path:
    """The archive, ``path`` or by default ``anydepth-gpu-DEVICE.tar.gz`` in the working folder.

    In it are ``summary.md``, ``doctor.json``, the results of the steps of this device, their logs
    and samples, and what ``bench`` left in ``measured``, its default folder. Raises
    :class:`NothingError` where no step and no ``bench`` has left anything.
    """
    name = "none" if machine.gpu is None else machine.gpu.folder
    steps = read_all(results / name)
    keys = sorted({str(one["key"]) for one in steps.values()})  # also of a version before this one
    files = [*(results / name).glob("*")] if steps else []
    files += [path for key in keys for path in logs(work / key)]
    files += sorted(measured.glob("*.json"))
    if not files:
        device = machine.gpu.name if machine.gpu else f"this machine ({machine.without})"
        raise NothingError(
            f"there is nothing of {device} to pack: run make gpu first, or anydepth-deploy bench, "
            f"which writes into {measured.name}/"
        )
    summary = markdown(machine, [_told(one, machine) for one in steps.values()], steps)
    target = path or Path(f"anydepth-gpu-{name}.tar.gz")
    archive(
        target,
        [file for file in files if file.name != "summary.md"],
        {"summary.md": summary, "doctor.json": _doctor()},
    )
    return target


def _told(content: Mapping[str, Any], machine: Machine) -> Outcome:
    """What became of a step; with its commit where another version of the code has run it."""
    found = outcome(content, kept=True)
    if content["key"] == machine.key:
        return found
    of = f"with commit {content['commit'] or 'unknown'}"
    return replace(found, why=f"{found.why}; {of}" if found.why else of)


def _doctor() -> str:
    """What ``doctor`` finds, or why it could not say."""
    with tempfile.TemporaryDirectory() as folder:
        done = run_command(
            [sys.executable, "-m", "anydepth_deploy", "doctor", "--json"],
            seconds=DOCTOR_SECONDS,
            cwd=ROOT,
            log=Path(folder) / "doctor",
            environment=environment(),
        )
    return done.out if done.rc == 0 else f"{done.message}\n"
