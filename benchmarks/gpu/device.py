"""The machine that steps run on: its GPU, the versions that figures depend on, and what works."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from .process import run_command

__all__ = [
    "ROOT",
    "Gpu",
    "Machine",
    "ask",
    "code_digest",
    "commit",
    "environment",
    "find_machine",
    "installed",
    "wheel_libraries",
]

ROOT = Path(__file__).resolve().parent.parent.parent
"""Of the checkout; every command runs there."""

PROBE_SECONDS = 120

PACKAGES = (
    "cuda-bindings",
    "numpy",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-ml-py",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "pydantic",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "torch",
    "triton",
)
"""What a result may depend on."""

CODE = (
    "anydepth_deploy/**/*.py",
    "anydepth_deploy/trained/*.pth",
    "benchmarks/*.py",
    "benchmarks/gpu/*.py",
)
"""What a result depends on, of the checkout."""


@dataclass(frozen=True)
class Gpu:
    """``capability``: as ``sm89``. ``cuda``: the newest version that the driver speaks."""

    name: str
    driver: str
    capability: str
    memory_mib: int
    cuda: str

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "unknown"


@dataclass(frozen=True)
class Machine:
    """``gpu``: None for the reason ``without``. ``code``: a digest of what is run. ``commit``: as
    git tells it, None where there is no git."""

    gpu: Gpu | None
    without: str
    python: str
    versions: Mapping[str, str]
    code: str
    commit: str | None
    host: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same code, device and versions."""
        content = [self.code, self.gpu and asdict(self.gpu), self.python, dict(self.versions)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def find_machine() -> Machine:
    """This machine, as this interpreter sees it."""
    answer = ask("gpu")
    gpu = None
    if answer["reason"] is None:
        gpu = Gpu(driver=_driver() or f"CUDA {answer['found']['cuda']}", **answer["found"])
    return Machine(
        gpu,
        answer["reason"] or "",
        platform.python_version(),
        installed(),
        code_digest(),
        commit(),
        {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
    )


def ask(name: str, libraries: bool = False) -> dict[str, Any]:
    """The answer of a probe: ``reason`` (None where the thing works) and what it ``found``.

    ``libraries``: with those that come in wheels, see :func:`wheel_libraries`.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = run_command(
            [sys.executable, "-m", "benchmarks.gpu.probe", name],
            seconds=PROBE_SECONDS,
            cwd=ROOT,
            log=Path(folder) / "probe",
            environment=environment(libraries),
        )
    lines = done.out.strip().splitlines()
    if done.rc == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    return {"reason": f"looking for it fails: {done.message or 'no answer'}", "found": None}


def installed() -> dict[str, str]:
    """Versions of :data:`PACKAGES`, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def code_digest(root: Path = ROOT) -> str:
    """Of all files that a result depends on: it also tells what git does not know of, and works
    where there is no git."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in CODE for path in root.glob(pattern)}):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def commit(root: Path = ROOT) -> str | None:
    """The commit that is checked out, with ``-modified`` where tracked files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-modified"]
    return _told(command, root)


def environment(libraries: bool = False) -> dict[str, str]:
    """Of every command: this checkout is what is imported, installed or not. ``libraries``: see
    :func:`wheel_libraries`."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, **(wheel_libraries() if libraries else {})}


@functools.cache
def wheel_libraries() -> dict[str, str]:
    """An environment in which ONNX Runtime finds CUDA, cuDNN and TensorRT where they are installed
    as Python packages; torch finds them there by itself."""
    folders = [
        str(folder)
        for place in map(Path, sys.path)
        for pattern in ("nvidia/*/lib", "tensorrt_libs")
        for folder in sorted(place.glob(pattern))
    ]
    known = os.environ.get("LD_LIBRARY_PATH", "")
    return {"LD_LIBRARY_PATH": ":".join([*([known] if known else []), *folders])} if folders else {}


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if (told := _told(command, ROOT)) is not None:
        return told.splitlines()[0].strip()
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _told(command: list[str], cwd: Path) -> str | None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown"
