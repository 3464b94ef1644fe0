"""Result files: one JSON file a step and device, and all of them packed for the way home."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .device import ROOT, Machine
from .process import TIMED_OUT
from .step import Run, Step

__all__ = [
    "FORMAT",
    "RESULTS",
    "WORK",
    "archive",
    "document",
    "kept",
    "logs",
    "pack",
    "read_all",
    "write",
]

RESULTS = ROOT / "benchmarks" / "results" / "gpu"

WORK = ROOT / "build" / "gpu"
"""Networks, bundles, engines, logs and result files with every sample; git ignores it."""

FORMAT = "anydepth-deploy gpu step"


def document(
    step: Step,
    machine: Machine,
    run: Run,
    *,
    when: str,
    seconds: float,
    error: str,
    timed_out: bool,
) -> dict[str, Any]:
    """What is kept of a step that has run. ``error``: why it could not go on, empty where it ran to
    its end. ``rc``: 0 where everything passed, 1 where something failed, 124 for want of time."""
    assert machine.gpu is not None, "steps run on a GPU"
    failed = bool(error) or any(check.rc for check in run.checks)
    rc = TIMED_OUT if timed_out else int(failed)
    return {
        "format": FORMAT,
        "version": 1,
        "step": step.name,
        "what": step.what,
        "when": when,
        "seconds": round(seconds, 1),
        "rc": rc,
        "error": error,
        "key": machine.key,
        "commit": machine.commit,
        "device": asdict(machine.gpu),
        "host": dict(machine.host),
        "python": machine.python,
        "versions": dict(machine.versions),
        "checks": [{**asdict(check), "seconds": round(check.seconds, 1)} for check in run.checks],
        "notes": run.notes,
        "figures": json.loads(run.readable(json.dumps(run.figures))),
    }


def write(folder: Path, content: dict[str, Any], pictures: Path) -> Path:
    """Write a step's result into the device's ``folder``, whole or not at all, and its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['step']}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    for picture in sorted(pictures.glob("*.png")):
        shutil.copy(picture, folder / picture.name)
    return path


def read_all(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in the folder of a device by step; files that are none are left out."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("format") == FORMAT:
            found[str(content["step"])] = content
    return found


def kept(content: dict[str, Any] | None, machine: Machine) -> bool:
    """Whether a result stands: of the same code, device and versions, and not cut off by time."""
    return content is not None and content["key"] == machine.key and content["rc"] != TIMED_OUT


def pack(out: Path, summary: str, results: Path, work: Path) -> None:
    """Leave ``summary.md`` and, where there is something, ``gpu.tar.gz`` in ``out``: two files, for
    machines from which little comes back. The archive unpacks in the root of a checkout; of the
    work it holds logs and result files of ``bench``, no networks and no engines."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.md").write_text(summary, encoding="utf-8")
    if found := [*results.glob("*"), *logs(work)]:
        archive(out / "gpu.tar.gz", found)


def logs(work: Path) -> list[Path]:
    """What of the ``work`` on a device is small and tells something: logs and samples."""
    return [path for pattern in TRAVELS for path in work.glob(pattern)]


def archive(path: Path, files: Sequence[Path], texts: Mapping[str, str] | None = None) -> None:
    """Write ``files``, as they lie in the checkout, and ``texts`` by name into an archive, whole or
    not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with tarfile.open(partial, "w:gz") as packed:
            for name, text in (texts or {}).items():
                content = text.encode()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
            for file in sorted(files):
                packed.add(file, _inside(file))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


TRAVELS = ("*/logs/*", "*/runs/*", "shared/curve-*/*")


def _inside(path: Path) -> Path:
    """Of an archive: as in the checkout, for what lies in it."""
    return path.relative_to(ROOT if path.is_relative_to(ROOT) else path.anchor)
