"""``make gpu-pack``: all that was found on this machine, with device and versions, in one file.

Nothing is sent: the file is left in the working folder, for whoever wants to help to look through
and to attach to an issue.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .device import ROOT, Machine, environment
from .process import run_command
from .results import RESULTS, WORK, archive, read_all, travels
from .summary import markdown, outcome

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
    files = travels(results / name, work / machine.key) if steps else []
    files += sorted(measured.glob("*.json"))
    if not files:
        device = machine.gpu.name if machine.gpu else f"this machine ({machine.without})"
        raise NothingError(
            f"there is nothing of {device} to pack: run make gpu first, or anydepth-deploy bench, "
            f"which writes into {measured.name}/"
        )
    summary = markdown(machine, [outcome(one, kept=True) for one in steps.values()], steps)
    target = path or Path(f"anydepth-gpu-{name}.tar.gz")
    archive(
        target,
        [file for file in files if file.name != "summary.md"],
        {"summary.md": summary, "doctor.json": _doctor()},
    )
    return target


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
